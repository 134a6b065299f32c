"""From a comparison matrix to scores: five rules over the same numbers.

A matrix is float64 ``[n, n]``: entry i, j is the share of the contest that the row won, 1 minus entry j, i: 0, 1/2 and
1 for verdicts, anything between for probabilities. NaN: the pair is not decided. Row 0 was first in the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["RULES", "SCALES", "Aggregate", "borda", "bradley_terry", "page_rank", "path", "wins"]

Floats: TypeAlias = NDArray[np.float64]
Aggregate = Literal["wins", "borda", "bradley-terry", "pagerank", "path"]

PRIOR_SD = 3.0
"""Of a log-strength: 20 wins to 1 are no surprise, yet a passage that never lost stays finite."""

DAMPING = 0.85
EXACT_PATH = 12
"""Passages up to which the best path is found by dynamic programming, in n^2 * 2^n steps."""


def wins(matrix: Floats) -> Floats:
    """Contests won, ties counted half (Qin et al., arXiv:2306.17563); so are pairs not decided. Float64 ``[n]``."""
    return np.asarray(np.nan_to_num(matrix, nan=0.5).sum(axis=1) - 0.5, np.float64)


def borda(matrix: Floats) -> Floats:
    """Share of a passage's own decided contests that it won, 1/2 if it has none. Float64 ``[n]``."""
    known = np.isfinite(matrix)
    met = known.sum(axis=1)
    won = np.where(known, matrix, 0.0).sum(axis=1)
    return np.where(met > 0, won / np.maximum(met, 1), 0.5)


def bradley_terry(matrix: Floats) -> Floats:
    """Log-strengths: i beats j with probability ``1 / (1 + exp(s_j - s_i))`` (Bradley and Terry 1952). Float64 ``[n]``.

    The maximum of the likelihood times a normal prior, by Newton's method. The prior makes it unique and finite, also
    where passages won every contest, or where groups never met.
    """
    known = np.isfinite(matrix)
    shares = np.where(known, matrix, 0.0)
    strengths = np.zeros(len(matrix))
    value = -np.inf
    for _ in range(100):
        leads = strengths[:, None] - strengths[None, :]
        expected = known / (1.0 + np.exp(-leads))
        gradient = (shares - expected).sum(axis=1) - strengths / PRIOR_SD**2
        variance = expected * (1.0 - expected)
        precision = np.diag(variance.sum(axis=1) + 1.0 / PRIOR_SD**2) - variance
        step = np.linalg.solve(precision, gradient)
        if float(gradient @ step) < 1e-10:  # so near that one more whole step squares the error
            return np.asarray(strengths + step, np.float64)
        value, strengths = _climb(lambda at: _log_posterior(shares, known, at), strengths, step, value)
    return strengths


def _log_posterior(shares: Floats, known: NDArray[np.bool_], strengths: Floats) -> float:
    leads = strengths[:, None] - strengths[None, :]
    return float(-(shares * known * np.logaddexp(0.0, -leads)).sum() - (strengths**2).sum() / (2.0 * PRIOR_SD**2))


def _climb(objective: Callable[[Floats], float], at: Floats, step: Floats, value: float) -> tuple[float, Floats]:
    """The point after the longest of step, step/2, step/4 ... that does not go down."""
    for _ in range(60):
        higher = objective(at + step)
        if higher >= value:
            return higher, at + step
        step = step / 2.0
    return value, at


def page_rank(matrix: Floats) -> Floats:
    """How often a walk from losers to winners is at a passage; adds up to 1 (PRP-Graph, ACL 2024). Float64 ``[n]``.

    A step from a passage goes to one that it did not beat, in proportion to the other's share of the contest; with
    probability 0.15, or where nothing beat it, the walk starts again anywhere. The paper starts it rather at passages
    that were early in the input; here the input decides between equals only, and never against the judge.
    """
    size = len(matrix)
    steps = np.where(np.isfinite(matrix) & (matrix >= 0.5), matrix, 0.0)  # from column to row
    leaving = steps.sum(axis=0)
    steps = np.where(leaving > 0.0, steps / np.where(leaving > 0.0, leaving, 1.0), 1.0 / size)
    return np.asarray(
        np.linalg.solve(np.eye(size) - DAMPING * steps, np.full(size, (1.0 - DAMPING) / size)), np.float64
    )


def path(matrix: Floats) -> Floats:
    """``n - 1 - place`` on the path through all passages whose steps, winner to loser, weigh most. Float64 ``[n]``.

    The idea of TSPRank (arXiv:2411.12064): what counts is each passage's lead over the next one. Exact up to
    ``EXACT_PATH`` passages; beyond, the order by wins improved by turning round segments while that gains anything.
    """
    weights = np.nan_to_num(matrix, nan=0.5)
    order = np.argsort(-np.round(wins(matrix), 9), kind="stable")
    weights = weights[np.ix_(order, order)]
    best = _exact_path(weights) if len(weights) <= EXACT_PATH else _improved_path(weights)
    places = np.empty(len(weights))
    places[order[best]] = np.arange(len(weights))
    return len(weights) - 1.0 - places


def _exact_path(weights: Floats) -> NDArray[np.int64]:
    """Held and Karp (1962): for every set of passages and each of them, the best path that visits the set from it."""
    size = len(weights)
    passages = np.arange(size)
    best = np.full((1 << size, size), -np.inf)
    best[1 << passages, passages] = 0.0
    for visited in range(1, 1 << size):
        firsts = passages[visited >> passages & 1 == 1]
        if len(firsts) > 1:
            best[visited, firsts] = (weights[firsts] + best[visited ^ (1 << firsts)]).max(axis=1)
    order, left = [int(np.round(best[-1], 9).argmax())], (1 << size) - 1
    for _ in range(size - 1):
        left &= ~(1 << order[-1])
        order.append(int(np.round(weights[order[-1]] + best[left], 9).argmax()))
    return np.array(order)


def _improved_path(weights: Floats) -> NDArray[np.int64]:
    """2-opt for directed weights, starting from the order 0, 1, 2 ...; the best turn first."""
    size = len(weights)
    order = np.arange(size)
    for _ in range(10 * size):
        gains = _gains(weights[np.ix_(order, order)])
        first, last = np.unravel_index(int(np.round(gains, 9).argmax()), gains.shape)
        if gains[first, last] < 1e-9:
            break
        order[first : last + 1] = order[first : last + 1][::-1]
    return order


def _gains(weights: Floats) -> Floats:
    """What turning round the places i..j of the path 0, 1, 2 ... gains, float64 ``[n, n]``; -inf for i >= j."""
    size = len(weights)
    along = np.concatenate([[0.0], np.cumsum(np.diagonal(weights, 1))])
    back = np.concatenate([[0.0], np.cumsum(np.diagonal(weights, -1))])
    inside = (back[None, :] - back[:, None]) - (along[None, :] - along[:, None])
    before, after = np.zeros((size, size)), np.zeros((size, size))
    before[1:] = weights[:-1] - np.diagonal(weights, 1)[:, None]  # row i: a step from i - 1 to j instead of to i
    after[:, :-1] = weights[:, 1:] - np.diagonal(weights, 1)[None, :]  # column j: to j + 1 from i instead of from j
    return np.where(np.triu(np.ones((size, size), bool), 1), inside + before + after, -np.inf)


RULES: dict[Aggregate, Callable[[Floats], Floats]] = {
    "wins": wins,
    "borda": borda,
    "bradley-terry": bradley_terry,
    "pagerank": page_rank,
    "path": path,
}

SCALES: dict[Aggregate, str] = {
    "wins": "wins",
    "borda": "win-rate",
    "bradley-terry": "log-strength",
    "pagerank": "pagerank",
    "path": "order",
}
"""What a score of each rule means: what ``Ranking.scale`` says."""
