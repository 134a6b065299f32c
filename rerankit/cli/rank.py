"""``rerankit rank``: reorder lists of passages, from JSON lines or a TREC run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.output import DeadlineOption, JsonOption, emit, messages, reporting, to_json
from rerankit.cli.sink import check_target, sink
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.cli.inputs import Job
    from rerankit.rerankers.base import Reranker
    from rerankit.types import Ranking

LISTS_AT_ONCE = 32
"""How many lists go into one ``rank_many`` call: enough to fill batches, few enough to see output soon."""


class Format(StrEnum):
    """What INPUT holds."""

    JSONL = "jsonl"
    TREC = "trec"


def rank(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="A file, .gz too; - is stdin.")] = "-",
    spec: Annotated[
        str, typer.Option("--rerank", "-r", metavar="SPEC", help="Reranker to use; rerankit models lists them.")
    ] = "default",
    form: Annotated[
        Format, typer.Option("--format", "-f", help="Format of INPUT: JSON lines, or a TREC run.")
    ] = Format.JSONL,
    queries: Annotated[Path | None, typer.Option(help="Queries of a TREC run: JSON lines with _id and text.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Passages of a TREC run: JSON lines with _id, title and text.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", "--output", help="File to write to; default stdout.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, help="Keep only the best K.")] = None,
    deadline: DeadlineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reorder lists of passages.

    JSON lines in: `{"query": "...", "passages": ["text", {"id": "7", "text": "..."}], "id": "q1"}`; one ranking per
    line out, in the same order. A TREC run in, with --queries and --corpus: the reranked TREC run out.
    """
    if form is Format.TREC and (queries is None or corpus is None):
        raise typer.BadParameter("a TREC run has ids only: give --queries and --corpus too", param_hint="--format")
    if form is Format.JSONL and (queries or corpus):
        raise typer.BadParameter("--queries and --corpus go with --format trec", param_hint="--format")
    with reporting(as_json):
        from rerankit.cli.inputs import read_jobs, read_run
        from rerankit.spec import parse

        parse(spec)
        if output is not None:
            check_target(output)
        jobs = read_run(source, queries, corpus) if queries and corpus else read_jobs(source)
        started = time.perf_counter()
        rankings = _ranked(spec, jobs, top_k, deadline)
        if as_json and output is None:
            emit({"rankings": [_as_dict(job, found) for job, found in rankings], **_summary(jobs, started)})
            return
        with sink(output) as file:
            for job, ranking in rankings:
                file.write(_as_lines(job, ranking, form))
        if as_json:
            emit({"output": str(output), **_summary(jobs, started)})


def _ranked(spec: str, jobs: Sequence[Job], top_k: int | None, deadline: float | None) -> Iterator[tuple[Job, Ranking]]:
    from rerankit.spec import load

    with load(spec) as reranker, messages().status("") as status:
        step = LISTS_AT_ONCE if deadline is None else 1
        for start in range(0, len(jobs), step):
            status.update(f"reranking {start + 1} of {len(jobs)}")
            part = jobs[start : start + step]
            yield from zip(part, _rank_part(reranker, part, top_k, deadline), strict=True)


def _rank_part(reranker: Reranker, jobs: Sequence[Job], top_k: int | None, deadline: float | None) -> list[Ranking]:
    try:
        return reranker.rank_many([(job.query, job.passages) for job in jobs], top_k=top_k, deadline_s=deadline)
    except InputError as error:
        if len(jobs) == 1:
            raise InputError(f"{jobs[0].where}: {error}") from error
    return [_rank_part(reranker, [job], top_k, deadline)[0] for job in jobs]  # one by one, to find the wrong one


def _as_dict(job: Job, ranking: Ranking) -> dict[str, Any]:
    return ({} if job.id is None else {"id": job.id}) | ranking.to_dict()


def _as_lines(job: Job, ranking: Ranking, form: Format) -> str:
    if form is Format.JSONL:
        return to_json(_as_dict(job, ranking)) + "\n"
    return ranking.to_trec(query_id=job.id or "")


def _summary(jobs: Sequence[Job], started: float) -> dict[str, Any]:
    count = sum(len(job.passages) for job in jobs)
    return {"queries": len(jobs), "passages": count, "seconds": round(time.perf_counter() - started, 3)}
