"""The arithmetic behind Calibrator: maps from scores to probabilities, how they are fitted, how good they are.

Fitting needs scikit-learn; applying a map and judging it needs numpy alone.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerankit.errors import InputError, require

Method = Literal["platt", "temperature", "isotonic"]
Floats: TypeAlias = NDArray[np.float64]

ECE_BINS = 10
GRID = 200
"""Steps of precision that a curve keeps."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """``1 / (1 + exp(-(slope * score + intercept)))`` with a positive slope."""

    slope: float
    intercept: float = 0.0

    def __call__(self, scores: ArrayLike) -> Floats:
        """Probabilities, same shape; never falling where scores rise."""
        with np.errstate(over="ignore", under="ignore"):
            logits = self.slope * np.asarray(scores, np.float64) + self.intercept
            result: Floats = np.exp(-np.logaddexp(0.0, -logits))
        return result


@dataclass(frozen=True, slots=True)
class Steps:
    """Linear between the points ``scores`` (rising) and ``probabilities`` (not falling), flat outside."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> Floats:
        """Probabilities, same shape; never falling where scores rise."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)


ScoreMap: TypeAlias = Sigmoid | Steps


@dataclass(frozen=True, slots=True)
class Quality:
    """How well probabilities fit labels; 0 is perfect in each.

    Attributes:
        brier: mean squared error.
        ece: expected calibration error over 10 bins of equal width (Guo et al., ICML 2017).
        log_loss: mean negative log-likelihood, in nats.
    """

    brier: float
    ece: float
    log_loss: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What a threshold does on the data of the fit: precision and recall of everything at or above it."""

    threshold: float
    precision: float
    recall: float


def checked(scores: ArrayLike, labels: ArrayLike, relevant_from: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores and whether each is of a relevant passage; refused if they are not of use.

    Raises:
        InputError: not numbers, not finite, not of equal length, or of one kind only.
    """
    try:
        values, grades = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Scores and labels must be numbers: {error}") from error
    if values.ndim != 1 or values.shape != grades.shape:
        raise InputError(f"Scores and labels must be two lists of equal length, got {values.shape} and {grades.shape}")
    for name, array in (("score", values), ("label", grades)):
        if not (finite := np.isfinite(array)).all():
            position = int(finite.argmin())
            raise InputError(f"The {name} at position {position} is {array[position]}; calibration needs finite ones")
    if len(values) and (values == values[0]).all():
        raise InputError(f"All {len(values)} scores are {values[0]}: there is nothing to calibrate")
    targets = grades >= relevant_from
    if targets.all() or not targets.any():
        kind = "relevant" if len(targets) and targets.all() else "not relevant"
        raise InputError(
            f"All {len(targets)} labels are {kind} (relevant means a grade of {relevant_from} or more); calibration "
            "needs both kinds"
        )
    return values, targets


def fit_map(method: Method, scores: Floats, targets: NDArray[np.bool_]) -> ScoreMap:
    """Fit a rising map.

    ``platt``: slope and intercept (Platt 1999). ``temperature``: slope alone, for logits (Guo et al., ICML 2017). Both
    by maximum likelihood on Platt's smoothed targets, ``(positives + 1) / (positives + 2)`` and
    ``1 / (negatives + 2)``, which keep the slope finite where scores separate the labels. ``isotonic``: the best
    rising step function (Zadrozny and Elkan, KDD 2002); it wants a thousand labels or more.

    Raises:
        InputError: scores do not rise with relevance.
        MissingExtraError: scikit-learn is not installed.
    """
    result: ScoreMap = _fit_isotonic(scores, targets) if method == "isotonic" else _fit_sigmoid(method, scores, targets)
    rising = result.slope > 0 if isinstance(result, Sigmoid) else result.probabilities[-1] > result.probabilities[0]
    if not rising:
        raise InputError(
            f"The scores do not rise with relevance (mean {scores[targets].mean():.4g} of relevant passages, "
            f"{scores[~targets].mean():.4g} of others), so no {method} calibration keeps their order. "
            "Check that labels and scores are aligned and that higher scores mean more relevant."
        )
    return result


def _fit_sigmoid(method: Method, scores: Floats, targets: NDArray[np.bool_]) -> Sigmoid:
    linear_model = require("sklearn.linear_model", extra="calibration", purpose="Fitting a calibrator")
    positives, count = int(targets.sum()), len(targets)
    hopes = np.where(targets, (positives + 1) / (positives + 2), 1 / (count - positives + 2))
    with_intercept = method == "platt"
    largest = float(np.abs(scores).max()) or 1.0
    centre = float((scores / largest).mean()) if with_intercept else 0.0
    centred = scores / largest - centre
    width = float(np.abs(centred).max()) or 1.0
    column = (centred / width)[:, None]
    model = linear_model.LogisticRegression(C=np.inf, fit_intercept=with_intercept, tol=1e-10, max_iter=10_000)
    # A soft target t is one sample of weight t labelled 1 and one of weight 1 - t labelled 0.
    model.fit(
        np.concatenate([column, column]),
        np.repeat([1, 0], count),
        sample_weight=np.concatenate([hopes, 1.0 - hopes]),
    )
    slope = float(model.coef_[0, 0]) / width
    return Sigmoid(slope / largest, float(model.intercept_[0]) - slope * centre if with_intercept else 0.0)


def _fit_isotonic(scores: Floats, targets: NDArray[np.bool_]) -> Steps:
    isotonic = require("sklearn.isotonic", extra="calibration", purpose="Fitting a calibrator")
    model = isotonic.IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip")
    model.fit(scores, targets.astype(np.float64))
    return Steps(tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist()))


def quality(probabilities: Floats, targets: NDArray[np.bool_]) -> Quality:
    """Brier score, expected calibration error and log-loss of probabilities ``[n]``."""
    truth = targets.astype(np.float64)
    bins = np.minimum((probabilities * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, probabilities - truth, minlength=ECE_BINS)
    tiny = np.finfo(np.float64).eps
    likelihood = np.clip(np.where(targets, probabilities, 1.0 - probabilities), tiny, 1.0)
    return Quality(
        brier=float(np.mean((probabilities - truth) ** 2)),
        ece=float(np.abs(gaps).sum() / len(truth)),
        log_loss=float(-np.log(likelihood).mean()),
    )


def cross_validate(
    method: Method, scores: Floats, targets: NDArray[np.bool_], groups: Sequence[Hashable] | None
) -> Quality | None:
    """Quality on data that the fit did not see, by up to five stratified folds; None where the data are too few.

    With ``groups`` (queries) no group is split between fit and test.
    """
    selection = require("sklearn.model_selection", extra="calibration", purpose="Fitting a calibrator")
    units = len(set(groups)) if groups is not None else len(targets)
    folds = min(5, int(targets.sum()), int((~targets).sum()), units)
    if folds < 2:
        return None
    kind = selection.StratifiedKFold if groups is None else selection.StratifiedGroupKFold
    numbers = None if groups is None else _numbered(groups)
    unseen = np.empty(len(targets))
    for train, test in kind(folds, shuffle=True, random_state=0).split(scores, targets, numbers):
        if targets[train].all() or not targets[train].any():
            return None
        try:
            unseen[test] = fit_map(method, scores[train], targets[train])(scores[test])
        except InputError:
            logger.warning("A fold of the calibration data has scores that fall with relevance: no cross-validation")
            return None
    return quality(unseen, targets)


def _numbered(groups: Sequence[Hashable]) -> list[int]:
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(group, len(numbers)) for group in groups]


def precision_curve(probabilities: Floats, targets: NDArray[np.bool_]) -> tuple[CurvePoint, ...]:
    """The thresholds that reach a precision no lower threshold reaches, thinned to one per step of 1 / GRID."""
    values, inverse = np.unique(probabilities, return_inverse=True)
    kept = np.bincount(inverse)[::-1].cumsum()[::-1]
    relevant = np.bincount(inverse, targets)[::-1].cumsum()[::-1]
    points: list[CurvePoint] = []
    for value, share, hits in zip(values, relevant / kept, relevant, strict=True):
        if not points or _step(share) > _step(points[-1].precision):
            points.append(CurvePoint(float(value), float(share), float(hits / relevant[0])))
    return tuple(points)


def _step(precision: float) -> int:
    return int(precision * GRID + 1e-9)
