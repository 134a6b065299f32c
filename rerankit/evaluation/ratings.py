"""Ratings from votes: Bradley-Terry for pairs, Plackett-Luce for more, ties included, with intervals.

A vote on K answers is read as a sequence of choices: the best of all, then the best of the rest, and so on. The chance
that the group T is chosen from S is proportional to ``delta[|T|] * geometric mean of the strengths in T``, over all
groups of S: the Davidson-Luce model (Firth, Kosmidis and Turner, "Davidson-Luce model for multi-item choice with
ties", 2019). Without ties it is Plackett-Luce (Plackett 1975); for pairs it is Davidson's (1970), and without ties
Bradley-Terry (1952).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError

__all__ = ["MOST_SHOWN", "Ratings", "Vote", "design", "fit_ratings"]

MOST_SHOWN = 8
"""Answers in one vote; the model enumerates the groups among them, and people cannot compare more."""

_PRIOR_SD = 3.0  # log-strengths this far apart mean 20 wins to 1: weak, yet finite for an arm that never lost


@dataclass(frozen=True, slots=True)
class Vote:
    """One person's judgement.

    Attributes:
        shown: the arms that were compared.
        order: groups of arms, best first; arms in one group tie. Arms of ``shown`` that are in no group were beaten by
            all groups, and nothing is said about their order: ``order=(("a",),)`` says that ``a`` was the best.
    """

    shown: tuple[str, ...]
    order: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        named = [arm for group in self.order for arm in group]
        repeated = len(set(named)) < len(named) or len(set(self.shown)) < len(self.shown)
        if repeated or not set(named) <= set(self.shown) or not all(self.order):
            raise InputError(f"A vote orders arms that were shown, each once, in groups that are not empty: {self}")
        if not 2 <= len(self.shown) <= MOST_SHOWN:
            raise InputError(f"A vote compares 2 to {MOST_SHOWN} arms, got {len(self.shown)}")

    def choices(self) -> Iterable[tuple[tuple[str, ...], tuple[str, ...]]]:
        """(arms to choose from, group chosen), step by step; a last arm alone is no choice."""
        left = sorted(self.shown)
        for group in self.order:
            if len(left) > 1:
                yield tuple(left), tuple(sorted(group))
            left = [arm for arm in left if arm not in group]


@dataclass(frozen=True, slots=True)
class Ratings:
    """Fitted strengths.

    Attributes:
        arms: their names.
        strengths: log-strength per arm, mean 0, shape ``[arms]``; a difference of x is odds of e^x to 1.
        ties: log of delta for every size of tie that occurred, by size.
        covariance: of strengths and ties before centring (Laplace), shape ``[arms + ties, arms + ties]``.
        votes: how many votes there were.
    """

    arms: tuple[str, ...]
    strengths: NDArray[np.float64]
    ties: dict[int, float]
    covariance: NDArray[np.float64]
    votes: int

    def elo(self, arm: str) -> float:
        """The strength on the chess scale: 1000 on average, 400 points are odds of 10 to 1."""
        return 1000.0 + 400.0 / math.log(10.0) * float(self.strengths[self._place(arm)])

    def interval(self, arm: str, *, confidence: float = 0.95) -> tuple[float, float]:
        """Interval of the log-strength, relative to the mean of all arms."""
        contrast = np.full(len(self.arms), -1.0 / len(self.arms))
        contrast[self._place(arm)] += 1.0
        return self._contrast(contrast, confidence)

    def difference(self, arm: str, baseline: str, *, confidence: float = 0.95) -> tuple[float, float, float]:
        """Log-strength of ``arm`` minus ``baseline``: estimate, lower end, upper end. It is real if 0 is outside."""
        contrast = np.zeros(len(self.arms))
        contrast[self._place(arm)] += 1.0
        contrast[self._place(baseline)] -= 1.0
        return float(contrast @ self.strengths), *self._contrast(contrast, confidence)

    def win_probability(self, arm: str, baseline: str) -> float:
        """Chance that ``arm`` wins a duel that has a winner."""
        lead = float(self.strengths[self._place(arm)] - self.strengths[self._place(baseline)])
        return 1.0 / (1.0 + math.exp(-lead))

    def leaderboard(self) -> list[str]:
        """Arms, strongest first."""
        return [self.arms[place] for place in np.argsort(-self.strengths, kind="stable")]

    def _contrast(self, contrast: NDArray[np.float64], confidence: float) -> tuple[float, float]:
        size = len(self.arms)
        spread = math.sqrt(float(contrast @ self.covariance[:size, :size] @ contrast))
        middle, half = float(contrast @ self.strengths), NormalDist().inv_cdf(0.5 + confidence / 2.0) * spread
        return middle - half, middle + half

    def _place(self, arm: str) -> int:
        if arm not in self.arms:
            raise InputError(f"There is no arm {arm!r}; known: {list(self.arms)}")
        return self.arms.index(arm)


def fit_ratings(votes: Sequence[Vote], *, arms: Sequence[str] = ()) -> Ratings:
    """Fit strengths to votes, by Newton's method on the concave log-posterior.

    The prior is normal with mean 0 and standard deviation 3 per log-strength: it hardly moves an arm with a few votes,
    and keeps one that never lost, or never met the others, finite and its interval wide.

    Args:
        votes: any number, none included.
        arms: arms to rate; those in the votes are added.

    Raises:
        InputError: there are fewer than two arms.
    """
    names = tuple(sorted({*arms, *(arm for vote in votes for arm in vote.shown)}))
    if len(names) < 2:
        raise InputError(f"Ratings compare at least two arms, got {list(names)}")
    choices = Counter(choice for vote in votes for choice in vote.choices())
    sizes = tuple(sorted({len(chosen) for _, chosen in choices} - {1}))
    likelihood = _Choices(choices, names, sizes)
    best, precision = _newton(likelihood, len(names) + len(sizes))
    strengths = best[: len(names)] - best[: len(names)].mean()
    ties = dict(zip(sizes, best[len(names) :].tolist(), strict=True))
    covariance = np.linalg.inv(precision).astype(np.float64)
    return Ratings(names, strengths, ties, covariance, len(votes))


def design(shown: Sequence[str], arms: Sequence[str], sizes: Sequence[int]) -> NDArray[np.float64]:
    """The alternatives of one choice as rows of a logit model, shape ``[alternatives, arms + sizes]``.

    A group's row holds 1/|group| for each of its arms, and 1 for the tie parameter of its size.
    """
    groups = [group for size in (1, *sizes) for group in combinations(shown, size)]
    rows = np.zeros((len(groups), len(arms) + len(sizes)))
    place = {arm: column for column, arm in enumerate(arms)}
    for row, group in zip(rows, groups, strict=True):
        row[[place[arm] for arm in group]] = 1.0 / len(group)
        if len(group) > 1:
            row[len(arms) + sizes.index(len(group))] = 1.0
    return rows


class _Choices:
    """Log-likelihood of choices with its derivatives: a conditional logit over segments of rows."""

    def __init__(
        self, choices: Counter[tuple[tuple[str, ...], tuple[str, ...]]], arms: Sequence[str], sizes: Sequence[int]
    ) -> None:
        blocks = [design(shown, arms, sizes) for shown, _ in choices]
        width = len(arms) + len(sizes)
        self.rows = np.concatenate([np.zeros((0, width)), *blocks])
        lengths = np.array([len(block) for block in blocks], dtype=np.intp)
        self.starts = np.cumsum(lengths) - lengths
        self.segment = np.repeat(np.arange(lengths.size), lengths)
        self.counts = np.array(list(choices.values()), dtype=np.float64)
        place = {arm: column for column, arm in enumerate(arms)}
        self.observed = np.zeros(width)
        for (_, chosen), count in choices.items():
            self.observed[[place[arm] for arm in chosen]] += count / len(chosen)
            if len(chosen) > 1:
                self.observed[len(arms) + sizes.index(len(chosen))] += count

    def evaluate(self, at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Log-posterior, gradient, and negative Hessian at ``at``."""
        precision = np.eye(at.size) / _PRIOR_SD**2
        value, gradient = float(self.observed @ at) - 0.5 * float(at @ precision @ at), self.observed - precision @ at
        if not self.counts.size:
            return value, gradient, precision
        utility = self.rows @ at
        top = np.maximum.reduceat(utility, self.starts)
        weight = np.exp(utility - top[self.segment])
        total = np.add.reduceat(weight, self.starts)
        chance = weight / total[self.segment] * self.counts[self.segment]
        expected = np.add.reduceat(chance[:, None] * self.rows, self.starts)
        precision += self.rows.T @ (chance[:, None] * self.rows) - expected.T @ (expected / self.counts[:, None])
        value -= float(self.counts @ (top + np.log(total)))
        return value, gradient - expected.sum(axis=0), precision


def _newton(choices: _Choices, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The maximum, and the negative Hessian there; steps are halved until they climb."""
    at = np.zeros(width)
    value, gradient, precision = choices.evaluate(at)
    for _ in range(100):
        step = np.linalg.solve(precision, gradient)
        if float(gradient @ step) < 1e-10:
            break
        while float(np.abs(step).max()) > 1e-12:
            higher = choices.evaluate(at + step)
            if higher[0] >= value:
                break
            step = step / 2.0
        at = at + step
        value, gradient, precision = choices.evaluate(at)
    return at, precision
