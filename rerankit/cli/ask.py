"""``rerankit ask``: a question in; the context before and after reranking, and the answer with its citations, out."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.index import CollectionOption, check_store, index_files
from rerankit.cli.output import DeadlineOption, JsonOption, emit, messages, reporting
from rerankit.errors import InputError, require
from rerankit.rag.bounds import all_of
from rerankit.rerankers.prepare import clean, is_blank
from rerankit.spec import parse

if TYPE_CHECKING:
    from rerankit.rag.chroma import ChromaRetriever
    from rerankit.rag.pipeline import RagPipeline

SAMPLE = "sample:farm"
"""Names the corpus that ships with rerankit."""


def ask(
    question: Annotated[str, typer.Argument(help="The question to answer.")],
    store: Annotated[
        str | None, typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma's folder, or its server.")
    ] = None,
    collection: CollectionOption = "rerankit",
    corpus: Annotated[
        str | None,
        typer.Option(metavar="PATH", help=f"File or folder to index first; {SAMPLE} is the sample corpus."),
    ] = None,
    spec: Annotated[
        str, typer.Option("--rerank", "-r", metavar="SPEC", help="Reranker to use; rerankit models lists them.")
    ] = "default",
    fetch_k: Annotated[int, typer.Option(min=1, help="Candidates to retrieve and rerank.")] = 30,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Passages to show and answer from.")] = 5,
    llm: Annotated[
        str | None, typer.Option(metavar="URL#MODEL", help="Let a chat model write the answer (OpenAI-compatible).")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option("--filter", metavar="NAME=VALUE", help="Use only passages with this metadata; repeatable."),
    ] = None,
    deadline: DeadlineOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a question with citations, and show what reranking changed.

    Without --store and --corpus the question goes to the sample corpus of farm knowledge, which is indexed on first
    use. Everything runs offline unless --llm or a model on the hub is asked for.
    """
    if fetch_k <= top_k:
        raise typer.BadParameter("must be above --top-k, or reranking has nothing to choose", param_hint="--fetch-k")
    with reporting(as_json):
        where, timings = all_of(_condition(item) for item in filters or []), _Timings()
        _check(question, spec, store)
        retriever = _retriever(store, collection, corpus, fetch_k)
        with retriever:
            with timings.stage("load"), messages().status("Loading the models"):
                require("chromadb", extra="chroma", purpose="The Chroma store")
                if store is not None and corpus is None:
                    retriever.count()  # a store that is not there is noticed before models are loaded
                pipeline = _pipeline(retriever, spec, fetch_k, top_k, llm)
            with timings.stage("index"), messages().status("Looking at the corpus"):
                _index(retriever, store, corpus)
            if as_json:
                _as_json(pipeline, question, where, deadline, timings)
            else:
                from rerankit.cli.show import show_answer

                show_answer(pipeline.stream(question, where=where, deadline_s=deadline), top_k, timings.merged)


class _Timings:
    """Seconds of what happens before the pipeline runs."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._before: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._before[name] = time.perf_counter() - started

    def merged(self, pipeline: Mapping[str, float]) -> dict[str, float]:
        """All stages and their sum, seconds."""
        answer = pipeline["pack"] + pipeline["generate"]
        stages = {**self._before, "retrieve": pipeline["retrieve"], "rerank": pipeline["rerank"], "answer": answer}
        return {**stages, "total": time.perf_counter() - self._started}


def _check(question: str, spec: str, store: str | None) -> None:
    """Find what is wrong before models are loaded."""
    if is_blank(clean(question)):
        raise InputError("The question is empty; ask something")
    parse(spec)
    if store is not None:
        check_store(store)


def _retriever(store: str | None, collection: str, corpus: str | None, fetch_k: int) -> ChromaRetriever:
    from rerankit.rag.chroma import ChromaRetriever

    return ChromaRetriever(store or _own_store(corpus or SAMPLE), collection=collection, fetch_k=fetch_k)


def _own_store(corpus: str) -> Path:
    """A folder in the cache that belongs to one corpus."""
    from rerankit.models.files import cache_folder

    identity = corpus if corpus == SAMPLE else str(Path(corpus).expanduser().absolute())
    return cache_folder("stores") / hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _pipeline(retriever: ChromaRetriever, spec: str, fetch_k: int, top_k: int, llm: str | None) -> RagPipeline:
    from rerankit.rag.pipeline import RagPipeline
    from rerankit.spec import load

    reranker, generator = load(spec), None  # first, since the spec may name what is not there
    if llm is not None:
        from rerankit.rag.generative import ChatGenerator

        generator = ChatGenerator(llm)
    _ = retriever.embedder  # loaded now, like chromadb, so that their time is not counted as another stage's
    return RagPipeline(retriever, reranker, generator, fetch_k=fetch_k, top_k=top_k)


def _index(retriever: ChromaRetriever, store: str | None, corpus: str | None) -> None:
    """Bring the corpus into the store; a store that was named alone is asked as it is."""
    if store is not None and corpus is None:
        return
    if corpus in (None, SAMPLE):
        from rerankit.samples import farm

        retriever.index(farm.passages(), prune=store is None)
        return
    _, problems = index_files(retriever, [corpus], prune=store is None, progress=False)
    for problem in problems:
        typer.echo(f"Warning: {problem}", err=True)


def _condition(item: str) -> dict[str, Any]:
    """``year=2020`` may have been stored as a number or as text, so either matches."""
    name, sign, text = item.partition("=")
    if not sign or not name:
        raise InputError(f"A filter is written NAME=VALUE, got {item!r}")
    values: list[Any] = [text, *_as_number(text)]
    if text.lower() in ("true", "false"):
        values.append(text.lower() == "true")
    options = [{name: value} for value in values]
    return {"$or": options} if len(options) > 1 else options[0]


def _as_number(text: str) -> list[int | float]:
    """``text`` as the number that Chroma would have stored, if it is one: 64 bits, or finite."""
    limits: list[tuple[type[int] | type[float], float]] = [(int, 2**63), (float, math.inf)]
    for kind, limit in limits:
        try:
            number = kind(text)
        except ValueError:
            continue
        if abs(number) < limit:
            return [number]
    return []


def _as_json(
    pipeline: RagPipeline, question: str, where: Mapping[str, Any] | None, deadline: float | None, timings: _Timings
) -> None:
    result = pipeline.ask(question, where=where, deadline_s=deadline)
    ranking = {name: value for name, value in result.ranking.to_dict().items() if name != "stages"}
    emit({**result.to_dict(), "ranking": ranking, "timings": timings.merged(result.timings)})
