"""From matched tokens to the few places of a text that carried a score."""

from __future__ import annotations

from collections.abc import Sequence

from rerankit.types import Span

GAP = 24
"""Matches at most so many characters apart count as one place."""

PLACES = 3


def matched_spans(text: str, matches: Sequence[tuple[int, int, float]]) -> tuple[Span, ...]:
    """The places with the largest shares of the score, best first.

    Args:
        text: the passage.
        matches: per query token, characters ``[start, end)`` of the passage token it matched, and what that match
            adds to the score. Matches that add nothing are left out.

    Returns:
        At most three spans of whole words; their weights are shares of all matches together.
    """
    useful = sorted((start, end, weight) for start, end, weight in matches if weight > 0 and end > start)
    total = sum(weight for *_, weight in useful)
    places: list[tuple[int, int, float]] = []
    for start, end, weight in useful:
        if places and start - places[-1][1] <= GAP:
            first, last, sum_so_far = places[-1]
            places[-1] = first, max(last, end), sum_so_far + weight
        else:
            places.append((start, end, weight))
    best = sorted(places, key=lambda place: (-place[2], place[0]))[:PLACES]
    return tuple(Span(*_whole_words(text, start, end), weight / total) for start, end, weight in best)


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start > 0 and text[start - 1].isalnum() and text[start].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum() and text[end - 1].isalnum():
        end += 1
    return start, end
