"""Simulated per-query differences with a known mean: to prove the statistics right, and to plan an experiment.

Differences of nDCG@10 between two rerankers have many zeros (both arms agree on the top) and long, uneven tails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError

__all__ = ["SHAPES", "Shape"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A distribution of per-query differences: zero, or a Beta-distributed gain, or a Beta-distributed loss.

    Attributes:
        zeros: probability that a query does not move.
        gain, loss: parameters of the Beta distributions of the sizes of gains and losses.
    """

    zeros: float
    gain: tuple[float, float]
    loss: tuple[float, float]

    def draw(self, rng: np.random.Generator, experiments: int, queries: int, mean: float = 0.0) -> NDArray[np.float64]:
        """Differences with the true mean ``mean``, shape ``[experiments, queries]``, within [-1, 1].

        Raises:
            InputError: no mixture of these gains and losses has that mean.
        """
        size = (experiments, queries)
        gains = rng.random(size) < self._gain_share(mean)
        moves = np.where(gains, rng.beta(*self.gain, size), -rng.beta(*self.loss, size))
        return np.where(rng.random(size) < self.zeros, 0.0, moves)

    def spread(self, mean: float = 0.0) -> float:
        """Standard deviation of a difference."""
        share = self._gain_share(mean)
        second = share * _second_moment(self.gain) + (1.0 - share) * _second_moment(self.loss)
        return math.sqrt((1.0 - self.zeros) * second - mean**2)

    def _gain_share(self, mean: float) -> float:
        gain, loss = (first / (first + second) for first, second in (self.gain, self.loss))
        share = (mean / (1.0 - self.zeros) + loss) / (gain + loss)
        if not 0.0 <= share <= 1.0:
            raise InputError(f"No mixture of the gains and losses of {self} has the mean {mean}")
        return share


def _second_moment(beta: tuple[float, float]) -> float:
    first, total = beta[0], sum(beta)
    return first * (first + 1.0) / (total * (total + 1.0))


SHAPES = {
    "even": Shape(zeros=0.3, gain=(1.0, 4.0), loss=(1.0, 4.0)),
    "skewed": Shape(zeros=0.4, gain=(0.8, 3.0), loss=(0.9, 5.0)),
    "rare": Shape(zeros=0.75, gain=(0.7, 2.0), loss=(0.7, 2.0)),
    "lopsided": Shape(zeros=0.5, gain=(0.6, 2.0), loss=(1.0, 12.0)),
}
"""From benign to hard: few zeros, even tails; uneven tails; three quarters zeros; rare big gains, many small losses."""
