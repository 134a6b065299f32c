"""Cut a long text into overlapping windows of tokens, at word boundaries where there are any."""

from __future__ import annotations

from rerankit.errors import InputError
from rerankit.models.tokens import TokenCache, Tokens

OVERLAP = 0.125
"""Share of a window that the next one repeats, so that a sentence on a cut is whole in one of them."""

CHARACTERS = 6
"""A first guess of the characters per token, above what prose has; wrong only costs a second reading."""

SAMPLE = 20_000
"""Characters after which the tokens of an unread rest are estimated, not counted."""

SLACK = 2
"""Tokens left free in every window: with byte-level tokenizers a word may take more of them when it comes first."""


def windows(text: str, tokens: Tokens, capacity: int) -> list[tuple[int, int]]:
    """Character spans ``[start, end)`` that cover ``text``, each of at most ``capacity`` tokens.

    Cuts lie between words. Only a word of more than half a window is cut inside; its parts may then come out a few
    tokens longer than the whole.

    Args:
        text: the text.
        tokens: its tokens.
        capacity: tokens per window.

    Raises:
        InputError: ``capacity`` is below 1.
    """
    if capacity < 1:
        raise InputError(f"No room for text: {capacity} tokens left per window")
    count = len(tokens)
    if count <= capacity:
        return [(0, len(text))]
    capacity = max(1, capacity - SLACK)
    spans = []
    first = 0
    while True:
        last = _word_start(text, tokens, first, min(first + capacity, count))
        start = int(tokens.offsets[first, 0]) if first else 0
        end = int(tokens.offsets[last - 1, 1]) if last < count else len(text)
        spans.append((start, end))
        if last >= count:
            return spans
        step_back = int((last - first) * OVERLAP)
        first = max(first + 1, _word_start(text, tokens, first, last - step_back))


def first_windows(text: str, cache: TokenCache, capacity: int, limit: int | None) -> list[tuple[int, int]]:
    """The first ``limit`` of :func:`windows`, without tokenising much more of the text; all for None.

    Raises:
        InputError: ``capacity`` or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    read = len(text) if limit is None else (limit + 1) * max(capacity, 16) * CHARACTERS
    while True:
        part = text[:read]
        spans = windows(part, cache.encode([part])[0], capacity)
        if read >= len(text) or (limit is not None and len(spans) > limit):
            return spans[:limit]
        read *= 4


def estimate(text: str, cache: TokenCache) -> int:
    """How many tokens a text has; beyond ``SAMPLE`` characters extrapolated from its beginning."""
    sample = text[:SAMPLE]
    return round(len(cache.encode([sample])[0]) * len(text) / len(sample)) if sample else 0


def _word_start(text: str, tokens: Tokens, low: int, high: int) -> int:
    """The last token in the upper half of ``(low, high]`` that begins a word; ``high`` if there is none."""
    if high >= len(tokens):
        return high
    for position in range(high, (low + high) // 2, -1):
        start = int(tokens.offsets[position, 0])
        if start == 0 or text[start].isspace() or text[start - 1].isspace():
            return position
    return high
