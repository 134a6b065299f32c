"""Is the difference between two arms real? A verdict in words, drawn from the interval.

    differences = arm_ndcg - baseline_ndcg            # one number per query, same queries in both arms
    print(verdict(differences, margin=0.01).sentence)

The word follows from the interval alone: a difference counts as *better* or *worse* when the interval leaves zero out,
as *equivalent* when the whole interval lies within the margin, and everything else is *undecided*. When several arms
are compared with one baseline, a claim must also survive Holm's correction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerankit.errors import InputError
from rerankit.evaluation.power import detectable_difference, power, queries_needed
from rerankit.evaluation.resampling import Seed, as_differences, effect_size, holm, mean_interval, sign_flip_p

__all__ = [
    "MIN_MOVED",
    "MIN_QUERIES",
    "Verdict",
    "Word",
    "detectable_difference",
    "effect_size",
    "holm",
    "mean_interval",
    "power",
    "queries_needed",
    "sign_flip_p",
    "verdict",
    "verdicts",
]

Word = Literal["better", "worse", "equivalent", "undecided"]

MIN_QUERIES = 10
"""With fewer queries no interval keeps its level, so nothing is decided."""
MIN_MOVED = 6
"""Fewer queries that moved can never give a sign-flip p-value of 0.05 or less, and make the interval too short: neither
a difference nor an equivalence is claimed, unless no query moved at all."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a paired comparison says about arm minus baseline.

    Attributes:
        word: ``better``, ``worse``, ``equivalent`` (within ``margin``) or ``undecided``.
        difference: mean per-query difference, in units of the metric.
        interval: its confidence interval.
        confidence: the interval's nominal coverage.
        p: sign-flip permutation p-value of "no difference".
        p_adjusted: ``p`` after Holm's correction over the arms compared; equal to ``p`` for one arm.
        effect_size: Hedges' g for paired data.
        n: queries compared.
        moved: queries on which the arms differ.
        mde: smallest true difference that ``n`` such queries show with probability 0.8.
        queries_needed: queries that show a difference of ``margin`` (or, without a margin, the observed one) with
            probability 0.8; None if no number would.
        margin: differences up to this size do not matter to the user.
        metric: what was measured.
    """

    word: Word
    difference: float
    interval: tuple[float, float]
    confidence: float
    p: float
    p_adjusted: float
    effect_size: float
    n: int
    moved: int
    mde: float
    queries_needed: int | None
    margin: float
    metric: str

    @property
    def sentence(self) -> str:
        """The verdict as one or two English sentences with its numbers."""
        return f"{self.word.capitalize()}: {self._claim()} ({self._numbers()}).{self._advice()}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary; an infinite effect size becomes None."""
        data = dataclasses.asdict(self)
        data["interval"] = list(self.interval)
        data["effect_size"] = self.effect_size if math.isfinite(self.effect_size) else None
        return {**data, "sentence": self.sentence}

    def _claim(self) -> str:
        if self.moved == 0:
            return f"{self.metric} is the same on every query"
        if self.word == "equivalent":
            return f"{self.metric} differs by {self.difference:+.4f} on average, reliably by less than {self.margin:g}"
        if self.word == "undecided":
            return f"{self.metric} differs by {self.difference:+.4f} on average, which may be chance"
        return (
            f"{self.metric} is {abs(self.difference):.4f} {'higher' if self.word == 'better' else 'lower'} on average"
        )

    def _numbers(self) -> str:
        low, high = self.interval
        shown = f"{100 * self.confidence:g}% interval {low:+.4f} to {high:+.4f}, {self.n} queries, p = {self.p:.2g}"
        return shown if self.p_adjusted == self.p else f"{shown}, {self.p_adjusted:.2g} after correction"

    def _advice(self) -> str:
        if self.word != "undecided":
            return ""
        if self.n < MIN_QUERIES:
            return f" At least {MIN_QUERIES} queries are needed to decide anything."
        if self.moved < MIN_MOVED:
            return f" Only {self.moved} queries moved; at least {MIN_MOVED} must for a claim."
        advice = f" This many queries show a difference of {self.mde:.4f}"
        if self.queries_needed is None or self.queries_needed <= self.n:
            return f"{advice}."
        return f"{advice}; showing {self.margin or abs(self.difference):.4f} takes about {self.queries_needed:,}."


def verdict(
    differences: ArrayLike,
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
    metric: str = "the metric",
    resamples: int | None = None,
    seed: Seed = 0,
) -> Verdict:
    """Compare one arm with a baseline.

    Args:
        differences: arm minus baseline, one number per query, on the queries that both arms answered.
        margin: differences up to this size count as none; zero means that equivalence cannot be shown.
        confidence: nominal coverage of the interval; the level of every claim is ``1 - confidence``.
        metric: name for the sentence.
        resamples: of the bootstrap and of the permutation test; default 4999, fewer beyond 2,000 queries.
        seed: an int or a generator.

    Raises:
        InputError: fewer than two queries, a non-finite difference, a negative margin, or a confidence that is not
            between 0 and 1 or too high for the resamples.
        MissingExtraError: scipy is not installed.
    """
    values = as_differences(differences)
    if values.ndim != 1:
        raise InputError(f"A verdict takes one number per query, got an array of shape {values.shape}")
    if not (margin >= 0.0 and math.isfinite(margin)):
        raise InputError(f"margin is zero or more, in units of {metric}, got {margin}")
    rng = np.random.default_rng(seed)
    low, high = mean_interval(values, confidence=confidence, resamples=resamples, seed=rng).tolist()
    p = float(sign_flip_p(values, resamples=resamples, seed=rng))
    spread, difference, alpha = float(values.std(ddof=1)), float(values.mean()), 1.0 - confidence
    return Verdict(
        word=_word(values, (low, high), margin),
        difference=difference,
        interval=(low, high),
        confidence=confidence,
        p=p,
        p_adjusted=p,
        effect_size=effect_size(values),
        n=values.size,
        moved=int(np.count_nonzero(values)),
        mde=detectable_difference(spread, values.size, alpha=alpha),
        queries_needed=queries_needed(margin or difference, spread, alpha=alpha),
        margin=margin,
        metric=metric,
    )


def verdicts(
    differences: Mapping[str, ArrayLike],
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
    metric: str = "the metric",
    resamples: int | None = None,
    seed: int = 0,
) -> dict[str, Verdict]:
    """Compare several arms with one baseline: a verdict per arm, with Holm's correction over the arms.

    Of several arms, a ``better`` or ``worse`` whose corrected p-value exceeds ``1 - confidence`` becomes ``undecided``,
    so that no arm is called better while one with stronger evidence is not. A single arm's word follows from its
    interval alone. Arguments as in :func:`verdict`; every arm is resampled from the same seed, so adding an arm changes
    no other arm's interval.
    """
    single = {
        arm: verdict(values, margin=margin, confidence=confidence, metric=metric, resamples=resamples, seed=seed)
        for arm, values in differences.items()
    }
    if len(single) < 2:
        return single
    adjusted = holm([item.p for item in single.values()])
    return {arm: _corrected(item, p) for (arm, item), p in zip(single.items(), adjusted, strict=True)}


def _word(values: NDArray[np.float64], interval: tuple[float, float], margin: float) -> Word:
    low, high = interval
    moved = np.count_nonzero(values)
    if values.size < MIN_QUERIES or 0 < moved < MIN_MOVED:
        return "undecided"
    if moved == 0 or (margin > 0.0 and -margin <= low and high <= margin):
        return "equivalent"
    if low <= 0.0 <= high:
        return "undecided"
    return "better" if low > 0.0 else "worse"


def _corrected(item: Verdict, p_adjusted: float) -> Verdict:
    fails = p_adjusted > 1.0 - item.confidence and item.word in ("better", "worse")
    return dataclasses.replace(item, p_adjusted=p_adjusted, word="undecided" if fails else item.word)
