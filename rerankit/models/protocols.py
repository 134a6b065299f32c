"""What rerankit asks of models that others may bring along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Embedder"]


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors. The embedded model, ``TextEncoder``, and anything of this shape will do."""

    @property
    def model_id(self) -> str:
        """Names weights and revision; stored beside vectors, so that those of two models are never compared."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage") -> NDArray[np.float32]:
        """Vectors of ``texts``: float32 ``[len(texts), dim]``. ``kind`` picks the model's prompt, if it has any."""
        ...
