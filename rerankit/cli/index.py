"""``rerankit index``: files into a Chroma collection."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.output import JsonOption, emit, reporting
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.rag.chroma import ChromaRetriever, IndexReport
    from rerankit.rag.loading import Problem
    from rerankit.types import Passage

StoreOption = Annotated[str, typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma's folder, or its server.")]
CollectionOption = Annotated[str, typer.Option("--collection", "-c", help="Name of the Chroma collection.")]


def index(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders or glob patterns.")],
    store: StoreOption,
    collection: CollectionOption = "rerankit",
    prune: Annotated[bool, typer.Option("--prune", help="Delete what is no longer among the files.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load files, cut them into passages and bring them into a Chroma collection.

    May be run again at any time: only what is new or changed is embedded and written. Files that cannot be read are
    listed at the end; then --prune deletes nothing.
    """
    with reporting(as_json):
        from rerankit.rag.chroma import ChromaRetriever

        with ChromaRetriever(store, collection=collection) as retriever:
            report, problems = index_files(retriever, paths, prune=prune, progress=sys.stderr.isatty())
        counts = dataclasses.asdict(report)
        if not any(counts[name] for name in ("added", "updated", "unchanged")):
            raise InputError("; ".join(map(str, problems)) or f"There is no text in {', '.join(paths)}")
        if as_json:
            emit({"store": store, "collection": collection, **counts, "problems": [_as_dict(p) for p in problems]})
        else:
            from rerankit.cli.show import show_index

            show_index(counts, [str(problem) for problem in problems])


def index_files(
    retriever: ChromaRetriever, paths: list[str], *, prune: bool, progress: bool
) -> tuple[IndexReport, list[Problem]]:
    """Index files, and prune only if all of them could be read: a file that is broken today is not gone."""
    problems: list[Problem] = []
    report = retriever.index(_passages(paths, problems), progress=progress)
    if prune and not any(problem.skipped for problem in problems):
        again = retriever.index(_passages(paths, []), prune=True)
        report = dataclasses.replace(report, deleted=again.deleted, seconds=report.seconds + again.seconds)
    return report, problems


def _passages(paths: list[str], problems: list[Problem]) -> Iterator[Passage]:
    from rerankit.rag.loading import iter_passages

    return iter_passages([Path(path) for path in paths], on_problem=problems.append)


def _as_dict(problem: Problem) -> dict[str, Any]:
    return dataclasses.asdict(problem)
