"""Which class stands for ``compressed:MODEL``: a look at the model's ``config.json`` tells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rerankit.models.resrank_files import is_resrank

if TYPE_CHECKING:
    from rerankit.rerankers.base import Reranker

__all__ = ["compressed_class"]


def compressed_class(model: object) -> type[Reranker]:
    """``Compressed`` for folders that ``rerankit train compressed`` made, ``E2Rank`` for all other models.

    Args:
        model: a folder, a name on the Hugging Face hub, or what ``E2Rank`` takes.

    Raises:
        ModelError: the folder's ``config.json`` is damaged.
    """
    if isinstance(model, (str, Path)) and is_resrank(model):
        from rerankit.rerankers.compressed import Compressed

        return Compressed
    from rerankit.rerankers.e2rank import E2Rank

    return E2Rank
