"""RagPipeline: retrieve, rerank, pack, answer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Unpack

from rerankit.errors import InputError
from rerankit.models.work import deadline_after
from rerankit.rag.answer import Answer, Generator
from rerankit.rag.context import Context, PackOptions, pack
from rerankit.rag.events import Delta, Done, Event, Packed, RagResult, Reranked, Retrieved
from rerankit.rag.extractive import ExtractiveGenerator
from rerankit.rerankers.base import Reranker
from rerankit.types import Passage, Ranking

__all__ = ["Delta", "Done", "Event", "Packed", "RagPipeline", "RagResult", "Reranked", "Retrieved", "Retriever"]

logger = logging.getLogger(__name__)


class Retriever(Protocol):
    """Finds candidates, best first."""

    def retrieve(self, query: str, *, k: int | None = None, where: Mapping[str, Any] | None = None) -> list[Passage]:
        """At most ``k`` passages whose metadata match ``where``."""


@dataclass(slots=True)
class _Run:
    """One question on its way through the stages."""

    question: str
    deadline: float | None
    candidates: list[Passage] = field(default_factory=list)
    ranking: Ranking = field(default_factory=lambda: Ranking("", (), "", ""))
    context: Context = field(default_factory=Context)
    answer: Answer | None = None
    timings: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = time.monotonic() - started

    def remaining(self) -> float | None:
        """Seconds left, never quite none, so that each stage itself says what it does without time."""
        return None if self.deadline is None else max(1e-3, self.deadline - time.monotonic())

    def result(self) -> RagResult:
        return RagResult(self.question, self.candidates, self.ranking, self.context, self.written(), self.timings)

    def written(self) -> Answer:
        """The answer, which generators of somebody else's may forget."""
        if self.answer is None:
            raise InputError("The generator ended without an Answer; it must return one, and end its stream with one")
        return self.answer


class RagPipeline:
    """From a question to a cited answer.

    Args:
        retriever: finds ``fetch_k`` candidates, e.g. a :class:`~rerankit.rag.chroma.ChromaRetriever`.
        reranker: orders all of them.
        generator: writes the answer; default the embedded extractive one.
        fetch_k: candidates to fetch; reranking can only help if it is well above ``top_k``.
        top_k: passages that the context holds at most.
        on_generator_error: ``raise``, or ``extractive`` to answer with the best sentences; the log says what failed.
        **packing: options of :func:`~rerankit.rag.context.pack`: ``budget``, ``count_tokens``, ``order``,
            ``drop_duplicates``.

    Raises:
        InputError: ``fetch_k`` or ``top_k`` is not positive, or ``on_generator_error`` is unknown.
    """

    def __init__(
        self,
        retriever: Retriever,
        reranker: Reranker,
        generator: Generator | None = None,
        *,
        fetch_k: int = 50,
        top_k: int = 5,
        on_generator_error: Literal["raise", "extractive"] = "raise",
        **packing: Unpack[PackOptions],
    ) -> None:
        if fetch_k < 1 or top_k < 1:
            raise InputError(f"fetch_k and top_k must be at least 1, got {fetch_k} and {top_k}")
        if on_generator_error not in ("raise", "extractive"):
            raise InputError(f"on_generator_error is 'raise' or 'extractive', got {on_generator_error!r}")
        if fetch_k <= top_k:
            warnings.warn(
                f"fetch_k={fetch_k} is not above top_k={top_k}: the reranker can reorder the context but not choose it",
                stacklevel=2,
            )
        pack((), **packing)  # refuses wrong options now and not at the first question
        self.retriever, self.reranker, self.generator = retriever, reranker, generator or ExtractiveGenerator()
        self.fetch_k, self.top_k, self.on_generator_error, self.packing = fetch_k, top_k, on_generator_error, packing

    def ask(
        self, question: str, *, where: Mapping[str, Any] | None = None, deadline_s: float | None = None
    ) -> RagResult:
        """Answer ``question``.

        Args:
            question: not empty.
            where: a filter on metadata, in the retriever's language.
            deadline_s: seconds from now for reranking and answering, which keep to it as well as they can.

        Raises:
            InputError: the question is empty, or ``deadline_s`` is not a positive number.
            RerankitError: a stage failed. A retriever or generator of your own may raise anything.
        """
        run = _start(question, deadline_s)
        with run.stage("retrieve"):
            run.candidates = self.retriever.retrieve(question, k=self.fetch_k, where=where)
        with run.stage("rerank"):
            run.ranking = self.reranker.rank(question, run.candidates, **self._rank_options(run))
        self._pack(run)
        with run.stage("generate"):
            run.answer = _nothing_found(run, where) or self._generate(run)
        return run.result()

    async def aask(
        self, question: str, *, where: Mapping[str, Any] | None = None, deadline_s: float | None = None
    ) -> RagResult:
        """:meth:`ask` without blocking the event loop."""
        run = _start(question, deadline_s)
        with run.stage("retrieve"):
            run.candidates = await asyncio.to_thread(self.retriever.retrieve, question, k=self.fetch_k, where=where)
        with run.stage("rerank"):
            run.ranking = await self.reranker.arank(question, run.candidates, **self._rank_options(run))
        self._pack(run)
        with run.stage("generate"):
            run.answer = _nothing_found(run, where) or await self._agenerate(run)
        return run.result()

    def stream(
        self, question: str, *, where: Mapping[str, Any] | None = None, deadline_s: float | None = None
    ) -> Iterator[Event]:
        """The stages of :meth:`ask` as they end, the answer's text as it is written, and :class:`Done` at the end."""
        run = _start(question, deadline_s)
        return self._stream(run, where)

    def _stream(self, run: _Run, where: Mapping[str, Any] | None) -> Iterator[Event]:
        with run.stage("retrieve"):
            run.candidates = self.retriever.retrieve(run.question, k=self.fetch_k, where=where)
        yield Retrieved(run.candidates)
        with run.stage("rerank"):
            run.ranking = self.reranker.rank(run.question, run.candidates, **self._rank_options(run))
        yield Reranked(run.ranking)
        self._pack(run)
        yield Packed(run.context)
        with run.stage("generate"):
            yield from self._deltas(run, where)
        yield Done(run.result())

    async def astream(
        self, question: str, *, where: Mapping[str, Any] | None = None, deadline_s: float | None = None
    ) -> AsyncIterator[Event]:
        """:meth:`stream` without blocking the event loop."""
        run = _start(question, deadline_s)
        with run.stage("retrieve"):
            run.candidates = await asyncio.to_thread(self.retriever.retrieve, question, k=self.fetch_k, where=where)
        yield Retrieved(run.candidates)
        with run.stage("rerank"):
            run.ranking = await self.reranker.arank(question, run.candidates, **self._rank_options(run))
        yield Reranked(run.ranking)
        self._pack(run)
        yield Packed(run.context)
        with run.stage("generate"):
            async for delta in self._adeltas(run, where):
                yield delta
        yield Done(run.result())

    def _rank_options(self, run: _Run) -> dict[str, Any]:
        """All candidates, also from a reranker that is sliced to fewer: the context is cut from the whole order."""
        return {"top_k": max(1, len(run.candidates)), "deadline_s": run.remaining()}

    def _pack(self, run: _Run) -> None:
        with run.stage("pack"):
            run.context = pack(run.ranking.hits, limit=self.top_k, **self.packing)

    def _generate(self, run: _Run) -> Answer:
        try:
            return self.generator.generate(run.question, run.context, deadline_s=run.remaining())
        except Exception as error:  # generators are anybody's, and 'extractive' promises an answer
            return self._rescue(run, error)

    async def _agenerate(self, run: _Run) -> Answer:
        try:
            return await self.generator.agenerate(run.question, run.context, deadline_s=run.remaining())
        except Exception as error:  # generators are anybody's, and 'extractive' promises an answer
            return await asyncio.to_thread(self._rescue, run, error)

    def _deltas(self, run: _Run, where: Mapping[str, Any] | None) -> Iterator[Delta]:
        if nothing := _nothing_found(run, where):
            run.answer = nothing
            yield Delta(nothing.text)
            return
        try:
            for item in self.generator.stream(run.question, run.context, deadline_s=run.remaining()):
                if isinstance(item, Answer):
                    run.answer = item
                else:
                    yield Delta(item)
            run.written()
        except Exception as error:  # generators are anybody's, and 'extractive' promises an answer
            run.answer = self._rescue(run, error)

    async def _adeltas(self, run: _Run, where: Mapping[str, Any] | None) -> AsyncIterator[Delta]:
        if nothing := _nothing_found(run, where):
            run.answer = nothing
            yield Delta(nothing.text)
            return
        try:
            async for item in self.generator.astream(run.question, run.context, deadline_s=run.remaining()):
                if isinstance(item, Answer):
                    run.answer = item
                else:
                    yield Delta(item)
            run.written()
        except Exception as error:  # generators are anybody's, and 'extractive' promises an answer
            run.answer = await asyncio.to_thread(self._rescue, run, error)

    def _rescue(self, run: _Run, error: Exception) -> Answer:
        """The extractive answer in place of the one that failed, if the pipeline is to give one."""
        if self.on_generator_error == "raise" or isinstance(self.generator, ExtractiveGenerator):
            raise error
        kind, model = type(error).__name__, self.generator.model
        logger.warning("%s failed, answering with the best sentences: %s: %s", model, kind, error)
        answer = ExtractiveGenerator().generate(run.question, run.context)
        # Whoever asked may read the reason, but not the address of the model nor what it said.
        reason = f"The generator failed ({kind}); these are the best sentences. {answer.reason}".strip()
        return dataclasses.replace(answer, reason=reason)


def _start(question: str, deadline_s: float | None) -> _Run:
    if not isinstance(question, str) or not question.strip():
        raise InputError("The question is empty; ask something")
    return _Run(question, deadline_after(deadline_s))


def _nothing_found(run: _Run, where: Mapping[str, Any] | None) -> Answer | None:
    if run.candidates:
        return None
    narrowed = " under the given filter" if where else ""
    return Answer(
        "I can't answer that from the documents: nothing was found.",
        abstained=True,
        reason=f"The retriever found no candidates{narrowed}; is anything indexed?",
    )
