"""The farm assistant: a corpus, a store on disk, a reranker and a memory, put together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rerankit
from rerankit.cli.output import printable
from rerankit.errors import InputError, RerankitError
from rerankit.rag.agent import Assistant
from rerankit.rag.extractive import ExtractiveGenerator
from rerankit.rag.loading import load
from rerankit.samples import farm
from rerankit.types import Passage

FLOOR = 0.05  # for the sample corpus: where the names tell quail from hens, doubt need not
FOLDER = Path(".rerankit/farm-assistant")


def build(
    files: list[str] | None = None, *, folder: Path = FOLDER, rerank: str = "default", llm: str | None = None
) -> Assistant:
    """An assistant over ``files``, or over the sample corpus; its store and memory are kept in ``folder``.

    Each file that cannot be read is named on standard error. What the store has of earlier starts is then kept, since
    it may come from that file.

    Raises:
        RerankitError: a file is not there, none can be read, or ``rerank`` or ``llm`` cannot be used.
    """
    passages, whole = _read(files) if files else (farm.passages(), True)
    retriever = rerankit.ChromaRetriever(folder / "store", hybrid=True)
    judge = ExtractiveGenerator(floor=None if files else FLOOR, vocabulary=farm.vocabulary())
    assistant = Assistant(retriever, rerankit.load(rerank), llm=llm, judge=judge, memory=folder / "memory.sqlite")
    retriever.index(passages, prune=whole)  # last, for it takes longest
    return assistant


def _read(files: list[str]) -> tuple[list[Passage], bool]:
    """The passages, and whether that is all that there is."""
    loaded = load(files)
    for problem in loaded.problems:
        print(printable(str(problem)), file=sys.stderr)
    if not loaded.passages:
        raise InputError("None of the files could be read, so there is nothing to answer from")
    whole = not any(problem.skipped for problem in loaded.problems)
    if not whole:
        print("Passages of earlier starts are kept, since not everything could be read", file=sys.stderr)
    return loaded.passages, whole


@contextmanager
def mistakes_in_one_line(*others: type[Exception]) -> Iterator[None]:
    """End the program with a line on standard error and status 1 where an ordinary mistake would be a traceback."""
    mistakes: tuple[type[Exception], ...] = (RerankitError, OSError, UnicodeError, *others)
    try:
        yield
    except mistakes as error:
        sys.exit(f"Error: {printable(str(error))}")
    except KeyboardInterrupt:
        sys.exit(130)
