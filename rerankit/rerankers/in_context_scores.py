"""From attention per token to a score per passage.

Chen et al. (arXiv:2410.02642): of each passage, tokens whose calibrated attention is far below the passage's own mean
are dropped, the others are added up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rerankit.rerankers.evidence import matched_spans
from rerankit.types import Span

Floats = NDArray[np.float64]
LengthNorm = Literal["sum", "mean", "sqrt"]

STANDS_OUT = 1.0
"""Evidence are tokens so many standard deviations above their passage's mean."""


def by_passage(tokens: Floats, spans: Sequence[tuple[int, int]]) -> list[Floats]:
    """Attention of each passage's tokens.

    Args:
        tokens: float64 ``[columns]``, from the first passage's first token on.
        spans: ``[start, stop)`` of each passage, in the same count of tokens.
    """
    first = spans[0][0]
    return [tokens[start - first : stop - first] for start, stop in spans]


def passage_score(tokens: Floats, sigma: float | None, norm: LengthNorm) -> float:
    """One passage's score.

    Args:
        tokens: float64 ``[n]``; 0 where there are none.
        sigma: drop tokens below mean - sigma * standard deviation (unbiased); None keeps all.
        norm: ``sum`` as published, or divided by the number of tokens (``mean``) or its square root (``sqrt``), so that
            long passages gain less from being long.
    """
    kept = tokens
    if sigma is not None and len(tokens) > 1:
        low = tokens < tokens.mean() - sigma * tokens.std(ddof=1)
        kept = tokens[~low]  # what is no number is kept, so that the score shows it
    count = max(len(tokens), 1)
    divisor = {"sum": 1.0, "mean": float(count), "sqrt": math.sqrt(count)}[norm]
    return float(kept.sum()) / divisor


def evidence(text: str, tokens: Floats, offsets: NDArray[np.int64], shift: int) -> tuple[Span, ...]:
    """The places of a passage that were looked at most.

    Args:
        text: the passage's text.
        tokens: float64 ``[n]``, without its number.
        offsets: int ``[n, 2]``: the tokens' characters in what was shown.
        shift: characters shown before the text (the title).
    """
    if len(tokens) == 0:
        return ()
    bound = min(tokens.mean() + STANDS_OUT * tokens.std(), tokens.max())
    high = (tokens > 0) & (tokens >= bound) & (offsets[:, 0] >= shift)
    matches = [
        (_after_blanks(text, int(start) - shift, int(end) - shift), int(end) - shift, float(weight))
        for (start, end), weight in zip(offsets[high], tokens[high], strict=True)
    ]
    return matched_spans(text, matches)


def _after_blanks(text: str, start: int, end: int) -> int:
    """Where a token's word begins: many tokenizers count the blank before a word to it."""
    while start < end and text[start].isspace():
        start += 1
    return start
