"""``rerankit eval``: metrics of runs that exist already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankit.cli.compare import MetricOption
from rerankit.cli.output import JsonOption, emit, reporting
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.evaluation.formats import Qrels
    from rerankit.evaluation.metrics import PerQuery


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN.trec...", help="TREC runs to measure, .gz too.")],
    qrels: Annotated[Path, typer.Option(help="Relevance judgements: TREC qrels, or tab-separated with a header.")],
    metrics: MetricOption = None,
    per_query: Annotated[
        bool, typer.Option("--per-query", help="With --json, print the values of each query too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the metrics of existing TREC runs, as trec_eval computes them.

    Means are over all judged queries; one that a run lacks counts as zero.
    """
    with reporting(as_json):
        from rerankit.evaluation.formats import read_qrels
        from rerankit.evaluation.metrics import DEFAULT_METRICS, check_names

        names = metrics or list(DEFAULT_METRICS)
        check_names(names)
        judged = read_qrels(qrels)
        if not judged:
            raise InputError(f"{qrels} holds no judgement")
        values = {str(path): _values(path, judged, names) for path in runs}
        means = {run: {m: sum(v.values()) / len(v) for m, v in found.items()} for run, found in values.items()}
        if as_json:
            emit({"queries": len(judged), "runs": means, **({"per_query": values} if per_query else {})})
        else:
            from rerankit.cli.show_comparison import show_runs

            show_runs(means)


def _values(path: Path, qrels: Qrels, metrics: list[str]) -> dict[str, PerQuery]:
    """By score; equal scores in trec_eval's order, which is that of the ids from behind."""
    from rerankit.evaluation.formats import read_run
    from rerankit.evaluation.metrics import ranking_metrics

    run = read_run(path)
    if not set(run) & set(qrels):
        raise InputError(f"No query of {path} is judged: its first is {next(iter(run), 'none')!r}, "
                         f"that of the judgements {next(iter(qrels))!r}")  # fmt: skip
    orders = {query: sorted(found, key=lambda name: (found[name], name), reverse=True) for query, found in run.items()}
    return ranking_metrics(orders, qrels, metrics)
