"""Resampling on paired per-query differences: an interval for their mean, a test that it is zero, Holm, effect size.

Everything takes differences of shape ``[..., queries]`` and shares the resamples over the leading axes, so that a
simulation of thousands of experiments runs the very code that a single verdict runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerankit.errors import InputError

__all__ = ["Seed", "as_differences", "effect_size", "holm", "mean_interval", "resample_counts", "sign_flip_p"]

Seed = int | np.random.Generator
_CELLS = 2_000_000  # numbers drawn at a time: bounds the memory, whatever the number of queries


def as_differences(differences: ArrayLike) -> NDArray[np.float64]:
    """Differences as float64, shape ``[..., queries]``.

    Raises:
        InputError: fewer than two queries, or a value that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] < 2:
        raise InputError("A comparison needs the differences of at least two queries that both arms answered")
    if not np.isfinite(values).all():
        raise InputError("A difference is not finite: give each query a value on both arms, or leave it out of both")
    return values


def mean_interval(
    differences: ArrayLike, *, confidence: float = 0.95, resamples: int | None = None, seed: Seed = 0
) -> NDArray[np.float64]:
    """Symmetric studentised bootstrap interval for the mean difference.

    Each resample's mean is divided by its own standard error; the ``confidence`` quantile of the absolute values takes
    the place of Student's t (Hall, "On symmetric bootstrap confidence intervals", JRSS B 1988). On small samples of
    skewed differences with many zeros it keeps its level better than BCa and the equal-tailed bootstrap-t, which are
    too short there; ``benchmarks/simulation.py`` prints the comparison, and the lopsided mixtures on which no interval
    keeps its level below some 200 queries.

    Args:
        differences: arm minus baseline, shape ``[..., queries]``.
        confidence: nominal coverage, between 0 and 1.
        resamples: bootstrap resamples; default 4999, fewer beyond 2,000 queries, where a mean needs no more.
        seed: an int or a generator.

    Returns:
        Lower and upper end, shape ``[..., 2]``.

    Raises:
        InputError: see :func:`as_differences`; or the confidence is not between 0 and 1, or so high that less than one
            of the resamples would lie outside the interval.
    """
    values = as_differences(differences)
    queries = values.shape[-1]
    draws = _resamples(resamples, queries)
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence lies between 0 and 1, got {confidence}")
    if draws * (1.0 - confidence) < 1.0:
        enough = math.ceil(1.0 / (1.0 - confidence))
        raise InputError(
            f"A confidence of {confidence} needs resamples={enough} or more, not {draws}: there is no tail"
        )
    mean = values.mean(axis=-1, keepdims=True)
    centred = values - mean
    variance = (centred**2).mean(axis=-1, keepdims=True)
    # Where most queries did not move, some resamples hold almost none that did: their t would be huge and the interval
    # useless. So a resample's variance counts as at least half the sample's.
    floor = np.maximum(variance / 2.0, np.finfo(float).tiny)
    parts = []
    for counts in resample_counts(np.random.default_rng(seed), draws, queries):
        shift = centred @ counts.T / queries
        spread = np.maximum((centred**2) @ counts.T / queries - shift**2, floor)
        parts.append(np.abs(shift) / np.sqrt(spread / (queries - 1)))
    t = np.quantile(np.concatenate(parts, axis=-1), confidence, axis=-1)[..., None]
    half = t * np.sqrt(variance / (queries - 1))
    return np.concatenate([mean - half, mean + half], axis=-1)


def sign_flip_p(differences: ArrayLike, *, resamples: int | None = None, seed: Seed = 0) -> NDArray[np.float64]:
    """Two-sided p-value of the paired permutation test.

    If the two arms are alike, each query's difference could as well have had the other sign. The p-value is the share
    of random sign patterns (the observed one included) with a mean at least as far from zero (Fisher 1935; Smucker,
    Allan and Carterette, "A comparison of statistical significance tests for IR evaluation", CIKM 2007). The sum of
    squares does not change under flips, so the test on the mean and the test on Student's t are the same test.

    Args:
        differences: arm minus baseline, shape ``[..., queries]``.
        resamples: random sign patterns; default 4999, fewer beyond 2,000 queries.
        seed: an int or a generator.

    Returns:
        p-values, shape ``[...]``; at least ``1 / (resamples + 1)``.

    Raises:
        InputError: see :func:`as_differences`.
    """
    values = as_differences(differences)
    queries = values.shape[-1]
    draws = _resamples(resamples, queries)
    rng = np.random.default_rng(seed)
    reach = np.abs(values.sum(axis=-1, keepdims=True)) - 1e-12 * np.abs(values).sum(axis=-1, keepdims=True)
    extreme = np.ones(values.shape[:-1])
    for size in _chunks(draws, queries):
        signs = 2.0 * rng.integers(0, 2, size=(size, queries), dtype=np.int8) - 1.0
        extreme += (np.abs(values @ signs.T) >= reach).sum(axis=-1)
    return np.asarray(extreme / (draws + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of any false claim in the family under the level (Holm 1979)."""
    count = len(p_values)
    adjusted, highest = [0.0] * count, 0.0
    for step, position in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (count - step) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def effect_size(differences: ArrayLike) -> float:
    """Mean difference in units of its standard deviation over queries, without small-sample bias.

    Cohen's d for paired data times ``1 - 3 / (4n - 5)`` (Hedges 1981). 0.2 is called small, 0.5 medium, 0.8 large.
    Zero when all differences are zero, infinite when they are one and the same other number.
    """
    values = as_differences(differences)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if spread <= 1e-12 * abs(mean):
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread * (1.0 - 3.0 / (4.0 * values.size - 5.0))


def resample_counts(rng: np.random.Generator, resamples: int, queries: int) -> Iterator[NDArray[np.float64]]:
    """How often each query occurs in each bootstrap resample, shape ``[size, queries]``, a bounded part at a time."""
    for size in _chunks(resamples, queries):
        drawn = rng.integers(0, queries, size=(size, queries))
        drawn += queries * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * queries)
        yield counts.reshape(size, queries).astype(np.float64)


def _resamples(asked: int | None, queries: int) -> int:
    if asked is None:
        return min(4999, max(999, 10_000_000 // queries))
    if asked < 99:
        raise InputError(f"At least 99 resamples are needed, got {asked}")
    return asked


def _chunks(resamples: int, queries: int) -> Iterator[int]:
    step = max(1, _CELLS // queries)
    for start in range(0, resamples, step):
        yield min(step, resamples - start)
