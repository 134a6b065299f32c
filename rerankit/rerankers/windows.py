"""Long passages: cut into windows that fit the model, score each, put the scores back together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Aggregate = Literal["max", "top2-mean"]

TITLE_SHARE = 4
"""A title may take one part in so many of a passage's room; the rest of a longer one is counted as truncated."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Where a passage was cut.

    Attributes:
        spans: character offsets ``[start, end)`` into the passage's text; at least one.
        truncated_tokens: tokens that lie in no window.
    """

    spans: tuple[tuple[int, int], ...]
    truncated_tokens: int = 0


def aggregate(scores: NDArray[np.float64], how: Aggregate) -> float:
    """One passage score from the scores of its windows ``[n >= 1]``.

    ``max`` rewards the best place; ``top2-mean`` asks that a second place agrees.
    """
    if how == "max" or len(scores) == 1:
        return float(scores.max())
    return float(np.sort(scores)[-2:].mean())
