"""Position bias: people click what stands on top. Measure how much, and take it out of the clicks.

A click at a position counts the inverse of the chance that the position is looked at (Joachims, Swaminathan and
Schnabel, "Unbiased learning-to-rank with biased feedback", WSDM 2017). The chances are given, or estimated by swapping
the top passage with another one on some impressions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerankit.errors import InputError

__all__ = ["counterfactual_dcg", "estimate_propensities", "inverse_weights", "swap"]


def swap(ids: Sequence[str], *, seed: int | np.random.Generator) -> tuple[tuple[str, ...], int]:
    """A swap intervention: with probability 1/2 the top passage changes places with one at a random position.

    Returns:
        The ids to show, and the position (from 1; the top is 0) that takes part, whether or not it was swapped. Log
        both. A list of one passage takes no part: position 0.
    """
    shown = list(ids)
    if len(shown) < 2:
        return tuple(shown), 0
    rng = np.random.default_rng(seed)
    position = int(rng.integers(1, len(shown)))
    if rng.integers(2):
        shown[0], shown[position] = shown[position], shown[0]
    return tuple(shown), position


def estimate_propensities(impressions: Iterable[tuple[int, Collection[int]]], *, depth: int) -> NDArray[np.float64]:
    """Chance that a position is looked at, relative to the top, from swap interventions.

    Where position k takes part, the coin shows the same two passages at the top and at k equally often, so the ratio
    of clicks is the ratio of attention. One click is added to both counts: a position without data counts as the top,
    which corrects nothing.

    Args:
        impressions: (position that took part, clicked positions from 0) per impression.
        depth: number of positions.

    Returns:
        Propensities in (0, 1], shape ``[depth]``; the first is 1.
    """
    top, other = np.ones(depth), np.ones(depth)
    for position, clicked in impressions:
        if 0 < position < depth:
            top[position] += 0 in clicked
            other[position] += position in clicked
    return np.minimum(1.0, other / top)


def inverse_weights(propensities: ArrayLike, *, floor: float = 0.05) -> NDArray[np.float64]:
    """What a click at each position counts: ``1 / max(propensity, floor)``.

    The floor keeps a few clicks far down from deciding everything: some bias for much less variance.

    Raises:
        InputError: a propensity outside (0, 1], or a floor outside (0, 1].
    """
    chances = np.asarray(propensities, dtype=np.float64)
    if not ((chances > 0.0) & (chances <= 1.0)).all() or not 0.0 < floor <= 1.0:
        raise InputError("Propensities and their floor lie above 0 and are at most 1")
    return np.asarray(1.0 / np.maximum(chances, floor))


def counterfactual_dcg(
    ranking: Sequence[str],
    shown: Sequence[str],
    clicked: Collection[int],
    weights: Sequence[float] | NDArray[np.float64],
) -> float:
    """The DCG that ``ranking`` would have on a query, estimated from clicks on another list.

    Each clicked passage counts its discount in ``ranking``, ``1 / log2(1 + rank)``, times the weight of the position
    at which it was shown. Averaged over impressions and divided by the same average for a second ranking, it compares
    rerankers on clicks that neither of them collected.

    Args:
        ranking: ids in the order under evaluation; a clicked passage that it lacks counts nothing.
        shown: ids in the order shown.
        clicked: positions in ``shown``, from 0.
        weights: from :func:`inverse_weights`, at least one per clicked position.

    Raises:
        InputError: a clicked position that was not shown or has no weight.
    """
    if any(not 0 <= position < min(len(shown), len(weights)) for position in clicked):
        raise InputError(
            f"Clicked positions {sorted(clicked)} go beyond the {len(shown)} passages or {len(weights)} weights"
        )
    ranks = {name: rank for rank, name in enumerate(ranking, 1)}
    found = [(ranks[shown[position]], position) for position in set(clicked) if shown[position] in ranks]
    return float(sum(weights[position] / math.log2(1 + rank) for rank, position in found))
