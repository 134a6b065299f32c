"""Ranking metrics, computed by ir_measures (trec_eval's own code underneath), per query.

Metrics are named as ir_measures names them: ``nDCG@10``, ``RR@10``, ``AP``, ``P@5``, ``R@50``, ``Success@5`` (hit
rate), ``Judged@10``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rerankit.errors import InputError, require
from rerankit.evaluation.formats import Qrels

__all__ = ["DEFAULT_METRICS", "PerQuery", "check_names", "rank_biased_overlap", "ranking_metrics", "unified_score"]

DEFAULT_METRICS = ("nDCG@10", "RR@10", "AP@100", "P@5", "R@10", "Success@1", "Judged@10")

PerQuery = dict[str, float]
"""One metric's value per query id."""


def ranking_metrics(
    orders: Mapping[str, Sequence[str]], qrels: Qrels, metrics: Sequence[str] = DEFAULT_METRICS
) -> dict[str, PerQuery]:
    """Each metric's value for each judged query.

    Args:
        orders: per query id, the passage ids, best first. A judged query without an order counts as an empty result.
        qrels: the judgements; queries without any are not evaluated.
        metrics: names as ir_measures writes them.

    Returns:
        Per metric, per query id, the value; equal to trec_eval's.

    Raises:
        InputError: a metric's name is not known, or an order holds a passage twice.
        MissingExtraError: ir_measures is not installed.
    """
    measures = require("ir_measures", extra="eval", purpose="Evaluation")
    parsed = {name: _parse(measures, name) for name in metrics}
    run = {query: _descending(query, orders[query]) for query in qrels if orders.get(query)}
    distinct = {str(measure): measure for measure in parsed.values()}  # one may have two names, as RR and MRR
    values: dict[str, PerQuery] = {name: dict.fromkeys(qrels, 0.0) for name in distinct}
    for item in measures.iter_calc(list(distinct.values()), qrels, run):
        values[str(item.measure)][item.query_id] = float(item.value)
    return {name: values[str(measure)] for name, measure in parsed.items()}


def check_names(metrics: Sequence[str]) -> None:
    """Look at metrics' names before hours are spent on computing them.

    Raises:
        InputError: one is not known.
        MissingExtraError: ir_measures is not installed.
    """
    measures = require("ir_measures", extra="eval", purpose="Evaluation")
    for name in metrics:
        _parse(measures, name)


def _parse(measures: Any, name: str) -> Any:
    try:
        return measures.parse_measure(name)
    except (NameError, ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"Unknown metric {name!r}; examples: {', '.join(DEFAULT_METRICS)}") from error


def _descending(query: str, order: Sequence[str]) -> dict[str, float]:
    """Scores that carry an order through tools that sort by score and break ties by id."""
    run = {passage: float(len(order) - place) for place, passage in enumerate(order)}
    if len(run) < len(order):
        raise InputError(f"The order for query {query!r} holds a passage twice")
    return run


def rank_biased_overlap(one: Sequence[str], two: Sequence[str], p: float = 0.9) -> float:
    """How alike two orders are, the top counting most: extrapolated RBO, between 0 and 1.

    Source: Webber, Moffat, Zobel, "A similarity measure for indefinite rankings" (TOIS 2010), equation 32.

    Args:
        one: ids, best first, each at most once.
        two: the other order.
        p: patience; with 0.9 the first ten places carry about 86 % of the weight.
    """
    short, long = sorted((one, two), key=len)
    if not long:
        return 1.0
    if not short:
        return 0.0
    s, depth = len(short), len(long)
    overlap = [0] * (depth + 1)
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    for d in range(1, depth + 1):
        seen_long.add(long[d - 1])
        if d <= s:
            seen_short.add(short[d - 1])
        overlap[d] = len(seen_short & seen_long)
    agreement = sum(overlap[d] / d * p**d for d in range(1, depth + 1))
    uneven = sum(overlap[s] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    tail = ((overlap[depth] - overlap[s]) / depth + overlap[s] / s) * p**depth
    return (1 - p) / p * (agreement + uneven) + tail


def unified_score(
    recall: float,
    ndcg: float,
    seconds: float,
    *,
    budget_s: float = 1.0,
    weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
) -> float:
    """Retrieval, ranking and cost in one number: ``recall^a * nDCG^b * min(1, budget / seconds)^c``.

    In the manner of LT-TTD's unified metric (arXiv 2505.04434), whose exact form is not reproduced here: this is our
    own, with its weights in the open. Being under the budget earns nothing; a zero in any part makes it zero.

    Args:
        recall: of the first stage at the candidates' depth, 0 to 1.
        ndcg: of the final order, 0 to 1.
        seconds: time per query.
        budget_s: time that is free of charge.
        weights: the exponents a, b, c.
    """
    if seconds < 0 or budget_s <= 0 or min(weights) < 0:
        raise InputError("unified_score needs seconds >= 0, budget_s > 0 and weights >= 0")
    a, b, c = weights
    speed = min(1.0, budget_s / seconds) if seconds > 0 else 1.0
    return float(recall**a * ndcg**b * speed**c)
