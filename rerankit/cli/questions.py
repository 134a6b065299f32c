"""``rerankit questions``: a first test set from a corpus of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.output import JsonOption, emit, messages, printable, reporting, results
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.evaluation.questions import Made, Writer
    from rerankit.types import Passage

SQLITE = b"SQLite format 3\0"


def questions(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File (jsonl) to add questions to.")],
    llm: Annotated[
        str | None, typer.Option(metavar="URL#MODEL", help="Chat model that writes the questions (OpenAI-compatible).")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(metavar="FILE", help="Passages to ask about (jsonl).")] = None,
    store: Annotated[
        str | None, typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma store to take passages from.")
    ] = None,
    collection: Annotated[str, typer.Option("--collection", "-c", help="Name of the Chroma collection.")] = "rerankit",
    feedback: Annotated[
        Path | None,
        typer.Option("--from-feedback", metavar="LOG", help="Feedback to take questions from: JSON lines or sqlite."),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Name of the live experiment, for an sqlite log.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Largest number of questions in the file.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the choice of passages.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Make a test set for `rerankit compare`: a chat model writes questions on your passages, or users' feedback does.

    A model's questions are marked as synthetic, and every report says so. An interrupted run continues when the same
    command is given again.
    """
    with reporting(as_json):
        from rerankit.evaluation.questions import Writer

        if (llm is None) == (feedback is None):
            raise InputError("Say where the questions come from: --llm URL#MODEL or --from-feedback LOG")
        writer = Writer(out)
        if feedback is not None:
            made = _from_feedback(writer, feedback, experiment, count)
        else:
            made = _generate(writer, str(llm), _passages(corpus, store, collection), count, seed)
        if as_json:
            emit({"output": str(out), "questions": made.written, "new": made.new, "refused": made.refused})
        else:
            _show(made, out)


def _passages(corpus: Path | None, store: str | None, collection: str) -> Iterator[Passage]:
    if (corpus is None) == (store is None):
        raise InputError("Name the passages: --corpus FILE or --store DIR")
    if corpus is not None:
        from rerankit.evaluation.datasets import read_corpus

        return read_corpus(corpus)
    return _stored(str(store), collection)


def _stored(store: str, collection: str) -> Iterator[Passage]:
    from rerankit.rag.chroma import ChromaRetriever

    with ChromaRetriever(store, collection=collection) as retriever:
        yield from retriever.passages()


def _generate(writer: Writer, llm: str, passages: Iterator[Passage], count: int, seed: int) -> Made:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from rerankit.models.chat import ChatLM

    columns = (TextColumn("questions"), BarColumn(), MofNCompleteColumn())
    with ChatLM.from_spec(llm) as lm, Progress(*columns, console=messages(), transient=True) as bar:
        task = bar.add_task("", total=count, completed=writer.made.written)
        return writer.generate(passages, lm, count=count, seed=seed, progress=lambda n: bar.advance(task, n))


def _from_feedback(writer: Writer, log: Path, experiment: str | None, count: int) -> Made:
    from rerankit.evaluation.questions import from_feedback, read_feedback, read_log

    events: Iterator[dict[str, Any]]
    if _is_sqlite(log):
        if experiment is None:
            raise InputError(f"{log} is an sqlite log: name the live experiment too, with --experiment")
        events = read_log(log, experiment)
    else:
        events = read_feedback(log)
    return from_feedback(events, writer, count=max(0, count - writer.made.written))


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        raise InputError(f"There is no feedback log {path}")
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE


def _show(made: Made, out: Path) -> None:
    refused: Mapping[str, int] = made.refused
    lines = [f"{made.new} questions added to {out}, which holds {made.written} now"]
    lines += [f"  {number} left out: {reason}" for reason, number in refused.items()]
    results().print(*map(printable, lines), sep="\n")
