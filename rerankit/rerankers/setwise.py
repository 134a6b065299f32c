"""Setwise: who is best of a few passages, asked until the best places of the list are settled."""

from __future__ import annotations

from collections.abc import Sequence

from rerankit.rerankers.listwise_steps import Outcome, Question, Steps, Verdict, Window, together
from rerankit.rerankers.permutations import completed

__all__ = ["setwise"]


def setwise(order: Window, window: int, places: int) -> Steps[Outcome]:
    """The best ``places`` by a tree of contests, the rest by how far they came in it, then as in the input.

    Zhuang et al., arXiv:2310.09497, compare as many passages per question in a heap. Here winners move up a tree
    (Knuth, The Art of Computer Programming 3, 5.2.3), every level of which is one batch, and when the champion leaves,
    only the groups on its way up are judged again. Where a verdict tells the whole order of a group, its next best is
    known without asking.

    At most ``ceil((n - 1) / (window - 1)) + levels`` questions for the first place and ``levels`` for each further
    one, where ``levels = ceil(log(n, window))``; one fewer for each further one where verdicts tell whole orders.
    """
    won = dict.fromkeys(order, 0)
    tree: list[list[_Group]] = []
    entrants: Sequence[int] = order
    while not tree or len(tree[-1]) > 1:
        tree.append([_Group(entrants[i : i + window]) for i in range(0, len(entrants), window)])
        yield from together([group.play(won) for group in tree[-1]])
        entrants = [group.passages[0] for group in tree[-1]]
    settled: list[int] = []
    while len(settled) < min(places, len(order)):
        champion = tree[-1][0].passages[0]
        settled.append(champion)
        if len(settled) < places:
            yield from _replay(tree, champion, won)
    return Outcome(completed(settled, sorted(order, key=lambda passage: -won[passage])))


class _Group:
    """One contest. ``passages`` holds the winner first, the others as they came.

    The order of the input decides where a question stays without a verdict.
    """

    def __init__(self, passages: Sequence[int]) -> None:
        self.passages = list(passages)
        self._told: Verdict | None = None

    def play(self, won: dict[int, int]) -> Steps[None]:
        """Find the winner; ``won`` counts the contests that each passage has won by a verdict."""
        if len(self.passages) < 2:
            return
        shown = tuple(sorted(self.passages))
        told = self._told
        if told is None or not (told.complete and set(shown) <= set(told.order)):
            (told,) = yield [Question(shown)]
            self._told = told
        ranked = shown if told is None else told.order
        self.passages = [passage for passage in ranked if passage in shown]
        won[self.passages[0]] += told is not None


def _replay(tree: Sequence[Sequence[_Group]], champion: int, won: dict[int, int]) -> Steps[None]:
    """Take the champion out and let the groups it won find another winner."""
    coming = None
    for groups in tree:
        group = next(group for group in groups if champion in group.passages)
        group.passages = [passage for passage in group.passages if passage != champion]
        if coming is not None:
            group.passages.append(coming)
        yield from group.play(won)
        coming = group.passages[0] if group.passages else None
