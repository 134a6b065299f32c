"""How alike the orders of several rerankers are on one list."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from rerankit.server.mcp_results import Move, Overlap
from rerankit.types import Ranking

__all__ = ["indices", "moves", "overlaps"]


def indices(ranking: Ranking) -> list[int]:
    """Positions in the input, from 0, best first."""
    return [hit.prior_rank - 1 for hit in ranking]


def moves(ranking: Ranking) -> list[Move]:
    """The hits whose place is new."""
    return [
        Move(index=hit.prior_rank - 1, from_rank=hit.prior_rank, to_rank=hit.rank) for hit in ranking if hit.moved != 0
    ]


def overlaps(orders: Mapping[str, Sequence[int]], top_k: int) -> list[Overlap]:
    """Every two of the orders, each a permutation of the same positions."""
    return [
        Overlap(
            first=first,
            second=second,
            shared=len(set(orders[first][:top_k]) & set(orders[second][:top_k])),
            kendall_tau=kendall_tau(orders[first], orders[second]),
        )
        for first, second in itertools.combinations(orders, 2)
    ]


def kendall_tau(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Rank correlation of two permutations of ``n`` positions (Kendall, 1938); None below two."""
    count = len(first)
    if count < 2:
        return None
    places = np.argsort(second)[np.asarray(first)]  # of the first order's items, their places in the second
    later = np.triu(np.sign(places[None, :] - places[:, None]), 1)
    return float(later.sum() / (count * (count - 1) / 2))
