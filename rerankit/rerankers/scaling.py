"""Scores of one list brought to a common scale; safe for constant lists and for the largest and smallest floats."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NOISE = 1e-12
"""Relative spread below which scores are equal but for rounding."""


def unit_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Min-max scaling of finite scores ``[n]`` to 0..1; all ones if they do not differ."""
    if not len(scores):
        return scores.copy()
    low, high = float(scores.min()), float(scores.max())
    spread = high / 2 - low / 2  # halves, because high - low may overflow
    if spread <= _NOISE * max(abs(low), abs(high)):
        return np.ones(len(scores))
    return (scores / 2 - low / 2) / spread


def z_scores(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(score - mean) / standard deviation`` of finite scores ``[n]``; all zeros if they do not differ."""
    unit = unit_scores(scores)
    deviation = unit.std() if len(unit) else 0.0
    return (unit - unit.mean()) / deviation if deviation else np.zeros(len(scores))
