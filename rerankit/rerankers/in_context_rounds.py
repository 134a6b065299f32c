"""Lists longer than the context: a tournament of prompts.

A row of attention has a mass of 1 to share among whatever passages are there, so scores of different prompts cannot be
compared, only places within one. Passages are dealt to groups, the best of each group meet again, and so on until all
that are left fit into one prompt; only these have scores that mean something together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Outcome", "tournament"]

Floats = NDArray[np.float64]
Judge = Callable[[list[int]], Floats | None]
"""Scores of some passages shown together, in their order; None when there is no time left."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a list came out.

    Attributes:
        order: all positions, best first.
        scores: float64 ``[n]``, of those that were in the last prompt.
        scored: bool ``[n]``: which these are.
        groups: prompts before the last.
    """

    order: list[int]
    scores: Floats
    scored: NDArray[np.bool_]
    groups: int


def tournament(costs: Sequence[int], room: int, judge: Judge) -> Outcome:
    """Rank a list of any length; one that fits into one prompt takes one.

    Args:
        costs: tokens of each passage; where they do not fit together, each is at most a part in four of ``room``.
        room: tokens for passages in one prompt.
        judge: ranks a group.
    """
    left = list(range(len(costs)))
    out: list[int] = []
    groups = 0
    while sum(costs[i] for i in left) > room:
        dealt = _deal(left, costs, room)
        judged = [_ranked(group, judge) for group in dealt]
        known = [group for group in judged if group is not None]
        groups += len(known)
        quota = room // len(dealt)
        winners = {i for group in known for i in _winners(group, costs, quota)}
        if len(known) < len(dealt):  # no time for the others
            unread = [i for group, ranks in zip(dealt, judged, strict=True) if ranks is None for i in group]
            first = _by_place(known, winners) + _by_place(known, set(left) - winners)
            return _unfinished(first + sorted(unread) + out, groups)
        out = _by_place(known, set(left) - winners) + out
        left = sorted(winners)
    return _final(left, out, groups, judge)


def _final(left: list[int], out: list[int], groups: int, judge: Judge) -> Outcome:
    scores, count = judge(left), len(left) + len(out)
    if scores is None:
        return _unfinished(left + out, groups)
    result, scored = np.zeros(count), np.zeros(count, bool)
    result[left], scored[left] = scores, True
    best = [left[i] for i in np.argsort(-scores, kind="stable")]
    return Outcome(best + out, result, scored, groups)


def _unfinished(order: list[int], groups: int) -> Outcome:
    return Outcome(order, np.zeros(len(order)), np.zeros(len(order), bool), groups)


def _deal(left: Sequence[int], costs: Sequence[int], room: int) -> list[list[int]]:
    """As few groups as can be, dealt in turn, so that the first stage's best do not all meet in one."""
    number = -(-sum(costs[i] for i in left) // room)
    while True:
        groups = [list(left[start::number]) for start in range(number)]
        if all(sum(costs[i] for i in group) <= room for group in groups):
            return groups
        number += 1


def _ranked(group: list[int], judge: Judge) -> list[int] | None:
    scores = judge(group)
    return None if scores is None else [group[i] for i in np.argsort(-scores, kind="stable")]


def _winners(ranked: Sequence[int], costs: Sequence[int], quota: int) -> list[int]:
    """The best of a group, as many as its share of the next prompt holds: at least one, never all of several."""
    kept = [ranked[0]]
    for i in ranked[1:-1]:
        if sum(costs[j] for j in kept) + costs[i] > quota:
            break
        kept.append(i)
    return kept


def _by_place(groups: Sequence[Sequence[int]], among: set[int]) -> list[int]:
    """Some of the passages by their place in their group, then by position."""
    places = {i: place for group in groups for place, i in enumerate(group)}
    return sorted(among & places.keys(), key=lambda i: (places[i], i))
