"""Relevance scores in [0, 1], which Cohere, Jina, Voyage and TEI promise, from the scales that rerankers have.

Each map rises with the score, so it never changes an order. Only a calibrated probability has an absolute meaning:

| scale | relevance |
|---|---|
| calibrated, or ``probability`` | the probability |
| ``logit``, ``z-score`` | ``1 / (1 + exp(-s))`` |
| ``cosine`` | ``(1 + s) / 2`` |
| ``bm25``, ``exp``, ``rrf``, ``wins``, ``attention`` | ``s / (1 + s)`` |
| any other | ``(1 + s / (1 + abs(s))) / 2`` |
"""

from __future__ import annotations

import math
from collections.abc import Callable

from rerankit.types import Hit, Ranking

__all__ = ["raw_scores", "relevance"]


def _sigmoid(score: float) -> float:
    small = math.exp(-abs(score))
    return 1.0 / (1.0 + small) if score >= 0 else small / (1.0 + small)


def _share(score: float) -> float:
    return max(score, 0.0) / (1.0 + max(score, 0.0))


def _soft_sign(score: float) -> float:
    return (1.0 + score / (1.0 + abs(score))) / 2.0


_MAPS: dict[str, Callable[[float], float]] = {
    "probability": lambda score: score,
    "logit": _sigmoid,
    "z-score": _sigmoid,
    "cosine": lambda score: (1.0 + score) / 2.0,
    **dict.fromkeys(("bm25", "exp", "rrf", "wins", "attention"), _share),
}


def relevance(ranking: Ranking) -> list[float]:
    """One number in [0, 1] per hit, best first and never rising; 0 for hits without a score.

    Where a stage such as ``mmr`` has put a hit behind a lower-scored one, its relevance is lowered to just below that
    of the hit before, so that a client who sorts by it keeps the order.
    """
    calibrated = all(hit.probability is not None for hit in ranking if hit.status != "unscored")
    bring = _MAPS.get(ranking.scale, _soft_sign)
    result: list[float] = []
    for hit in ranking:
        value = min(max(_value(hit, bring, calibrated=calibrated), 0.0), 1.0)
        if result and value > result[-1]:
            value = max(math.nextafter(result[-1], 0.0), 0.0)
        result.append(value)
    return result


def raw_scores(ranking: Ranking) -> list[float]:
    """The reranker's own scores; hits without one get the lowest of the list, or 0."""
    known = [hit.score for hit in ranking if hit.score is not None]
    lowest = min(known, default=0.0)
    return [lowest if hit.score is None else hit.score for hit in ranking]


def _value(hit: Hit, bring: Callable[[float], float], *, calibrated: bool) -> float:
    if calibrated:
        return hit.probability or 0.0
    return 0.0 if hit.score is None else bring(hit.score)
