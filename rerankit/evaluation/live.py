"""A live A/B test of rerankers: assign, show, record, and look at the result whenever you like.

    test = LiveExperiment("rerank-2026", {"none": 1, "cross-encoder": 1}, control="none", log="feedback.sqlite")
    arm = test.assign(user)
    impression = test.shown(user, ids=ranking_ids)
    test.log.click(impression, position=2)
    print(test.analyse().reason)

The unit of assignment (the user) is the unit of analysis: each counts once, with what happened in a window after its
first impression. Every interval and p-value is always-valid (:mod:`rerankit.evaluation.sequential`), so looking every
minute does no harm. Guardrails stop a test that hurts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.evaluation.assignment import assign, check_weights, unit_seed
from rerankit.evaluation.feedback import FeedbackLog, UnitReward, check_window
from rerankit.evaluation.sequential import Sequential, confidence_sequence, sample_ratio_p, signed_observations
from rerankit.evaluation.statistics import Word

__all__ = ["CLICK", "THUMB", "Guardrail", "LiveExperiment", "LiveReport", "Metric", "interleaving_result"]

_BROKEN = 0.001  # below this, the split of units is not the planned one and nothing else can be trusted


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value!r}")
    return float(value)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number per impression.

    Attributes:
        kind: ``click``, ``thumb``, or a kind given to ``FeedbackLog.measure``.
        low, high: its bounds; values beyond them count as the bound.
        missing: what an impression without such an event counts; None leaves it out.
        higher_is_better: False for latency or cost.

    Raises:
        InputError: the bounds are not two finite numbers in order, or ``missing`` is not finite.
    """

    kind: str
    low: float = 0.0
    high: float = 1.0
    missing: float | None = 0.0
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        bounds = _finite("low", self.low), _finite("high", self.high)
        if bounds[0] >= bounds[1]:
            raise InputError(f"A metric lies between two bounds, low < high; got {self.low} and {self.high}")
        if self.missing is not None:
            _finite("missing", self.missing)


CLICK = Metric("click")
THUMB = Metric("thumb", missing=0.5)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A limit on a metric's mean, for every arm: a lower limit if higher is better, otherwise an upper limit."""

    metric: Metric
    limit: float

    def __post_init__(self) -> None:
        _finite("limit", self.limit)

    def breached(self, seen: Sequential) -> bool:
        """Whether the whole confidence sequence lies beyond the limit."""
        return seen.interval[1] < self.limit if self.metric.higher_is_better else seen.interval[0] > self.limit


@dataclass(frozen=True, slots=True)
class LiveReport:
    """The state of an experiment.

    Attributes:
        arms: the metric's mean per arm, with its confidence sequence.
        differences: arm minus control, for every other arm.
        words: ``better``, ``worse``, ``equivalent`` or ``undecided`` for every other arm.
        breaches: guardrails that were crossed, in words.
        sample_ratio_p: p-value of "units were split as planned".
        stop: whether the experiment should end now.
        reason: why, or why not yet.
    """

    arms: dict[str, Sequential]
    differences: dict[str, Sequential]
    words: dict[str, Word]
    breaches: tuple[str, ...]
    sample_ratio_p: float
    stop: bool
    reason: str


class LiveExperiment:
    """An A/B test between arms.

    Args:
        name: of the experiment; another name means another assignment.
        weights: traffic weight per arm.
        control: the arm that the others are compared with.
        log: a feedback log, or its path.
        metric: what decides.
        guardrails: limits that stop the test.
        margin: differences of the metric up to this size do not matter; zero means that equivalence is never claimed.
        alpha: chance of any false claim, over all arms and all looks; guardrails have as much again.
        window_s: seconds after a unit's first impression in which its feedback counts.
        salt: makes assignment and pseudonyms unpredictable from outside; keep it for the life of the experiment.

    Raises:
        InputError: weights, control, margin, alpha or window are not usable.
        StoreError: the log cannot be opened.
    """

    def __init__(
        self,
        name: str,
        weights: Mapping[str, float],
        *,
        control: str,
        log: FeedbackLog | str | Path,
        metric: Metric = CLICK,
        guardrails: Sequence[Guardrail] = (),
        margin: float = 0.0,
        alpha: float = 0.05,
        window_s: float = 1800.0,
        salt: str = "",
    ) -> None:
        self.name, self.control, self.metric, self.salt = name, control, metric, salt
        self.shares = check_weights(weights)
        if control not in self.shares or _finite("margin", margin) < 0.0:
            raise InputError(f"control must be one of {list(weights)} and margin at least 0, got {control!r}, {margin}")
        if not 0.0 < _finite("alpha", alpha) < 1.0:
            raise InputError(f"alpha lies between 0 and 1, got {alpha}")
        check_window(window_s)
        self.log = log if isinstance(log, FeedbackLog) else FeedbackLog(log)
        self.guardrails, self.margin, self.alpha, self.window_s = tuple(guardrails), margin, alpha, window_s

    def assign(self, unit: str) -> str:
        """The arm of a unit, always the same."""
        return assign(unit, self.shares, experiment=self.name, salt=self.salt)

    def shown(self, unit: str, *, ids: Sequence[str] = (), query: str = "", at: float | None = None) -> int:
        """Record that the unit saw its arm's list; the unit is stored as a salted hash. Returns the impression's id."""
        pseudonym = f"{unit_seed(self.salt, unit):016x}"
        return self.log.shown(self.name, pseudonym, self.assign(unit), ids=ids, query=query, at=at)

    def analyse(self, *, now: float | None = None) -> LiveReport:
        """Look at everything whose window is over."""
        rewards = self._rewards(self.metric, now)
        others = [arm for arm in self.shares if arm != self.control]
        differences = {arm: self._difference(arm, rewards, self.alpha / len(others)) for arm in others}
        words = {arm: self._word(seen) for arm, seen in differences.items()}
        breaches = tuple(self._breaches(now))
        counts = [sum(reward.arm == arm for reward in rewards) for arm in self.shares]
        ratio = sample_ratio_p(counts, list(self.shares.values()))
        stop, reason = self._decision(words, differences, breaches, ratio)
        arms = {arm: _mean(self.metric, rewards, arm, self.alpha) for arm in self.shares}
        return LiveReport(arms, differences, words, breaches, ratio, stop, reason)

    def _rewards(self, metric: Metric, now: float | None) -> list[UnitReward]:
        rewards = self.log.rewards(self.name, metric.kind, window_s=self.window_s, missing=metric.missing, now=now)
        return [reward for reward in rewards if reward.arm in self.shares]

    def _difference(self, arm: str, rewards: Sequence[UnitReward], alpha: float) -> Sequential:
        pair = [reward for reward in rewards if reward.arm in (arm, self.control) and reward.value is not None]
        scale = self.metric.high - self.metric.low
        share = self.shares[arm] / (self.shares[arm] + self.shares[self.control])
        unit = (_values(self.metric, pair) - self.metric.low) / scale
        signed, bound = signed_observations(unit, [reward.arm == arm for reward in pair], share=share)
        return confidence_sequence(signed * scale, low=-bound * scale, high=bound * scale, alpha=alpha)

    def _word(self, seen: Sequential) -> Word:
        low, high = seen.interval
        if self.margin > 0.0 and -self.margin <= low and high <= self.margin:
            return "equivalent"
        if not seen.decided:
            return "undecided"
        return "better" if (seen.mean > 0.0) == self.metric.higher_is_better else "worse"

    def _breaches(self, now: float | None) -> list[str]:
        looks = max(1, len(self.guardrails) * len(self.shares))
        found = []
        for guardrail in self.guardrails:
            rewards = self._rewards(guardrail.metric, now)
            for arm in self.shares:
                seen = _mean(guardrail.metric, rewards, arm, self.alpha / looks)
                if guardrail.breached(seen):
                    found.append(f"{guardrail.metric.kind} of {arm} is {seen.mean:.4g}, beyond {guardrail.limit:g}")
        return found

    def _decision(
        self, words: Mapping[str, Word], differences: Mapping[str, Sequential], breaches: Sequence[str], ratio: float
    ) -> tuple[bool, str]:
        if ratio < _BROKEN:
            return True, f"Stop: units were not split as planned (p = {ratio:.2g}); look for a fault in the set-up."
        if breaches:
            return True, f"Stop: {'; '.join(breaches)}."
        said = ", ".join(
            f"{arm} {words[arm]} ({seen.mean:+.4f}, {seen.interval[0]:+.4f} to {seen.interval[1]:+.4f})"
            for arm, seen in differences.items()
        )
        stop = "undecided" not in words.values()
        return stop, f"{'Stop' if stop else 'Go on'}: {self.metric.kind} against {self.control}: {said}."


def interleaving_result(
    log: FeedbackLog,
    experiment: str,
    arm: str,
    baseline: str,
    *,
    window_s: float = 1800.0,
    alpha: float = 0.05,
    now: float | None = None,
) -> Sequential:
    """Which arm do the clicks on team-draft lists prefer? The mean lies between -1 (baseline) and 1 (arm).

    Each unit counts once, with the list of its first impression: reloading the page adds nothing. Lists are logged by
    ``FeedbackLog.shown(..., ids=mixed.ids, credit=[arm for (arm,) in mixed.credit])``.

    Raises:
        InputError: lists were shown, but none has a passage of ``arm`` or of ``baseline``.
    """
    seen: dict[str, float] = {}
    known: set[str] = set()
    for impression in log.impressions(experiment, window_s=window_s, now=now):
        credited = [impression.credit[position] for position in impression.clicked if position < len(impression.credit)]
        lead = credited.count(arm) - credited.count(baseline)
        seen.setdefault(impression.unit, float(np.sign(lead)))
        known.update(impression.credit)
    if seen and (unknown := [name for name in (arm, baseline) if name not in known]):
        raise InputError(f"No list of {experiment!r} has a passage of {unknown}; its arms are {sorted(known)}")
    return confidence_sequence(list(seen.values()), low=-1.0, high=1.0, alpha=alpha)


def _mean(metric: Metric, rewards: Sequence[UnitReward], arm: str, alpha: float) -> Sequential:
    mine = [reward for reward in rewards if reward.arm == arm and reward.value is not None]
    return confidence_sequence(_values(metric, mine), low=metric.low, high=metric.high, null=metric.low, alpha=alpha)


def _values(metric: Metric, rewards: Sequence[UnitReward]) -> NDArray[np.float64]:
    return np.clip(np.array([reward.value for reward in rewards], dtype=np.float64), metric.low, metric.high)
