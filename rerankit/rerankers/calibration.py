"""Calibrator: raw scores to probabilities of relevance, bound to the model they were fitted for.

    calibrator = Calibrator.fit(scores, labels, reranker=reranker)
    calibrator.save("calibrator.json")
    reranker = rerankit.load("cross-encoder:org/name", calibrator="calibrator.json")
    confident = reranker.rank(query, passages).above(calibrator.threshold(precision=0.9))

A probability keeps its meaning when the model changes; a raw score does not. Maps only rise, so calibration never
changes an order.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerankit.errors import InputError, ModelError
from rerankit.models.files import write_atomically
from rerankit.rerankers.calibration_fit import (
    CurvePoint,
    Method,
    Quality,
    ScoreMap,
    Sigmoid,
    Steps,
    checked,
    cross_validate,
    fit_map,
    precision_curve,
    quality,
)
from rerankit.types import Ranking

if TYPE_CHECKING:
    from rerankit.rerankers.base import Reranker

__all__ = ["CALIBRATION", "Calibrator", "CurvePoint", "Method", "Quality"]

CALIBRATION = "calibration.json"
"""In a model's folder: the calibrator that holds for its usual settings."""

FORMAT = "rerankit-calibrator"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A fitted map from one model's scores to probabilities of relevance.

    Attributes:
        method: ``platt``, ``temperature`` or ``isotonic``.
        map: the fitted function.
        fingerprint: what the scores depended on: model, revision, dtype, template ...
        fitted, positives: how many labelled scores, and how many of them relevant.
        in_sample: fit on the data it was made from.
        cross_validated: fit on data held out, or None if there were too few.
        curve: thresholds and what they reached on the data of the fit.
    """

    method: Method
    map: ScoreMap
    fingerprint: str
    fitted: int
    positives: int
    in_sample: Quality
    cross_validated: Quality | None
    curve: tuple[CurvePoint, ...]

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        labels: ArrayLike,
        *,
        method: Method = "platt",
        reranker: Reranker | None = None,
        fingerprint: str = "",
        relevant_from: float = 1,
        groups: Sequence[Hashable] | None = None,
    ) -> Self:
        """Fit on scores and labels ``[n]``; needs scikit-learn.

        Args:
            scores: raw scores of one model, finite.
            labels: 0 or 1, or grades.
            method: ``platt`` (any scale, few labels), ``temperature`` (logits only: 0 means even odds) or ``isotonic``
                (any shape, a thousand labels or more).
            reranker: whose scores they are; or give its ``passage_fingerprint``.
            fingerprint: see ``reranker``.
            relevant_from: the lowest grade that counts as relevant.
            groups: the query of each score, so that cross-validation splits queries and not passages.

        Raises:
            InputError: the data cannot be used, or scores do not rise with relevance.
            MissingExtraError: scikit-learn is not installed.
        """
        if method not in get_args(Method):
            raise InputError(f"A calibration method is one of {list(get_args(Method))}, got {method!r}")
        if (reranker is None) == (not fingerprint):
            raise InputError("Say whose scores these are: give either reranker=... or fingerprint=...")
        values, targets = checked(scores, labels, relevant_from)
        if groups is not None and len(groups) != len(values):
            raise InputError(f"{len(groups)} groups for {len(values)} scores")
        fitted = fit_map(method, values, targets)
        probabilities = fitted(values)
        return cls(
            method=method,
            map=fitted,
            fingerprint=reranker.passage_fingerprint if reranker is not None else fingerprint,
            fitted=len(values),
            positives=int(targets.sum()),
            in_sample=quality(probabilities, targets),
            cross_validated=cross_validate(method, values, targets, groups),
            curve=precision_curve(probabilities, targets),
        )

    @classmethod
    def fit_rankings(
        cls,
        rankings: Sequence[Ranking],
        qrels: Mapping[str, Mapping[str, float]],
        *,
        judged_only: bool = False,
        method: Method = "platt",
        reranker: Reranker | None = None,
        fingerprint: str = "",
        relevant_from: float = 1,
    ) -> Self:
        """:meth:`fit` on the scored hits of rankings.

        Args:
            rankings: of one reranker.
            qrels: query text -> passage id -> grade.
            judged_only: leave out passages without a grade; otherwise they count as not relevant.
            method: as for :meth:`fit`, like what follows.
            reranker: whose rankings they are.
            fingerprint: or this.
            relevant_from: the lowest grade that counts as relevant.

        Raises:
            InputError: rankings of several models, a query without qrels, or as for :meth:`fit`.
        """
        if len(models := sorted({ranking.model for ranking in rankings})) > 1:
            raise InputError(
                f"These rankings come from {len(models)} models, {models[:3]}; fit one calibrator for each"
            )
        if lost := [ranking.query for ranking in rankings if ranking.query not in qrels]:
            raise InputError(f"{len(lost)} of {len(rankings)} queries have no qrels, for example {lost[0]!r:.80}")
        rows = [
            (hit.score, qrels[ranking.query].get(hit.id, 0), ranking.query)
            for ranking in rankings
            for hit in ranking
            if hit.score is not None
            and hit.status != "unscored"
            and not (judged_only and hit.id not in qrels[ranking.query])
        ]
        return cls.fit(
            [score for score, _, _ in rows],
            [grade for _, grade, _ in rows],
            method=method,
            reranker=reranker,
            fingerprint=fingerprint,
            relevant_from=relevant_from,
            groups=[query for _, _, query in rows],
        )

    def probabilities(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Probabilities of relevance of raw scores, same shape; numpy alone. NaN stays NaN."""
        return self.map(scores)

    def check(self, fingerprint: str) -> None:
        """Refuse to serve another model.

        Raises:
            ModelError: the fingerprint is not the one of the fit.
        """
        if fingerprint != self.fingerprint:
            raise ModelError(
                f"This calibrator was fitted for {self.fingerprint!r}, but the reranker is {fingerprint!r}. Scores of "
                "different models or settings are not comparable: load the reranker as it was, or fit again with "
                "Calibrator.fit(scores, labels, reranker=reranker)."
            )

    def threshold(self, *, precision: float | None = None, error: float | None = None) -> float:
        """The smallest probability at and above which passages were relevant often enough, on the data of the fit.

        Args:
            precision: the share of relevant passages among those kept, above 0 and up to 1.
            error: the share of irrelevant ones; ``error=0.1`` is ``precision=0.9``.

        Raises:
            InputError: not exactly one target, a target out of range, or one that no threshold reached.
        """
        if (precision is None) == (error is None):
            raise InputError("Give one target for the threshold: precision=... or error=...")
        target = precision if precision is not None else 1.0 - error if error is not None else math.nan
        if not 0.0 < target <= 1.0:
            raise InputError(f"A target precision lies above 0 and up to 1 (an error from 0 to below 1), got {target}")
        for point in self.curve:
            if point.precision >= target - 1e-12:  # 1 - 0.1 is not quite 0.9
                return point.threshold
        best = self.curve[-1]
        raise InputError(
            f"No threshold reached precision {target:.3f} on the {self.fitted} scores of the fit; the best is "
            f"{best.precision:.3f} at probability {best.threshold:.3f}, which keeps {best.recall:.1%} of the relevant."
        )

    def save(self, path: str | Path) -> None:
        """Write as JSON, all or nothing.

        Raises:
            StoreError: the file cannot be written.
        """
        data = {"format": FORMAT, "version": VERSION, **asdict(self)}
        write_atomically(Path(path), json.dumps(data, indent=1, allow_nan=False, sort_keys=True))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: the file is missing, damaged, or of another format or version.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls._from_json(data)
        except OSError as error:
            raise ModelError(f"Cannot read the calibrator {path}: {error}") from error
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ModelError(
                f"{path} is not a calibrator of format {FORMAT} {VERSION}, or it is damaged: "
                f"{type(error).__name__}: {error}. Fit and save it again."
            ) from error

    @classmethod
    def beside(cls, folder: Path, fingerprint: str) -> Self | None:
        """The one in a model's folder, unless there is none or an option made other scores of the model.

        Raises:
            ModelError: the file is damaged.
        """
        file = folder / CALIBRATION
        found = cls.load(file) if file.is_file() else None
        return found if found is not None and found.fingerprint == fingerprint else None

    @classmethod
    def _from_json(cls, data: Mapping[str, Any]) -> Self:
        """From parsed JSON; raises what Python raises when something is missing or does not fit."""
        _require(data["format"] == FORMAT and data["version"] == VERSION, "format and version")
        method = data["method"]
        _require(method in get_args(Method), "method")
        _require(isinstance(data["fingerprint"], str) and data["fingerprint"] != "", "fingerprint")
        _require(0 < _count(data["positives"]) < _count(data["fitted"]), "fitted and positives")
        held_out = data["cross_validated"]
        curve = tuple(CurvePoint(**_numbers(point)) for point in data["curve"])
        _require(len(curve) > 0, "curve")
        for name in ("threshold", "precision"):
            _require(_rises([0.0, *(getattr(point, name) for point in curve), 1.0]), f"curve {name}")
        return cls(
            method=method,
            map=_read_map(method, data["map"]),
            fingerprint=data["fingerprint"],
            fitted=data["fitted"],
            positives=data["positives"],
            in_sample=Quality(**_numbers(data["in_sample"])),
            cross_validated=None if held_out is None else Quality(**_numbers(held_out)),
            curve=curve,
        )


def _read_map(method: Method, data: Mapping[str, Any]) -> ScoreMap:
    if method == "isotonic":
        scores, probabilities = (tuple(_number(value) for value in data[name]) for name in ("scores", "probabilities"))
        _require(len(scores) == len(probabilities) > 1, "map")
        _require(all(low < high for low, high in itertools.pairwise(scores)), "map scores")
        _require(_rises([0.0, *probabilities, 1.0]), "map probabilities")
        return Steps(scores, probabilities)
    sigmoid = Sigmoid(**_numbers(data))
    _require(sigmoid.slope > 0 and (method == "platt" or sigmoid.intercept == 0), "map")
    return sigmoid


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    return {name: _number(value) for name, value in data.items()}


def _number(value: Any) -> float:
    _require(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value), "number")
    return float(value)


def _count(value: Any) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool), "count")
    return int(value)


def _rises(values: Sequence[float]) -> bool:
    return all(low <= high for low, high in itertools.pairwise(values))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"unexpected {what}")
