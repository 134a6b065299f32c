"""nDCG@10 on dev lists: how a reranker does while it learns, and what its card says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rerankit.evaluation.metrics import ranking_metrics
from rerankit.training.card import Table

__all__ = ["METRIC", "mean_ndcg", "ndcg_table", "over_sets"]

METRIC = "nDCG@10"


def mean_ndcg(ranked: Iterable[tuple[Sequence[int] | NDArray[np.int64], NDArray[np.float32]]]) -> float:
    """Mean nDCG@10 of lists.

    Args:
        ranked: of each list the places of its passages, best first, and the grades by place, ``[n]``.
    """
    orders: dict[str, list[str]] = {}
    grades: dict[str, dict[str, int]] = {}
    for number, (places, values) in enumerate(ranked):
        orders[str(number)] = [str(place) for place in places]
        grades[str(number)] = {str(place): _whole(grade) for place, grade in enumerate(values.tolist())}
    return float(np.mean(list(ranking_metrics(orders, grades, [METRIC])[METRIC].values())))


def over_sets(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a run from those of its dev sets by name: the mean, which counts, and each."""
    return {METRIC: float(np.mean(list(values.values()))), **{f"{METRIC} {name}": v for name, v in values.items()}}


def ndcg_table(sizes: Mapping[str, int], columns: Mapping[str, Mapping[str, float]], command: str) -> Table:
    """The dev sets in a card.

    Args:
        sizes: lists per set.
        columns: metrics as of :func:`over_sets`, by the head of their column.
        command: that measures them.
    """
    rows = [[name, size, *(found[f"{METRIC} {name}"] for found in columns.values())] for name, size in sizes.items()]
    rows.append(["mean of the sets", sum(sizes.values()), *(found[METRIC] for found in columns.values())])
    return Table(f"{METRIC} on the dev lists", ("set", "lists", *columns), rows, command)


def _whole(grade: float) -> int:
    """A grade as trec_eval wants it; one that is a little relevant stays relevant."""
    return max(round(grade), int(grade > 0))
