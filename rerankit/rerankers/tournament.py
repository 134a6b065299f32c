"""Tournament: stages of groups, in each of which a share survives and earns a point."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from rerankit.rerankers.listwise_steps import Outcome, Question, Steps, Verdict, Window, shuffled, together

__all__ = ["stages", "tournament"]


def tournament(order: Window, window: int, rounds: int, random: np.random.Generator) -> Steps[Outcome]:
    """``rounds`` tournaments side by side; the score is the mean number of stages survived.

    Chen et al., arXiv:2406.11678 (TourRank). Equal points are told apart by the order in which a group's
    best were named, then by that of the input. A group without a verdict lets its first passages pass.

    Args:
        order: the list.
        window: most passages per group.
        rounds: how many tournaments; each shuffles its groups anew.
        random: for the shuffles.
    """
    played = yield from together([_round(order, window, one) for one in random.spawn(rounds)])
    points = {passage: sum(result[passage][0] for result in played) / rounds for passage in order}
    places = {passage: sum(result[passage][1] for result in played) for passage in order}
    ranked = sorted(order, key=lambda passage: (-points[passage], places[passage]))
    return Outcome(tuple(ranked), points)


def stages(count: int, window: int) -> list[tuple[int, list[int]]]:
    """Per stage the number of groups and how many survive of each.

    100 passages in groups of up to 20 go 50, 20, 10, 5, 2 as in the paper, in 5, 5, 1, 1 and 1 groups: 13 questions.
    Two that have not met in the last stage meet in one more.
    """
    result: list[tuple[int, list[int]]] = []
    while count > 2 or (count == 2 and (not result or result[-1][0] > 1)):
        target = _largest_below(count)
        fewest = -(-count // window)
        even = (groups for groups in range(fewest, 2 * fewest + 1) if count % groups == target % groups == 0)
        groups = next(even, fewest)
        result.append((groups, [target // groups + (i < target % groups) for i in range(groups)]))
        count = target
    return result


def _largest_below(count: int) -> int:
    """The largest of 1, 2, 5, 10, 20, 50, 100 ... below ``count``."""
    powers = (int(10**exponent) for exponent in range(len(str(count))))
    return max(size for power in powers for size in (power, 2 * power, 5 * power) if size < count)


def _round(order: Window, window: int, random: np.random.Generator) -> Steps[dict[int, tuple[int, float]]]:
    """Per passage its points, and its place in the last group that told it, from 0 (first) to 1 (none did)."""
    points: dict[int, int] = defaultdict(int)
    place: dict[int, float] = dict.fromkeys(order, 1.0)
    alive = list(order)
    for groups, picks in stages(len(alive), window):
        parts = [tuple(alive[i::groups]) for i in range(groups)]
        drawn = [Question(part, pick, shuffled(part, random)) for part, pick in zip(parts, picks, strict=True)]
        asked = [question for question in drawn if question.pick < len(question.window)]
        told = dict(zip(asked, (yield asked), strict=True))
        survivors: set[int] = set()
        for question in drawn:
            verdict = told.get(question) or Verdict(question.window, complete=False)
            ranked = verdict.order if verdict.complete else verdict.order[: question.pick]
            place.update({passage: i / len(question.window) for i, passage in enumerate(ranked)})
            survivors.update(ranked[: question.pick])
        alive = [passage for passage in alive if passage in survivors]
        for passage in alive:
            points[passage] += 1
    return {passage: (points[passage], place[passage]) for passage in order}
