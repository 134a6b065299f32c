"""From the two logits per token of a span head to answers: best spans, and how they stand against the null span."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError
from rerankit.models.span_frame import Window

__all__ = ["AnswerSpan", "Found", "decode"]

LONGEST = 48
"""Tokens of a span at most."""

_CANDIDATES = 64


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """A piece of a passage that may answer.

    Attributes:
        start, end: characters in the passage's text.
        text: the piece.
        score: log-odds against the null span of its window: over 0, the model prefers it to no answer.
    """

    start: int
    end: int
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class Found:
    """What one window holds.

    Attributes:
        spans: best first, no two overlap.
        null_score: sum of the two logits of ``[CLS]``.
        score: log-odds that the window answers: of all starts and all ends against the null span's.
    """

    spans: tuple[AnswerSpan, ...]
    null_score: float
    score: float


def decode(logits: NDArray[np.float32], window: Window, text: str, keep: int) -> Found:
    """The answers in one window.

    Args:
        logits: ``[t', 2]``, of starts and ends, padding included.
        window: what the model read.
        text: the passage that its offsets count in.
        keep: most spans.

    Raises:
        ModelError: a logit is not finite.
    """
    count = len(window.offsets)
    read = logits[: window.first + count].astype(np.float64)
    if not np.isfinite(read).all():
        raise ModelError("The reader's logits are not finite: its weights are damaged, or do not suit this device")
    null = float(read[0].sum())
    starts, ends = read[window.first :].T
    pairs = starts[:, None] + ends[None, :] - null
    pairs[np.tril_indices(count, -1)] = pairs[np.triu_indices(count, LONGEST)] = -np.inf
    order = np.argsort(-pairs, axis=None, kind="stable")[:_CANDIDATES]
    chosen: list[tuple[int, int]] = []
    for first, last in zip(*np.unravel_index(order, pairs.shape), strict=True):
        if len(chosen) < keep and pairs[first, last] > -np.inf and not any(first <= b and a <= last for a, b in chosen):
            chosen.append((int(first), int(last)))
    spans = tuple(_span(text, window, pairs, first, last) for first, last in chosen)
    return Found(spans, null, float(np.logaddexp.reduce(starts) + np.logaddexp.reduce(ends)) - null)


def _span(text: str, window: Window, pairs: NDArray[np.float64], first: int, last: int) -> AnswerSpan:
    start, end = int(window.offsets[first, 0]), int(window.offsets[last, 1])
    return AnswerSpan(start, end, text[start:end], float(pairs[first, last]))
