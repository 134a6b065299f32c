"""Planning a paired comparison: what can n queries detect, and how many queries does a difference need?

All of it is the paired t-test's (Cohen 1988; Sakai, "Statistical significance, power, and sample sizes", SIGIR 2016):
for a mean over some dozens of queries the bootstrap and the permutation test behave alike.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import ModuleType
from typing import Any

from rerankit.errors import InputError, require

__all__ = ["detectable_difference", "power", "queries_needed"]

_MOST = 10_000_000  # nobody labels more queries than this


def power(difference: float, spread: float, queries: int, *, alpha: float = 0.05) -> float:
    """Chance that a comparison shows a true mean ``difference``.

    Args:
        difference: true mean difference per query.
        spread: standard deviation of the per-query differences.
        queries: number of queries, at least 2.
        alpha: level of the two-sided test.

    Raises:
        InputError: an argument is out of range.
        MissingExtraError: scipy is not installed.
    """
    _check(spread, queries, alpha)
    if spread == 0.0:
        return 1.0 if difference else alpha
    freedom, shift = queries - 1, abs(difference) / spread * math.sqrt(queries)
    critical = _t_quantile(1.0 - alpha / 2.0, freedom)
    noncentral: Any = _stats().nct
    other_side = float(noncentral.cdf(-critical, freedom, shift)) if shift < 5.0 else 0.0
    return min(1.0, float(noncentral.sf(critical, freedom, shift)) + other_side)


def detectable_difference(spread: float, queries: int, *, alpha: float = 0.05, chance: float = 0.8) -> float:
    """The smallest true mean difference that ``queries`` queries show with probability ``chance``.

    ``(t(1 - alpha/2) + t(chance)) * spread / sqrt(queries)``, arguments as in :func:`power`.
    """
    _check(spread, queries, alpha)
    if not 0.0 < chance < 1.0:
        raise InputError(f"chance is a probability between 0 and 1, got {chance}")
    quantiles = _t_quantile(1.0 - alpha / 2.0, queries - 1) + _t_quantile(chance, queries - 1)
    return max(0.0, quantiles) * spread / math.sqrt(queries)


def queries_needed(difference: float, spread: float, *, alpha: float = 0.05, chance: float = 0.8) -> int | None:
    """How many queries show a true mean ``difference`` with probability ``chance``; None if no number that makes sense.

    Arguments as in :func:`power`.
    """
    _check(spread, 2, alpha)
    size = abs(difference)
    if size == 0.0 or detectable_difference(spread, _MOST, alpha=alpha, chance=chance) > size:
        return None
    low, high = 2, _MOST
    while low < high:  # the detectable difference falls with the number of queries
        middle = (low + high) // 2
        if detectable_difference(spread, middle, alpha=alpha, chance=chance) > size:
            low = middle + 1
        else:
            high = middle
    return low


def _check(spread: float, queries: int, alpha: float) -> None:
    if not (spread >= 0.0 and math.isfinite(spread)):
        raise InputError(f"spread is a standard deviation, zero or more, got {spread}")
    if queries < 2:
        raise InputError(f"A comparison needs at least 2 queries, got {queries}")
    if not 0.0 < alpha < 1.0:
        raise InputError(f"alpha lies between 0 and 1, got {alpha}")


@lru_cache(maxsize=4096)
def _t_quantile(probability: float, freedom: int) -> float:
    return float(_stats().t.ppf(probability, freedom))


def _stats() -> ModuleType:
    return require("scipy.stats", extra="eval", purpose="Power planning")
