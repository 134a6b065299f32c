"""Last stages that look at the list as a whole: MMR, DPP, a cap per source, freshness.

They rearrange what an earlier stage scored: ``cross-encoder:...[:30] | mmr[:5]``. Relevance is the score of that
stage (``Passage.score``; without one, 1 / rank), scaled to 0..1 within the list for the trade-off only: hits keep the
score they came with, so scores need not fall along the new order. Every candidate comes back; ties keep the input
order.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.moments import moment
from rerankit.rerankers.scaling import unit_scores
from rerankit.rerankers.vectors import Vectors
from rerankit.types import Passage

if TYPE_CHECKING:
    from rerankit.models.encoder import TextEncoder

__all__ = ["DPP", "MMR", "Freshness", "SourceCap"]

logger = logging.getLogger(__name__)

SPANNED = 1e-9
"""Conditional variance below which a passage says nothing that the chosen ones have not said."""

Floats = NDArray[np.float64]


class _Rearranger(Reranker):
    """Common ground: prior scores pass through, only the order is new."""

    scale = "order"
    by_text = False
    rearranges = True


class _Greedy(_Rearranger):
    """Chooses place after place by relevance and similarity; behind ``depth`` places the rest keeps its order."""

    name: ClassVar[str]

    def __init__(
        self,
        *,
        lambda_: float = 0.7,
        embedder: TextEncoder | str | None = None,
        depth: int = 500,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        self.lambda_ = _share("lambda_", lambda_)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
            raise InputError(f"depth must be a positive whole number, got {depth!r}")
        self.depth = depth
        self.vectors = Vectors(embedder)
        self.model = f"{self.name}[lambda_={self.lambda_:g},depth={depth}]:{self.vectors.name}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Vectors of all lists at once, then one greedy walk per list, as far as time allows."""
        if call.expired:
            return [_kept(request, "the deadline passed before the vectors were there") for request in requests]
        vectors = self.vectors.of_lists([request.passages for request in requests], call)
        return [self._walk(request, unit, call) for request, unit in zip(requests, vectors, strict=True)]

    def _walk(self, request: Request, unit: Floats, call: Call) -> Scored:
        scores = request.prior_scores()
        places = min(self.depth, len(scores))
        chosen: list[int] = []
        gain = self.gains(unit_scores(scores), unit, places)
        open_ = np.ones(len(scores), bool)
        while len(chosen) < places and not call.expired:
            # Rounded, so that equal gains tie whatever the order of summation.
            values = np.round(np.where(open_, gain(chosen), -np.inf), 12)
            best = int(values.argmax())
            if values[best] == -np.inf:  # nothing left that adds anything
                places = len(chosen)
                break
            chosen.append(best)
            open_[best] = False
        late = f"the deadline passed after {len(chosen)} of {places} places" if len(chosen) < places else ""
        return Scored(scores, order=np.concatenate([np.array(chosen, int), np.flatnonzero(open_)]), partial=late)

    @abstractmethod
    def gains(self, relevance: Floats, unit: Floats, places: int) -> Callable[[Sequence[int]], Floats]:
        """A function from the positions chosen so far to every candidate's gain ``[n]``; -inf: adds nothing.

        It is called with one more position each time, starting from none, so it may build on what it knew.

        Args:
            relevance: ``[n]``, 0..1.
            unit: ``[n, dim]``, unit or null vectors.
            places: how many will be chosen at most.
        """


class MMR(_Greedy):
    """Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): relevant, but not again the same.

    Each place goes to the passage with the largest ``lambda * relevance - (1 - lambda) * (highest cosine with a
    passage placed before it)``.

    Args:
        lambda_: 1 is relevance alone, 0 is novelty alone.
        embedder: makes vectors for lists that bring none: a TextEncoder, its name, or None for the embedded model.
        depth: how many places are chosen; the rest follows in input order.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: a parameter is out of range.
    """

    name = "mmr"

    def gains(self, relevance: Floats, unit: Floats, places: int) -> Callable[[Sequence[int]], Floats]:
        """O(n dim) per place."""
        nearest = np.full(len(relevance), -1.0)  # no cosine is lower

        def gain(chosen: Sequence[int]) -> Floats:
            if chosen:
                np.maximum(nearest, unit @ unit[chosen[-1]], out=nearest)
            return self.lambda_ * relevance - (1.0 - self.lambda_) * nearest

        return gain


class DPP(_Greedy):
    """Determinantal point process, greedy MAP (Chen, Zhang and Zhou, NeurIPS 2018): a set that covers much.

    Grows the set that maximises ``lambda * sum(relevance) + (1 - lambda) * log det(S)`` with ``S = (1 + cosine) / 2``,
    by incremental Cholesky factors. Unlike MMR it looks at all chosen passages together, not only at the nearest.
    Passages that the chosen ones span already (duplicates) follow in input order.

    Args:
        lambda_: 1 is relevance alone, 0 is volume alone.
        embedder: as for :class:`MMR`.
        depth: as for :class:`MMR`.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: a parameter is out of range.
    """

    name = "dpp"

    def gains(self, relevance: Floats, unit: Floats, places: int) -> Callable[[Sequence[int]], Floats]:
        """O(n (dim + places)) per place: one more column of the Cholesky factor of S."""
        if self.lambda_ == 1.0:
            return lambda chosen: relevance
        count = len(relevance)
        factor = np.zeros((places, count))
        variance = np.ones(count)  # what the chosen passages leave unexplained of each

        def gain(chosen: Sequence[int]) -> Floats:
            if chosen:
                last, row = chosen[-1], len(chosen) - 1
                similarity = (1.0 + unit @ unit[last]) / 2.0
                explained = factor[:row, last] @ factor[:row]
                factor[row] = (similarity - explained) / np.sqrt(variance[last])
                variance[:] -= factor[row] ** 2
            volume = np.where(variance > SPANNED, np.log(np.maximum(variance, SPANNED)), -np.inf)
            return self.lambda_ * relevance + (1.0 - self.lambda_) * volume

        return gain


class SourceCap(_Rearranger):
    """At most ``per`` passages of each source in front; the surplus follows behind all others, nothing is lost.

    A passage without the key counts as a source of its own. Values are told apart by their ``repr``.

    Args:
        per: how many passages a source may place in front.
        key: the metadata key that names the source.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: ``per`` is not a positive whole number.
    """

    def __init__(self, *, per: int = 2, key: str = "source", **options: Unpack[RerankerOptions]) -> None:
        super().__init__(**options)
        if isinstance(per, bool) or not isinstance(per, int) or per < 1:
            raise InputError(f"per must be a positive whole number, got {per!r}")
        self.per, self.key = per, key
        self.model = f"cap[per={per},key={key}]"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Input order, surplus last."""
        return [Scored(request.prior_scores(), order=self._order(request.passages)) for request in requests]

    def _order(self, passages: Sequence[Passage]) -> NDArray[np.int64]:
        seen: Counter[str] = Counter()
        front: list[int] = []
        surplus: list[int] = []
        for position, passage in enumerate(passages):
            source = passage.metadata.get(self.key)
            name = repr(source)
            full = source is not None and seen[name] >= self.per
            seen[name] += 1
            (surplus if full else front).append(position)
        return np.array(front + surplus)


class Freshness(_Rearranger):
    """Older passages lose relevance by a half-life.

    Orders by ``relevance * (1 - weight + weight * 0.5 ** (age / half_life))``. A passage without a date that can be
    read gets the mean factor of the dated ones, so that it is neither favoured nor punished. Dates in the future have
    age 0. Dates are ISO 8601 text, datetimes, years, numbers like 20240501, or seconds (or milliseconds) since 1970.

    Args:
        half_life_days: age at which half is lost.
        key: the metadata key of the date.
        weight: share of the relevance that age can take away, 0..1.
        now: the moment from which age counts, in any of the forms above; None is the moment of the call.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: a parameter is out of range.
    """

    def __init__(
        self,
        *,
        half_life_days: float = 180.0,
        key: str = "date",
        weight: float = 0.5,
        now: str | float | datetime | None = None,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        if not np.isfinite(half_life_days) or half_life_days <= 0:
            raise InputError(f"half_life_days must be a positive number, got {half_life_days!r}")
        if now is not None and moment(now) is None:
            raise InputError(f"now must be a date, a datetime or a timestamp, got {now!r}")
        self.half_life_days, self.key, self.now = half_life_days, key, now
        self.weight = _share("weight", weight)
        self.model = f"freshness[half_life_days={half_life_days:g},key={key},weight={self.weight:g}]"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """By decayed relevance."""
        now = _now(self.now)
        return [self._scored(request, now) for request in requests]

    def _scored(self, request: Request, now: float) -> Scored:
        scores = request.prior_scores()
        decayed = unit_scores(scores) * (1.0 - self.weight + self.weight * self._factors(request.passages, now))
        return Scored(scores, order=np.argsort(-decayed, kind="stable"))

    def _factors(self, passages: Sequence[Passage], now: float) -> Floats:
        """Per passage what its age leaves of it, 0..1."""
        dates = [moment(passage.metadata.get(self.key)) for passage in passages]
        seconds = np.array([np.nan if date is None else date for date in dates])
        factors = 0.5 ** (np.maximum(now - seconds, 0.0) / (86_400.0 * self.half_life_days))
        undated = np.isnan(seconds)
        if undated.any():
            level = logging.WARNING if undated.all() else logging.INFO
            logger.log(level, "%d of %d passages have no date under %r", undated.sum(), len(passages), self.key)
            factors[undated] = 1.0 if undated.all() else factors[~undated].mean()
        return factors


def _kept(request: Request, reason: str) -> Scored:
    return Scored(request.prior_scores(), order=np.arange(len(request.passages)), partial=reason)


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise InputError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def _now(given: str | float | datetime | None) -> float:
    fixed = moment(given)
    return time.time() if fixed is None else fixed
