"""What travels between the contract and a family's hook: Request in, Scored out, Call beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.models.meter import Meter
from rerankit.models.work import Work
from rerankit.types import Passage, Ranking, Span, Usage

BLOCK = 256
"""Texts given to a model between two looks at whether the caller still waits: enough to fill its batches."""


@dataclass(frozen=True, slots=True)
class Request:
    """One list to order: clean, without empty passages, and for families that go by text without duplicates."""

    query: str
    passages: tuple[Passage, ...]

    def prior_scores(self) -> NDArray[np.float64]:
        """Scores of the stage before, float64 ``[n]``: the passages' own if all have a finite one, else 1 / rank."""
        scores = np.array([np.nan if passage.score is None else passage.score for passage in self.passages], np.float64)
        return scores if np.isfinite(scores).all() else 1.0 / np.arange(1.0, len(scores) + 1.0)


@dataclass(slots=True)
class Call(Work):
    """The circumstances of one ``rank_many`` call: what to count, and until when.

    Attributes:
        float32: set on the one retry after non-finite scores: use full precision.
        notes: what a family wants said of a ranking that is less than planned.
        readings: what came of each prompt about one passage, by query, title and text, for the books of single lists.
        top_k: how many hits the caller will look at; None for all. A family may leave the order behind them open.
    """

    float32: bool = False
    notes: list[str] = field(default_factory=list)
    readings: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """A family's verdict on one request of n passages, by position.

    Attributes:
        scores: float64 ``[n]``; higher is better; ignored where ``scored`` is False.
        scored: bool ``[n]``; None means all.
        order: the positions, best first, where order is more than sorting by score; None means by score.
        cached: bool ``[n]``: the score came from a cache.
        truncated: int ``[n]``: passage tokens that were not read.
        probabilities: float ``[n]``, where the family has calibrated ones of its own (NaN: none).
        evidence: per passage, spans of its text.
        partial: why the verdict is less than planned (a deadline, a stage that failed); empty otherwise.
        fell_back: for composites: the order is not a model's, because the model failed; ``partial`` says why.
        stages: rankings of inner stages, for composites.
        trace: what the model wrote beside its answers, see :class:`~rerankit.types.Ranking`.
    """

    scores: NDArray[np.float64]
    scored: NDArray[np.bool_] | None = None
    order: NDArray[np.int64] | None = None
    cached: NDArray[np.bool_] | None = None
    truncated: NDArray[np.int64] | None = None
    probabilities: NDArray[np.float64] | None = None
    evidence: Sequence[tuple[Span, ...]] | None = None
    partial: str = ""
    fell_back: bool = False
    stages: tuple[Ranking, ...] = ()
    trace: tuple[str, ...] = ()

    def padded(self, count: int, why: str) -> Scored:
        """A verdict on the first passages as one on ``count``, the rest unscored because of ``why``."""
        done = len(self.scores)
        if done == count:
            return self

        def column(values: NDArray[Any] | None, default: Any, dtype: Any) -> NDArray[Any]:
            known = np.full(done, default, dtype) if values is None else values
            return np.concatenate([known, np.zeros(count - done, dtype)])

        said = f"{why}: {count - done} passages unscored"
        return replace(
            self,
            scores=column(self.scores, 0.0, np.float64),
            scored=column(self.scored, True, np.bool_),
            cached=column(self.cached, False, np.bool_),
            truncated=column(self.truncated, 0, np.int64),
            evidence=(*(self.evidence or ((),) * done), *((),) * (count - done)),
            partial="; ".join(part for part in (self.partial, said) if part),
        )


def split_usage(meter: Meter, seconds: float, shares: Sequence[int]) -> list[Usage]:
    """Divide what a batched call cost over its requests by share, so that the parts add up to the whole exactly."""
    total = sum(shares)
    weights = [share / total for share in shares] if total else [1 / len(shares)] * len(shares)
    counts = {
        name: _apportion(getattr(meter, name), weights)
        for name in ("forward_passes", "input_tokens", "output_tokens", "llm_calls", "cache_hits", "cache_misses")
    }
    return [
        Usage(seconds=seconds * weight, cost=meter.cost * weight, **{name: part[i] for name, part in counts.items()})
        for i, weight in enumerate(weights)
    ]


def _apportion(count: int, weights: Sequence[float]) -> list[int]:
    """Largest-remainder split of an integer."""
    exact = [count * weight for weight in weights]
    parts = [int(value) for value in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: count - sum(parts)]:
        parts[i] += 1
    return parts
