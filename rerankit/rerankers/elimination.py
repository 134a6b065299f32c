"""Elimination: the least relevant passage leaves, again and again."""

from __future__ import annotations

from rerankit.rerankers.listwise_steps import Outcome, Question, Steps, Window

__all__ = ["elimination"]


def elimination(order: Window, window: int, calls: int | None = None) -> Steps[Outcome]:
    """``n - 1`` questions, one after another.

    Feng et al., arXiv:2506.21638 (IRanker), for lists of up to ``window`` passages. In a longer one the last ``window``
    passages begin, and for each that leaves the next one up comes in: a judge without contradictions settles the best
    ``window - 1`` places.

    Args:
        order: the list.
        window: most passages per question, at least 2.
        calls: with fewer than ``n - 1`` only the beginning of the list is judged.
    """
    end = len(order) if calls is None else min(len(order), calls + 1)
    above, pool = list(order[:end])[:-window], list(order[:end])[-window:]
    out = list(reversed(order[end:]))
    while len(pool) > 1:
        (verdict,) = yield [Question(tuple(pool))]
        worst = pool[-1] if verdict is None else verdict.order[-1]
        pool.remove(worst)
        out.append(worst)
        if above:
            pool.insert(0, above.pop())
    return Outcome((*pool, *reversed(out)))
