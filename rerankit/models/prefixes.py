"""Which beginnings the prompts of one call share: one that all have, and one per group (pairs of one first passage).

Keys and values of a shared beginning are computed once. A prompt always keeps at least one token of its own: those at
which logits are wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NONE", "Shared", "shared_prefixes"]

LEAST = 16
"""Tokens that a shared beginning must save per prompt to be worth keeping."""

NONE, COMMON = -1, 0


@dataclass(frozen=True, slots=True)
class Shared:
    """Beginnings, by number: 0 is common to all prompts, 1 and up belong to a group each.

    Attributes:
        lengths: tokens of each beginning; ``lengths[0]`` is 0 where nothing is common.
        groups: per prompt the number of its group, or -1.
    """

    lengths: tuple[int, ...]
    groups: tuple[int, ...]

    @property
    def common(self) -> int:
        """Tokens that all prompts share."""
        return self.lengths[COMMON]


def shared_prefixes(prompts: Sequence[Sequence[int]], *, capacity: int, own: int = 1) -> Shared:
    """Find the beginnings worth keeping.

    Args:
        prompts: token ids.
        capacity: most tokens of group beginnings to keep at a time; the least useful groups go without.
        own: how many last tokens of every prompt are computed in any case.
    """
    count = len(prompts)
    if count < 2:
        return Shared((0,), (NONE,) * count)
    rows = [np.asarray(prompt, ">u4") for prompt in prompts]
    order = sorted(range(count), key=[row.tobytes() for row in rows].__getitem__)
    overlap = np.array([_overlap(rows[a], rows[b], own) for a, b in itertools.pairwise(order)])
    common = int(overlap.min()) if overlap.min() >= LEAST else 0
    lengths, groups = [common], np.full(count, NONE)
    for start, end, length in _largest(_runs(overlap, common), common, capacity):
        groups[order[start:end]] = len(lengths)
        lengths.append(length)
    return Shared(tuple(lengths), tuple(groups.tolist()))


def _overlap(a: NDArray[np.uint32], b: NDArray[np.uint32], own: int) -> int:
    """How many tokens two prompts have in common from the start, short of either's own last ones."""
    size = min(len(a), len(b)) - own
    if size <= 0:
        return 0
    different = a[:size] != b[:size]
    first = int(different.argmax())
    return first if different[first] else size


def _runs(overlap: NDArray[np.int64], common: int) -> list[tuple[int, int, int]]:
    """Runs ``(start, end, shared tokens)`` of neighbours in sorted order, cut where that saves most."""
    best, best_saving = [], 0
    for least in sorted({common + (extra // LEAST) * LEAST for extra in (overlap - common).tolist()} - {common}):
        edges = np.flatnonzero(overlap >= least)
        starts = np.flatnonzero(np.diff(edges, prepend=-2) > 1)
        shortest = np.minimum.reduceat(overlap[edges], starts)
        sizes = np.diff(np.append(starts, len(edges)))
        saving = int(((shortest - common) * sizes).sum())
        if saving > best_saving:
            first = edges[starts]
            best = list(zip(first.tolist(), (first + sizes + 1).tolist(), shortest.tolist(), strict=True))
            best_saving = saving
    return best


def _largest(runs: list[tuple[int, int, int]], common: int, capacity: int) -> list[tuple[int, int, int]]:
    """The runs that save most and fit together into ``capacity``."""
    kept = []
    for run in sorted(runs, key=lambda run: -(run[1] - run[0] - 1) * (run[2] - common)):
        if run[2] <= capacity:
            kept.append(run)
            capacity -= run[2]
    return kept
