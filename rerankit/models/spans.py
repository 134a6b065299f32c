"""Cut a long text into overlapping windows of tokens, at word boundaries where there are any."""

from __future__ import annotations

from rerankit.errors import InputError
from rerankit.models.tokens import Tokens

OVERLAP = 0.125
"""Share of a window that the next one repeats, so that a sentence on a cut is whole in one of them."""

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


def _word_start(text: str, tokens: Tokens, low: int, high: int) -> int:
    """The last token in the upper half of ``(low, high]`` that begins a word; ``high`` if there is none."""
    if high >= len(tokens):
        return high
    for position in range(high, (low + high) // 2, -1):
        start = int(tokens.offsets[position, 0])
        if start == 0 or text[start].isspace() or text[start - 1].isspace():
            return position
    return high
