"""In which batches to run prompts that share beginnings.

The first batch runs whole, and the beginnings are kept from its rows, so that reuse never costs a forward pass of its
own: n prompts in batches of b take ceil(n / b) passes, with or without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerankit.checks import check_whole
from rerankit.models.batching import WASTE
from rerankit.models.prefixes import COMMON, NONE, Shared

__all__ = ["Batch", "Limits", "schedule"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a batch may be.

    Attributes:
        tokens: padded tokens, or None for any number.
        rows: prompts, or None for any number.
    """

    tokens: int | None = None
    rows: int | None = None

    @classmethod
    def of(cls, tokens: int | None, rows: int | None) -> Limits:
        """The limits that a caller asks for.

        Raises:
            InputError: one is below 1.
        """
        check_whole(1, or_none=True, batch_tokens=tokens, batch_size=rows)
        return cls(tokens, rows)

    def allow(self, rows: int, width: int) -> bool:
        """Whether so many rows of that width make one batch; a single row always does."""
        fits = self.tokens is None or rows * width <= self.tokens
        return rows == 1 or (fits and (self.rows is None or rows <= self.rows))


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts to run together.

    Attributes:
        rows: which prompts.
        past: per row the beginning that is known already, or -1.
        keep: beginnings to keep from this batch: number -> position within ``rows``.
    """

    rows: tuple[int, ...]
    past: tuple[int, ...]
    keep: dict[int, int]

    def halves(self) -> tuple[Batch, Batch]:
        """The same in two batches."""
        middle = len(self.rows) // 2
        first = {number: row for number, row in self.keep.items() if row < middle}
        second = {number: row - middle for number, row in self.keep.items() if row >= middle}
        return (
            Batch(self.rows[:middle], self.past[:middle], first),
            Batch(self.rows[middle:], self.past[middle:], second),
        )


def schedule(lengths: Sequence[int], shared: Shared, limits: Limits) -> list[Batch]:
    """Batches in the order in which they must run.

    Args:
        lengths: tokens of each prompt.
        shared: the beginnings that they share.
        limits: of each batch.
    """
    everything = range(len(lengths))
    if not lengths:
        return []
    if limits.allow(len(lengths), max(lengths)):
        return [Batch(tuple(everything), (NONE,) * len(lengths), {})]
    leaders = {group: i for i, group in reversed(list(enumerate(shared.groups))) if group != NONE}
    early = [i for i in everything if shared.groups[i] == NONE or leaders[shared.groups[i]] == i]
    late = [i for i in everything if shared.groups[i] != NONE and leaders[shared.groups[i]] != i]
    late.sort(key=lambda i: shared.lengths[shared.groups[i]])
    surplus = _surplus(len(early), len(late), limits.rows)
    early, late = early + late[:surplus], late[surplus:]
    known = COMMON if shared.common else NONE
    (first, *_) = _cut(early, lengths, limits)
    rest = _cut([i for i in early if i not in set(first)], [n - shared.common for n in lengths], limits)
    last = _cut(late, [n - shared.lengths[max(g, 0)] for n, g in zip(lengths, shared.groups, strict=True)], limits)
    batches = [Batch(tuple(first), (NONE,) * len(first), {COMMON: 0} if shared.common and rest else {})]
    batches += [Batch(tuple(rows), (known,) * len(rows), {}) for rows in rest]
    for batch in batches:
        batch.keep.update({group: batch.rows.index(i) for group, i in leaders.items() if i in batch.rows})
    return batches + [Batch(tuple(rows), tuple(shared.groups[i] for i in rows), {}) for rows in last]


def _surplus(early: int, late: int, rows: int | None) -> int:
    """How many of the late prompts must run early, so that the batches stay full and their number the least."""
    if rows is None:
        return 0
    least = -(-(early + late) // rows)
    return max(0, late - rows * (least - -(-early // rows)))


def _cut(positions: Sequence[int], widths: Sequence[int], limits: Limits) -> list[list[int]]:
    """Positions in batches, the widest first; a batch is closed early when padding would be too much of it."""
    batches: list[list[int]] = []
    width = padding = 0
    for i in sorted(positions, key=lambda i: -widths[i]):
        padding += width - widths[i]
        wasted = limits.tokens is not None and padding > WASTE * limits.tokens
        if batches and not wasted and limits.allow(len(batches[-1]) + 1, width):
            batches[-1].append(i)
        else:
            batches.append([i])
            width, padding = widths[i], 0
    return batches
