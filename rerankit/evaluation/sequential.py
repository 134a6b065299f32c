"""Always-valid inference: look at a running experiment whenever you like, stop when you like.

A fixed-sample p-value that is looked at every day calls a difference that is not there far more often than 5 % of the
time. A confidence sequence covers the true mean at *all* times at once with probability ``1 - alpha``.

The method is hedged betting of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting"
(JRSS B 2024, with a fixed portfolio of stakes): for every candidate mean a gambler bets that it is wrong. If it is
right, their wealth ever exceeds ``1 / alpha`` with probability at most ``alpha`` (Ville's inequality), whatever the
distribution of the bounded observations. The difference of two arms is the mean of a bounded signed observation,
weighted by the known assignment probability (Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 2021, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerankit.errors import InputError

__all__ = ["Sequential", "confidence_sequence", "log_wealth", "sample_ratio_p", "signed_observations"]

_STAKES = 2.0 * 0.4 ** np.arange(6)
"""The portfolio: an equal part of the capital goes to each stake, so that some stake suits any effect size."""
_MOST_LOST = 0.5  # no bet may cost more than half of the capital
_BLOCK = 500
_POINTS, _ROUNDS = 8, 5  # of the search for the interval's ends: exact to 1 / 9^5 of the range


@dataclass(frozen=True, slots=True)
class Sequential:
    """What a stream of observations says so far.

    Attributes:
        n: observations.
        mean: their mean; 0 when there is none.
        interval: confidence sequence for the true mean; never widens as observations come in.
        p: always-valid p-value of "the true mean is ``null``"; never rises as observations come in.
        null: the value that ``p`` tests.
        alpha: chance that the interval ever misses the true mean.
    """

    n: int
    mean: float
    interval: tuple[float, float]
    p: float
    null: float
    alpha: float

    @property
    def decided(self) -> bool:
        """Whether ``null`` is ruled out."""
        return self.p <= self.alpha


def confidence_sequence(
    values: ArrayLike, *, low: float = 0.0, high: float = 1.0, null: float = 0.0, alpha: float = 0.05
) -> Sequential:
    """Confidence sequence and always-valid p-value after all of ``values``, in the order in which they came.

    The observations must share one mean given the past; if the true mean drifts, the p-value still tests that it was
    ``null`` throughout.

    Args:
        values: observations, shape ``[n]``; none is allowed.
        low: lower bound that every observation is known to respect *beforehand*.
        high: upper bound likewise.
        null: value to test, within the bounds.
        alpha: level.

    Raises:
        InputError: an observation out of bounds or not finite, or senseless bounds.
    """
    observed = np.asarray(values, dtype=np.float64).ravel()
    if not low < high or not low <= null <= high or not 0.0 < alpha < 1.0:
        raise InputError(f"Expected low < high, null within them, 0 < alpha < 1; got {low}, {high}, {null}, {alpha}")
    if not ((observed >= low) & (observed <= high)).all():
        raise InputError(f"An observation lies outside the bounds [{low}, {high}] or is not finite")
    unit, width = (observed - low) / (high - low), high - low
    peak = max((float(block.max()) for block in log_wealth(unit, np.array([(null - low) / width]))), default=0.0)
    ends = _lower_end(unit, alpha), 1.0 - _lower_end(1.0 - unit, alpha)
    if ends[0] > ends[1]:  # the observations cannot share one mean; where they lie on average is the best that is left
        ends = float(unit.mean()), float(unit.mean())
    return Sequential(
        n=observed.size,
        mean=float(observed.mean()) if observed.size else 0.0,
        interval=(low + ends[0] * width, low + ends[1] * width),
        p=math.exp(-max(0.0, peak)),
        null=null,
        alpha=alpha,
    )


def log_wealth(values: NDArray[np.float64], means: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Log of the capital won against each candidate mean, over time.

    Half of the capital bets that the mean is higher, half that it is lower; the better half is counted. Where this
    exceeds ``log(1 / alpha)``, the candidate is ruled out at level ``alpha``, for good.

    Args:
        values: observations in [0, 1], shape ``[..., time]``.
        means: candidate means in [0, 1], shape ``[candidates]``.

    Yields:
        Consecutive blocks of time, shape ``[..., block, candidates]``.
    """
    for higher, lower in zip(_log_upward(values, means), _log_upward(1.0 - values, 1.0 - means), strict=True):
        yield np.maximum(higher, lower) - math.log(2.0)


def signed_observations(rewards: ArrayLike, treated: ArrayLike, *, share: float) -> tuple[NDArray[np.float64], float]:
    """Turn rewards of two randomly assigned arms into observations whose mean is the difference of the arms.

    A unit's reward, less the mean reward of all units before it (which lowers the variance and changes no mean), counts
    ``1 / share`` if it was treated and ``-1 / (1 - share)`` if not.

    Args:
        rewards: in [0, 1], shape ``[n]``, in the order of assignment.
        treated: True where the treatment was assigned, shape ``[n]``.
        share: probability of treatment, known in advance.

    Returns:
        The observations, and the bound that their absolute values respect.

    Raises:
        InputError: rewards outside [0, 1], different lengths, or ``share`` not between 0 and 1.
    """
    reward, arm = np.asarray(rewards, dtype=np.float64), np.asarray(treated, dtype=bool)
    if reward.shape != arm.shape or not ((reward >= 0.0) & (reward <= 1.0)).all() or not 0.0 < share < 1.0:
        raise InputError("Expected rewards in [0, 1], one arm per reward, and a treatment share between 0 and 1")
    past = np.arange(reward.shape[-1])
    before = (0.5 + np.cumsum(reward, axis=-1) - reward) / (1.0 + past)
    signed = (reward - before) * np.where(arm, 1.0 / share, -1.0 / (1.0 - share))
    return signed, 1.0 / min(share, 1.0 - share)


def sample_ratio_p(counts: ArrayLike, shares: ArrayLike) -> float:
    """p-value that the units were split as planned; a tiny one means that the experiment itself is broken.

    The inverse of the Bayes factor of a flat Dirichlet prior against the plan, which may be looked at any time (Lindon
    and Malek, "Anytime-valid inference for multinomial count data", NeurIPS 2022).

    Args:
        counts: units per arm.
        shares: planned share per arm, summing to one.
    """
    seen, planned = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    evidence = math.lgamma(seen.size) - math.lgamma(seen.size + float(seen.sum()))
    evidence += sum(math.lgamma(1.0 + count) for count in seen.tolist()) - float(seen @ np.log(planned))
    return math.exp(-max(0.0, evidence))


def _log_upward(values: NDArray[np.float64], means: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Log of a capital of 1 that bets on means higher than the candidates; it falls as the candidate rises."""
    with np.errstate(divide="ignore"):
        stakes = np.minimum(_STAKES, _MOST_LOST / means[:, None])
    capital = np.zeros((*values.shape[:-1], 1, means.size, _STAKES.size))
    for start in range(0, values.shape[-1], _BLOCK):
        gaps = values[..., start : start + _BLOCK, None] - means
        path = capital + np.cumsum(np.log1p(stakes * gaps[..., None]), axis=-3)
        capital = path[..., -1:, :, :]
        yield np.logaddexp.reduce(path, axis=-1) - math.log(_STAKES.size)


def _lower_end(values: NDArray[np.float64], alpha: float) -> float:
    """The highest candidate mean known to be ruled out from below; 0 if none is."""
    low, high = 0.0, 1.0
    for _ in range(_ROUNDS):
        inner = np.linspace(low, high, _POINTS + 2)[1:-1]
        peaks = np.zeros(_POINTS)
        for block in _log_upward(values, inner):
            peaks = np.maximum(peaks, block.max(axis=-2))
        ruled_out = int((peaks - math.log(2.0) >= math.log(1.0 / alpha)).sum())
        edges = np.concatenate([[low], inner, [high]])
        low, high = float(edges[ruled_out]), float(edges[ruled_out + 1])
    return low
