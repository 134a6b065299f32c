"""Sliding windows: the order of a long list from orders of short pieces of it."""

from __future__ import annotations

from rerankit.rerankers.listwise_steps import Outcome, Question, Steps, Window

__all__ = ["bubble", "windows"]


def windows(order: Window, window: int, stride: int, calls: int | None = None) -> Steps[Outcome]:
    """From the end of the list up, each window starting ``stride`` places above the one before.

    Sun et al., arXiv:2304.09542 (RankGPT). A window shares ``window - stride`` places with the next, so
    a judge without contradictions settles that many places at the top. The topmost window is a whole one.

    Args:
        order: the list.
        window: passages per question.
        stride: at least 1, at most ``window``.
        calls: with fewer than the whole list takes, only its beginning is judged.
    """
    result = list(order)
    end = len(result) if calls is None else min(len(result), window + (calls - 1) * stride)
    while len(result) > 1:
        start = max(0, end - window)
        (verdict,) = yield [Question(tuple(result[start:end]))]
        if verdict is not None:
            result[start:end] = verdict.order
        if start == 0:
            break
        end = max(end - stride, window)
    return Outcome(tuple(result))


def bubble(order: Window, window: int, places: int, calls: int | None = None) -> Steps[Outcome]:
    """Setwise bubble sort (arXiv:2310.09497): each pass of windows with one passage in common carries the best up.

    At most ``ceil((n - i - 1) / (window - 1))`` questions for place ``i``; passages once judged together are not
    judged together again.
    """
    result = list(order)
    end = len(result) if calls is None else min(len(result), calls * (window - 1) + 1)
    best: dict[frozenset[int], int] = {}
    for place in range(min(places, end - 1)):
        bottom = end
        while bottom > place + 1:
            top = max(place, bottom - window)
            group = tuple(result[top:bottom])
            if (known := frozenset(group)) not in best:
                (verdict,) = yield [Question(group)]
                if verdict is not None:
                    best[known] = verdict.order[0]
            winner = best.get(known, group[0])
            result[top:bottom] = (winner, *(i for i in group if i != winner))
            bottom = top + 1
    return Outcome(tuple(result))
