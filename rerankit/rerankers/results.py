"""From a family's verdict to a Ranking: where the permutation law is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerankit.errors import ModelError
from rerankit.rerankers.call import Scored
from rerankit.rerankers.prepare import EMPTY, Prepared
from rerankit.types import Hit, HitStatus, Ranking, RankingStatus, Span


class Probabilities(Protocol):
    """What a calibrator does here."""

    def probabilities(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Calibrated probabilities of raw scores, same shape."""


def validated(result: Scored, count: int, model: str) -> Scored:
    """The verdict with its fields as arrays, if it covers exactly ``count`` passages.

    Raises:
        ModelError: a field has the wrong shape or type, or the order is not a permutation.
    """
    arrays: dict[str, Any] = {}
    for name, dtype in _FIELDS.items():
        if (value := getattr(result, name)) is None:
            continue
        try:
            arrays[name] = np.asarray(value).astype(dtype, casting="same_kind")
        except (TypeError, ValueError) as error:
            raise ModelError(f"{model} returned {name} of the wrong type: {value!r:.80}") from error
        if arrays[name].shape != (count,):
            raise ModelError(f"{model} returned {name} of shape {arrays[name].shape} for {count} passages")
    if "order" in arrays and sorted(arrays["order"].tolist()) != list(range(count)):
        raise ModelError(f"{model} returned an order that is not a permutation of its {count} passages")
    if result.evidence is not None and not _is_evidence(result.evidence, count):
        raise ModelError(f"{model} returned evidence that is not one tuple of spans for each of {count} passages")
    return dataclasses.replace(result, **arrays)


_FIELDS = {
    "scores": np.float64,
    "scored": np.bool_,
    "order": np.int64,
    "cached": np.bool_,
    "truncated": np.int64,
    "probabilities": np.float64,
}


def _is_evidence(evidence: Any, count: int) -> bool:
    if len(evidence) != count or not all(isinstance(spans, (tuple, list)) for spans in evidence):
        return False
    return all(isinstance(span, Span) for spans in evidence for span in spans)


def non_finite(result: Scored) -> int | None:
    """Position of the first scored passage whose score is NaN or infinite, or None."""
    bad = ~np.isfinite(result.scores)
    if result.scored is not None:
        bad &= result.scored
    return int(np.argmax(bad)) if bad.any() else None


def build_ranking(
    item: Prepared, result: Scored, model: str, scale: str, calibrator: Probabilities | None = None
) -> Ranking:
    """All candidates of ``item``, each once: scored first, then the unscored in input order, then empty ones."""
    place, scored = _places(result), _mask(result)
    floor = float(result.scores[scored].min()) if scored.any() else 0.0
    probabilities = _probabilities(result, calibrator)

    def sort_key(position: int) -> tuple[int, int, int]:
        source = item.source[position]
        if source == EMPTY:
            return (2, 0, position)
        if not scored[source] and result.order is None:
            return (1, 0, position)
        return (0, place[source], position)

    order = sorted(range(len(item.passages)), key=sort_key)
    hits = tuple(
        _hit(item, position, rank, result, scored, floor, probabilities) for rank, position in enumerate(order, 1)
    )
    status: RankingStatus = "fallback" if result.fell_back else "partial" if result.partial else "scored"
    return Ranking(item.query, hits, model, scale, status, result.partial, stages=result.stages, trace=result.trace)


def fallback_ranking(item: Prepared, model: str, scale: str, error: Exception) -> Ranking:
    """The input order, every hit unscored, and why."""
    hits = tuple(
        Hit(passage, rank, None, rank, passage.score, status="unscored")
        for rank, passage in enumerate(item.passages, 1)
    )
    return Ranking(item.query, hits, model, scale, "fallback", f"{type(error).__name__}: {error}")


def _mask(result: Scored) -> NDArray[np.bool_]:
    return np.ones(len(result.scores), bool) if result.scored is None else result.scored


def _places(result: Scored) -> Sequence[int]:
    """Per source its place in the order; equal scores share a place, so that ties fall back on the input order."""
    if result.order is not None:
        places = np.empty(len(result.order), np.int64)
        places[result.order] = np.arange(len(result.order))
        return [int(place) for place in places]
    usable = np.where(_mask(result), result.scores, -np.inf)
    return [int(place) for place in np.unique(-usable, return_inverse=True)[1]]


def _probabilities(result: Scored, calibrator: Probabilities | None) -> NDArray[np.float64]:
    missing = np.full(len(result.scores), np.nan)
    if calibrator is None:
        return missing if result.probabilities is None else result.probabilities
    scored = _mask(result)
    missing[scored] = calibrator.probabilities(result.scores[scored])
    return missing


def _hit(
    item: Prepared,
    position: int,
    rank: int,
    result: Scored,
    scored: NDArray[np.bool_],
    floor: float,
    probabilities: NDArray[np.float64],
) -> Hit:
    passage, source = item.passages[position], item.source[position]
    if source == EMPTY:
        return Hit(passage, rank, floor, position + 1, passage.score, status="unscored")
    status: HitStatus = "unscored"
    if scored[source]:
        status = "cached" if result.cached is not None and result.cached[source] else "scored"
    probability = float(probabilities[source])
    return Hit(
        passage=passage,
        rank=rank,
        score=float(result.scores[source]) if scored[source] else None,
        prior_rank=position + 1,
        prior_score=passage.score,
        probability=None if np.isnan(probability) else probability,
        status=status,
        truncated_tokens=0 if result.truncated is None else int(result.truncated[source]),
        evidence=() if result.evidence is None else tuple(result.evidence[source]),
    )
