"""Which pairs to compare next: four methods, each a generator of batches.

A method yields pairs whose verdicts it needs, and looks at them in the :class:`Comparisons` when it is resumed. It may
be closed at any yield, with what it asked for answered in part or not at all; ``order`` is then the best so far.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerankit.rerankers.comparisons import Comparisons, Pair

__all__ = ["all_pairs", "heapsort", "sliding", "swiss"]

Batches: TypeAlias = Generator[Sequence[Pair], None, None]
Floats: TypeAlias = NDArray[np.float64]


BATCH = 512
"""Pairs that ``allpair`` asks for at a time: enough to keep any model busy, and made before anybody has to wait."""


def all_pairs(known: Comparisons, *, in_rounds: bool) -> Batches:
    """Every pair: ``n (n - 1)`` questions.

    Pairs of early passages first, so that a budget leaves a front whose passages have all met, ``BATCH`` at a time. In
    rounds of growing distance in the input, so that later rounds may follow from earlier ones.
    """
    size = len(known)
    if in_rounds:
        for distance in range(1, size):
            yield [(i, i + distance) for i in range(size - distance)]
    else:
        pairs = ((i, j) for j in range(size) for i in range(j))
        while batch := list(itertools.islice(pairs, BATCH)):
            yield batch


def heapsort(known: Comparisons, places: int, order: list[int]) -> Batches:
    """The best ``places`` in their order, the rest as wins so far demand, else as in the input.

    The heap is a tree of contests (tree selection; Knuth, The Art of Computer Programming 3, 5.2.3): a winner moves up,
    and when the champion leaves, only its own path is played again. That takes ``n - 1 + places log2 n`` pairs, about
    half of what sifting down a binary heap does, and every level of the first build is one batch. A tie goes to the
    passage that was earlier in the input.
    """
    size = 1 << max(0, len(known) - 1).bit_length()
    tree = [-1] * size + list(range(len(known))) + [-1] * (size - len(known))
    settled: list[int] = []
    try:
        level = size // 2
        while level:
            yield _open_contests(tree, range(level, 2 * level))
            _play(tree, range(level, 2 * level), known)
            level //= 2
        while len(settled) < places:
            settled.append(tree[1])
            node = size + tree[1]
            tree[node] = -1
            while len(settled) < places and node > 1:
                node //= 2
                yield _open_contests(tree, [node])
                _play(tree, [node], known)
    finally:
        chosen = set(settled)
        order[:] = settled + known.extension([i for i in range(len(known)) if i not in chosen])


def _open_contests(tree: Sequence[int], nodes: Sequence[int]) -> list[Pair]:
    contests = [(tree[2 * node], tree[2 * node + 1]) for node in nodes]
    return [(min(pair), max(pair)) for pair in contests if -1 not in pair]


def _play(tree: list[int], nodes: Sequence[int], known: Comparisons) -> None:
    for node in nodes:
        first, second = sorted((tree[2 * node], tree[2 * node + 1]))
        tree[node] = second if first == -1 or known.beats(second, first) else first


def sliding(known: Comparisons, passes: int, order: list[int]) -> Batches:
    """``passes`` bubble passes from the back: each carries the best of what is left to its place.

    A pass follows two places behind the one before it: the swaps are those of one pass after another, in
    ``n + 2 passes`` batches in place of ``n * passes``.
    """
    last = len(order) - 1
    for tick in range(last + 2 * (passes - 1)):
        places = [last - tick + 2 * number for number in range(passes)]
        places = [place for number, place in enumerate(places) if number < place <= last]
        yield [(order[place - 1], order[place]) for place in places]
        for place in places:
            if known.beats(order[place], order[place - 1]):
                order[place - 1], order[place] = order[place], order[place - 1]


def swiss(
    known: Comparisons, rounds: int | None, settle: bool, order: list[int], strengths: Callable[[], Floats]
) -> Batches:
    """Rounds in which everyone meets a neighbour of about the same strength, then the pairs that are still unclear.

    Args:
        known: the comparisons.
        rounds: in each, passages are paired down the current order with the nearest one that they have not met, as in
            PRP-Graph (ACL 2024). None: log2 n, as tournaments have them.
        settle: then compare neighbours that have not met, the closest first, until all have: for a judge without
            contradictions that is the whole order.
        order: set to the outcome.
        strengths: of all passages, by what is known, float64 ``[n]``.
    """

    def update() -> Floats:
        """The order by strength, of two neighbours that have met the winner in front; hopeless cases last."""
        values = strengths()
        order[:] = known.mended(np.lexsort((-values, known.fruitless)).tolist())
        return values

    def strangers(values: Floats) -> list[Pair]:
        """Neighbours in the order that have not met, the least certain first."""
        pairs = [pair for pair in itertools.pairwise(order) if not known.met(*pair)]
        return sorted(pairs, key=lambda pair: abs(values[pair[0]] - values[pair[1]]))

    values = update()
    try:
        for _ in range(math.ceil(math.log2(max(len(known), 2))) if rounds is None else rounds):
            yield _swiss_round(known, order)
            values = update()
        while settle and (pairs := strangers(values)):
            yield pairs
            values = update()
    finally:
        update()


def _swiss_round(known: Comparisons, order: Sequence[int]) -> list[Pair]:
    left = list(order)
    pairs = []
    while left:
        passage = left.pop(0)
        partner = next((other for other in left if not known.met(passage, other)), None)
        if partner is not None:
            left.remove(partner)
            pairs.append((passage, partner))
    return pairs
