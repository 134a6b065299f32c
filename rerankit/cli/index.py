"""``rerankit index``: files into a Chroma collection."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.output import JsonOption, emit, reporting
from rerankit.errors import InputError
from rerankit.rerankers.prepare import clean

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
    prune: Annotated[bool, typer.Option("--prune", help="Delete passages whose files are no longer given.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load files, cut them into passages and bring them into a Chroma collection.

    May be run again at any time: only what is new or changed is embedded and written. Files that cannot be read are
    listed at the end; then --prune deletes nothing.
    """
    with reporting(as_json):
        from rerankit.rag.chroma import ChromaRetriever

        check_store(store)
        with ChromaRetriever(store, collection=collection) as retriever:
            report, problems = index_files(retriever, paths, prune=prune, progress=sys.stderr.isatty())
        counts = dataclasses.asdict(report)
        if not any(counts[name] for name in ("added", "updated", "unchanged")):
            raise _no_text(paths, problems)
        if as_json:
            emit({"store": store, "collection": collection, **counts, "problems": [_as_dict(p) for p in problems]})
        else:
            from rerankit.cli.show import show_index

            show_index(counts, [str(problem) for problem in problems])


def check_store(store: str) -> None:
    """Refuse a store that is a file.

    Raises:
        InputError: it is one.
    """
    if Path(store).expanduser().is_file():
        raise InputError(f"The store {store} is a file; a store is a folder, or the http:// address of a Chroma server")


def index_files(
    retriever: ChromaRetriever, paths: list[str], *, prune: bool, progress: bool
) -> tuple[IndexReport, list[Problem]]:
    """Index files, and prune only if all of them could be read: a file that is broken today is not gone.

    Raises:
        InputError: there is no text in them; then no store is made.
    """
    problems: list[Problem] = []
    passages = _with_text(_passages(paths, problems))
    if passages is None:
        raise _no_text(paths, problems)

    def all_read() -> bool:
        return not any(problem.skipped for problem in problems)

    return retriever.index(passages, prune=prune and all_read, progress=progress), problems


def _no_text(paths: list[str], problems: list[Problem]) -> InputError:
    return InputError("; ".join(map(str, problems)) or f"There is no text in {', '.join(paths)}")


def _with_text(passages: Iterator[Passage]) -> Iterator[Passage] | None:
    """The same passages, read up to the first that holds text; None if there is none."""
    head = []
    for passage in passages:
        head.append(passage)
        if clean(passage.text).strip():
            return itertools.chain(head, passages)
    return None


def _passages(paths: list[str], problems: list[Problem]) -> Iterator[Passage]:
    from rerankit.rag.loading import iter_passages

    return iter_passages([Path(path) for path in paths], on_problem=problems.append)


def _as_dict(problem: Problem) -> dict[str, Any]:
    return dataclasses.asdict(problem)
