"""How far two sets of judgements agree, such as a model's labels and people's, and whether it matters for rankings.

Cohen's kappa corrects agreement for what chance would give: 1 is perfect, 0 is chance. Weighted, it counts a
disagreement by its distance (linear) or the square of it (quadratic); Cohen, "Weighted kappa" (Psychological Bulletin
1968). Judgements of one query hang together, so every interval resamples whole queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, require
from rerankit.evaluation.formats import Qrels
from rerankit.evaluation.metrics import ranking_metrics
from rerankit.evaluation.resampling import Seed, resample_counts

__all__ = ["Agreement", "Comparison", "Figure", "agreement", "compare_labels"]

_RESAMPLES = 1999
_GRADED = 2  # a human grade of 2 or more says that people did not just say yes or no

Orders = Mapping[str, Sequence[str]]
"""Per query id, passage ids, best first."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A value with the ends of its 95 % interval; None where it is not defined, such as kappa with one grade only."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two sets of judgements on the pairs that both judged.

    Attributes:
        pairs, queries: how many there are of each.
        confusion: pairs by grade; rows are the first set's grades, columns the second's.
        figures: ``accuracy``, ``kappa``, with three and more grades ``kappa_linear`` and ``kappa_quadratic`` too.
    """

    pairs: int
    queries: int
    confusion: tuple[tuple[int, ...], ...]
    figures: Mapping[str, Figure]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model's labels beside people's.

    Attributes:
        graded: on three grades, human ones above 2 counted as 2; None if people only said yes or no.
        binary: on relevant or not.
        human_from, labels_from: the grades that count as relevant there.
        ndcg: per run, nDCG@10 by human and by the model's labels, over the pairs that both judged alone.
        tau: Kendall's tau-b between the two orders of the runs; None with fewer than two runs, or all of them equal.
    """

    graded: Agreement | None
    binary: Agreement
    human_from: int
    labels_from: int
    ndcg: Mapping[str, tuple[float, float]]
    tau: float | None


def agreement(first: Qrels, second: Qrels, *, levels: int = 3, seed: Seed = 0) -> Agreement:
    """Agreement on the pairs that both judged.

    Args:
        first: judgements, usually people's; grades 0 to ``levels - 1``.
        second: the other judgements.
        levels: number of grades.
        seed: of the resampling.

    Returns:
        Counts, and figures with 95 % percentile bootstrap intervals over queries. A resample on which a figure is not
        defined is left out of its interval; there is none where that befalls more than one resample in twenty, or with
        fewer than two queries.

    Raises:
        InputError: no pair was judged by both, or a grade lies outside the scale.
    """
    tables = _tables(first, second, levels)
    queries = len(tables)
    whole = _figures(tables.sum(axis=0))
    draws: dict[str, list[NDArray[np.float64]]] = {name: [] for name in whole}
    if queries > 1:
        for counts in resample_counts(np.random.default_rng(seed), _RESAMPLES, queries):
            drawn = (counts @ tables.reshape(queries, -1)).reshape(-1, levels, levels)
            for name, values in _figures(drawn).items():
                draws[name].append(values)
    return Agreement(
        pairs=int(tables.sum()),
        queries=queries,
        confusion=tuple(tuple(int(cell) for cell in row) for row in tables.sum(axis=0)),
        figures={name: _figure(float(value), draws[name]) for name, value in whole.items()},
    )


def compare_labels(
    human: Qrels, labels: Qrels, runs: Mapping[str, Orders] | None = None, *, labels_from: int = 2, seed: Seed = 0
) -> Comparison:
    """A model's labels in three grades held against human judgements of any scale.

    Args:
        human: what people said; grades below 0 count as 0. With grades of 2 and more, 2 and up count as relevant, as is
            usual with TREC's four grades; else 1.
        labels: what the model said, 0 to 2.
        runs: orders to evaluate by both.
        labels_from: the label from which a passage counts as relevant.
        seed: of the resampling.

    Raises:
        InputError: no pair was judged by both.
        MissingExtraError: there are runs, and ir_measures or scipy is not installed.
    """
    if labels_from not in (1, 2):
        raise InputError(f"labels_from is 1 or 2, got {labels_from!r}")
    human, labels = _common(human, labels), _common(labels, human)
    graded = any(grade >= _GRADED for grades in human.values() for grade in grades.values())
    human_from = _GRADED if graded else 1
    binary = agreement(_cut(human, human_from), _cut(labels, labels_from), levels=2, seed=seed)
    ndcg = {name: (_ndcg(order, human), _ndcg(order, labels)) for name, order in (runs or {}).items()}
    return Comparison(
        graded=agreement(_three(human), labels, seed=seed) if graded else None,
        binary=binary,
        human_from=human_from,
        labels_from=labels_from,
        ndcg=ndcg,
        tau=_tau(list(ndcg.values())),
    )


def _tables(first: Qrels, second: Qrels, levels: int) -> NDArray[np.float64]:
    """Confusion tables of the queries that both judged, shape ``[queries, levels, levels]``."""
    pairs = [
        [(grade, second[query][passage]) for passage, grade in grades.items() if passage in second.get(query, {})]
        for query, grades in first.items()
    ]
    pairs = [found for found in pairs if found]
    if not pairs:
        raise InputError("No passage was judged by both for the same query; do the ids of queries and passages agree?")
    tables = np.zeros((len(pairs), levels, levels))
    for table, found in zip(tables, pairs, strict=True):
        for one, two in found:
            if not (0 <= one < levels and 0 <= two < levels):
                raise InputError(f"Grades lie between 0 and {levels - 1}, got {one} and {two}")
            table[one, two] += 1
    return tables


def _figures(tables: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Accuracy and kappas of confusion tables, shapes ``[..., levels, levels]`` to ``[...]``; NaN where undefined."""
    levels = tables.shape[-1]
    shares = tables / tables.sum(axis=(-2, -1), keepdims=True)
    by_chance = shares.sum(axis=-1)[..., :, None] * shares.sum(axis=-2)[..., None, :]
    distance = np.abs(np.subtract.outer(np.arange(levels), np.arange(levels)))
    weights = {"kappa": distance > 0, "kappa_linear": distance, "kappa_quadratic": distance**2}
    found = {"accuracy": np.trace(shares, axis1=-2, axis2=-1)}
    for name, weight in list(weights.items())[: 1 if levels == 2 else 3]:  # with two grades they are all the same
        seen, expected = (weight * shares).sum(axis=(-2, -1)), (weight * by_chance).sum(axis=(-2, -1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found[name] = np.where(expected > 0, 1 - seen / expected, np.nan)
    return found


def _figure(value: float, draws: Sequence[NDArray[np.float64]]) -> Figure:
    if math.isnan(value):
        return Figure(None)
    values = np.concatenate(draws) if draws else np.empty(0)
    defined = values[~np.isnan(values)]
    if not len(values) or len(defined) < 0.95 * len(values):
        return Figure(value)
    low, high = np.quantile(defined, (0.025, 0.975))
    return Figure(value, float(low), float(high))


def _common(qrels: Qrels, other: Qrels) -> Qrels:
    """The judgements of pairs that the other judged too."""
    both = {query: {p: g for p, g in grades.items() if p in other.get(query, {})} for query, grades in qrels.items()}
    return {query: grades for query, grades in both.items() if grades}


def _cut(qrels: Qrels, least: int) -> Qrels:
    return {query: {p: int(grade >= least) for p, grade in grades.items()} for query, grades in qrels.items()}


def _three(qrels: Qrels) -> Qrels:
    return {query: {p: min(max(grade, 0), 2) for p, grade in grades.items()} for query, grades in qrels.items()}


def _ndcg(orders: Orders, qrels: Qrels) -> float:
    """Mean nDCG@10 of the judged passages in their order; grades below 0 gain nothing."""
    judged = {query: [p for p in order if p in qrels.get(query, {})] for query, order in orders.items()}
    positive = {query: {p: max(g, 0) for p, g in grades.items()} for query, grades in qrels.items()}
    values = ranking_metrics(judged, positive, ["nDCG@10"])["nDCG@10"].values()
    return math.fsum(values) / len(values)


def _tau(values: Sequence[tuple[float, float]]) -> float | None:
    if len(values) < 2:
        return None
    stats = require("scipy.stats", extra="eval", purpose="Kendall's tau")
    tau = float(stats.kendalltau(*zip(*values, strict=True)).statistic)
    return None if math.isnan(tau) else tau
