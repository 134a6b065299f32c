"""Groups: ratings of passages that are seen side by side, all groups at once."""

from __future__ import annotations

import itertools

import numpy as np

from rerankit.rerankers.listwise_steps import Outcome, Question, Steps, Window, shuffled
from rerankit.rerankers.permutations import completed

__all__ = ["groups"]


def groups(order: Window, window: int, repeats: int, random: np.random.Generator) -> Steps[Outcome]:
    """Each passage rated in ``repeats`` groups; the score is the mean of the ratings there are.

    Sun et al., arXiv:2511.11653 (GroupRank). The first time groups are pieces of the list, then they are drawn anew. A
    rating that is missing is missing, not 0. ``repeats * ceil(n / window)`` questions, in one batch.
    """
    count = -(-len(order) // window)
    asked = []
    for repeat in range(repeats):
        drawn = order if repeat == 0 else shuffled(order, random)
        size, larger = divmod(len(order), count)
        starts = [i * size + min(i, larger) for i in range(count + 1)]
        asked += [Question(drawn[start:end]) for start, end in itertools.pairwise(starts)]
    verdicts = yield asked
    told: dict[int, list[float]] = {}
    for verdict in verdicts:
        for passage, rating in (verdict.ratings if verdict is not None else {}).items():
            told.setdefault(passage, []).append(rating)
    means = {passage: sum(told[passage]) / len(told[passage]) for passage in order if passage in told}
    return Outcome(completed(sorted(means, key=lambda passage: -means[passage]), order), means)
