"""The MCP tools: rerank, search, ask, compare. Docstrings of tools and descriptions of arguments are for agents."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ResourceNotFoundError, ToolError
from pydantic import Field

from rerankit.errors import InputError, RerankitError
from rerankit.rag.answer import Generator
from rerankit.rag.events import Done, Packed, RagResult, Reranked, Retrieved
from rerankit.rag.extractive import ExtractiveGenerator
from rerankit.rag.pipeline import RagPipeline
from rerankit.redaction import without_addresses
from rerankit.rerankers.base import Reranker
from rerankit.rerankers.prepare import clean
from rerankit.server.mcp_compare import indices, moves, overlaps
from rerankit.server.mcp_convert import candidate, cited_answer, found_passage, judged, ranked
from rerankit.server.mcp_models import Bounds, Library, Rerankers
from rerankit.server.mcp_results import (
    AskResult,
    Collection,
    Collections,
    CompareResult,
    GivenPassage,
    Models,
    Order,
    RerankResult,
    SearchResult,
)
from rerankit.server.problems import Problem, problem_of
from rerankit.types import Passage, Ranking

__all__ = ["Tools"]

logger = logging.getLogger(__name__)

_FILTER_LEVELS = 6
_CANDIDATES = 30
_STEPS: dict[type, tuple[int, int, str]] = {
    Retrieved: (1, 4, "found candidates"),
    Reranked: (2, 4, "reranked"),
    Packed: (3, 4, "writing the answer"),
    Done: (4, 4, "answered"),
}

Question = Annotated[str, Field(description="The question, in plain words.")]
RerankerName = Annotated[str | None, Field(description="One of the reranker names; default the first.")]
CollectionName = Annotated[str | None, Field(description="Which collection; may be left out if there is only one.")]
Passages = Annotated[list[str | GivenPassage], Field(description="Texts, or objects with text, title and id.")]
TopK = Annotated[int, Field(ge=1, description="How many passages to give back.")]
Fetched = Annotated[int | None, Field(ge=1, description="How many candidates to find and rerank; default 30.")]
Filters = Annotated[
    dict[str, Any] | None,
    Field(description='Metadata filter in Chroma\'s language, e.g. {"year": {"$gte": 2020}}.'),
]


class Tools:
    """The tools over one set of rerankers and, if there is one, one store.

    Args:
        rerankers: those that callers may name.
        library: the collections; without them there is no ``search`` and no ``ask``.
        generator: writes answers; default the embedded extractive one.
        bounds: of every call.
    """

    def __init__(
        self,
        rerankers: Rerankers,
        library: Library | None = None,
        generator: Generator | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.rerankers, self.library, self.bounds = rerankers, library, bounds or Bounds()
        self.generator = generator or ExtractiveGenerator()
        self._calls = 0

    async def rerank(
        self,
        query: Question,
        passages: Passages,
        ctx: Context,
        reranker: RerankerName = None,
        top_k: Annotated[int | None, Field(ge=1, description="Give back the best so many; default all.")] = None,
    ) -> RerankResult:
        """Order passages by how well they answer a query, best first. Use it on any list of texts you hold."""
        async with self._call(query):
            given = self._given(query, passages)
            name, model = await self._reranker(reranker)
            await ctx.report_progress(1, 2, "reranking")
            ranking = await model.arank(query, given, top_k=top_k, deadline_s=self.bounds.seconds)
            await ctx.report_progress(2, 2, "reranked")
            return RerankResult(**judged(name, ranking), hits=[ranked(hit) for hit in ranking])

    async def search(
        self,
        question: Question,
        ctx: Context,
        collection: CollectionName = None,
        k: TopK = 5,
        candidates: Fetched = None,
        where: Filters = None,
        reranker: RerankerName = None,
    ) -> SearchResult:
        """Find passages on a question in a document collection: vector search, then reranking. Gives full texts."""
        async with self._call(question, k):
            place, found = await self._candidates(question, collection, self._count(candidates, k), where)
            await ctx.report_progress(1, 3, f"found {len(found)} candidates")
            name, model = await self._reranker(reranker)
            await ctx.report_progress(2, 3, "reranking")
            ranking = await model.arank(question, found, top_k=k, deadline_s=self.bounds.seconds)
            await ctx.report_progress(3, 3, "reranked")
            hits = [found_passage(hit, self.bounds.text_characters) for hit in ranking]
            how = judged(name, ranking, found)
            return SearchResult(**how, collection=place, candidates=len(found), hits=hits)

    async def ask(
        self,
        question: Question,
        ctx: Context,
        collection: CollectionName = None,
        k: Annotated[int, Field(ge=1, description="How many passages to answer from.")] = 5,
        candidates: Fetched = None,
        where: Filters = None,
        reranker: RerankerName = None,
    ) -> AskResult:
        """Answer a question from a document collection, every statement with its source, or say that it is silent."""
        async with self._call(question, k):
            fetched = self._count(candidates, k + 1)
            library = self._checked_library(where)
            place = await asyncio.to_thread(library.choose, collection)
            name, model = await self._reranker(reranker)
            pipeline = RagPipeline(
                library.retriever(place), model, self.generator, fetch_k=fetched, top_k=k,
                on_generator_error="extractive",
            )  # fmt: skip
            result = await self._answered(pipeline, question, where, ctx)
            return cited_answer(result, place, name, self.generator.model)

    async def compare(
        self,
        question: Question,
        rerankers: Annotated[list[str], Field(min_length=2, description="Two or more reranker names.")],
        ctx: Context,
        passages: Annotated[
            list[str | GivenPassage] | None, Field(description="What to order; without it, a collection is searched.")
        ] = None,
        collection: CollectionName = None,
        top_k: TopK = 5,
        candidates: Fetched = None,
        where: Filters = None,
    ) -> CompareResult:
        """Put the same candidates to several rerankers and see orders, overlaps, movements and latency."""
        async with self._call(question, top_k):
            if len(set(rerankers)) < len(rerankers) or len(rerankers) > self.bounds.rerankers:
                raise InputError(f"Name 2 to {self.bounds.rerankers} different rerankers")
            if passages is None:
                _, found = await self._candidates(question, collection, self._count(candidates, top_k), where)
            elif (collection, candidates, where) == (None, None, None):
                found = self._given(question, passages)
            else:
                raise InputError("Give passages, or collection, candidates and where to find some; not both")
            rankings = await self._compared(question, found, rerankers, ctx)
            return self._comparison(rankings, found, top_k)

    async def collections(self) -> Collections:
        """What can be searched: every collection with its size, model and a few ids."""

        def describe() -> Collections:
            library = self._checked_library()
            return Collections(collections=[library.describe(name) for name in library.names()])

        return await asyncio.to_thread(describe)

    async def collection(self, name: str) -> Collection:
        """One collection."""
        library = self._checked_library()
        if name not in await asyncio.to_thread(library.names):
            raise ResourceNotFoundError(f"There is no collection {name!r:.80}")
        return await asyncio.to_thread(library.describe, name)

    def models(self) -> Models:
        """The rerankers that may be named, and who writes answers."""
        writer = without_addresses(self.generator.model) if self.library is not None else None
        return Models(rerankers=self.rerankers.listing(), generator=writer)

    @asynccontextmanager
    async def _call(self, query: str, top_k: int = 1) -> AsyncIterator[None]:
        """One call: not too many at a time, and the agent is told of what goes wrong on purpose what it may know."""
        if self._calls >= self.bounds.calls:
            raise ToolError(f"{self._calls} calls are at work already; try again in a moment")
        self._calls += 1
        try:
            _at_most(len(query), self.bounds.characters, "characters")
            _at_most(top_k, self.bounds.top_k, "passages to give back")
            yield
        except (RerankitError, Problem) as error:
            problem = problem_of(error)
            if problem.status_code >= 500:
                logger.error("A call failed: %s", error)
            raise ToolError(clean(str(problem.detail))) from error
        finally:
            self._calls -= 1

    def _given(self, query: str, passages: Sequence[str | GivenPassage]) -> list[Passage]:
        _at_most(len(passages), self.bounds.passages, "passages")
        given = [GivenPassage(text=item) if isinstance(item, str) else item for item in passages]
        size = len(query) + sum(len(item.text) + len(item.title) + len(item.id) for item in given)
        _at_most(size, self.bounds.characters, "characters")
        return [Passage(item.id or str(i), item.text, item.title) for i, item in enumerate(given)]

    async def _reranker(self, name: str | None) -> tuple[str, Reranker]:
        chosen = self.rerankers.default if name is None else name
        return chosen, await asyncio.to_thread(self.rerankers.get, chosen)

    def _count(self, candidates: int | None, least: int) -> int:
        """How many to fetch: as asked, but never fewer than are to be given back."""
        count = max(min(_CANDIDATES, self.bounds.passages) if candidates is None else candidates, least)
        _at_most(count, self.bounds.passages, "candidates")
        return count

    def _checked_library(self, where: Mapping[str, Any] | None = None) -> Library:
        if self.library is None:
            raise InputError("This server has no document collections; give the passages themselves")
        if where is not None and (_deeper(where, _FILTER_LEVELS) or len(json.dumps(where)) > 10_000):
            raise InputError("The filter is too large")
        return self.library

    async def _candidates(
        self, question: str, collection: str | None, count: int, where: Mapping[str, Any] | None
    ) -> tuple[str, list[Passage]]:
        library = self._checked_library(where)

        def find() -> tuple[str, list[Passage]]:
            place = library.choose(collection)
            return place, library.retriever(place).retrieve(question, k=count, where=where)

        return await asyncio.to_thread(find)

    async def _answered(
        self, pipeline: RagPipeline, question: str, where: Mapping[str, Any] | None, ctx: Context
    ) -> RagResult:
        async for event in pipeline.astream(question, where=where, deadline_s=self.bounds.seconds):
            if type(event) in _STEPS:
                await ctx.report_progress(*_STEPS[type(event)])
            if isinstance(event, Done):
                return event.result
        raise AssertionError("a stream ends with Done")

    async def _compared(
        self, question: str, found: Sequence[Passage], names: Sequence[str], ctx: Context
    ) -> dict[str, Ranking]:
        """Whole rankings, one reranker after the other so that their seconds can be compared."""
        rankings: dict[str, Ranking] = {}
        until = time.monotonic() + self.bounds.seconds
        models = {name: await asyncio.to_thread(self.rerankers.get, name) for name in names}
        for number, (name, model) in enumerate(models.items(), 1):
            left = max(0.1, until - time.monotonic())
            rankings[name] = await model.arank(question, found, top_k=max(1, len(found)), deadline_s=left)
            await ctx.report_progress(number, len(models), f"{clean(name)} is done")
        return rankings

    def _comparison(self, rankings: Mapping[str, Ranking], found: Sequence[Passage], top_k: int) -> CompareResult:
        orders = {name: indices(ranking) for name, ranking in rankings.items()}
        shown = sorted({index for order in orders.values() for index in order[:top_k]})
        return CompareResult(
            candidates=len(found),
            top_k=top_k,
            orders=[
                Order(**judged(name, ranking, found), top=orders[name][:top_k], moves=moves(ranking[:top_k]))
                for name, ranking in rankings.items()
            ],
            overlaps=overlaps(orders, top_k),
            passages=[candidate(index, found[index], self.bounds.text_characters) for index in shown],
        )


def _at_most(count: int, most: int, what: str) -> None:
    if count > most:
        raise InputError(f"{count} {what} are too many; at most {most} are allowed here")


def _deeper(value: Any, levels: int) -> bool:
    """Whether containers are nested more than ``levels`` deep."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(levels == 0 or _deeper(item, levels - 1) for item in inner if isinstance(item, (Mapping, list)))
