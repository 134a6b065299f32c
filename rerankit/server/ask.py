"""``/v1/ask``: a question to a Chroma store; the answer with its citations, at once or as server-sent events."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rerankit.rag.chroma import ChromaRetriever
from rerankit.rag.events import Delta, Done, Event, Packed, RagResult, Reranked, Retrieved
from rerankit.rag.pipeline import RagPipeline
from rerankit.redaction import without_addresses
from rerankit.rerankers.base import Candidates, Reranker
from rerankit.rerankers.call import Call, Scored
from rerankit.rerankers.call import Request as Asked
from rerankit.rerankers.prepare import clean, is_blank
from rerankit.server.batching import Batcher
from rerankit.server.body import GuardedRoute
from rerankit.server.problems import Overloaded, Problem, error_body, problem_of
from rerankit.server.settings import AskSettings, Limits
from rerankit.server.waiting import GRACE_S, while_connected
from rerankit.types import Ranking, as_passages

__all__ = ["AskRequest", "ask_routes"]

logger = logging.getLogger(__name__)


class AskRequest(BaseModel):
    """A question to the store."""

    model_config = ConfigDict(strict=True, extra="forbid")

    question: str = Field(description="Not empty.", examples=["How deep is maize sown?"])
    where: dict[str, Any] | None = Field(None, description="Chroma's filter on metadata.")
    model: str | None = Field(None, description="Which reranker; one of `/v1/models`.")
    stream: bool = Field(False, description="Answer with server-sent events; so does `Accept: text/event-stream`.")
    deadline_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="Seconds for the whole answer.")


def ask_routes(asked: AskSettings, retriever: ChromaRetriever, batchers: Mapping[str, Batcher]) -> APIRouter:
    """The route over one store, with every model of the server as its reranker.

    Raises:
        RerankitError: the generator's address is wrong.
    """
    pipelines, desk = _pipelines(asked, retriever, batchers), _Desk()

    async def ask(body: AskRequest, request: Request) -> Response:
        """Retrieve, rerank and answer with citations."""
        limits: Limits = request.app.state.limits
        pipeline = _chosen(body, pipelines)
        _check(body, limits)
        desk.check(limits)
        seconds = min(body.deadline_s or limits.seconds, limits.seconds)
        if body.stream or "text/event-stream" in request.headers.get("accept", ""):
            events = pipeline.astream(body.question, where=body.where, deadline_s=seconds)
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            until = asyncio.get_running_loop().time() + seconds + GRACE_S
            return StreamingResponse(desk.sent(events, request, until), media_type="text/event-stream", headers=headers)
        work = pipeline.aask(body.question, where=body.where, deadline_s=seconds)
        with desk:
            result = await while_connected(request, work, time.monotonic() + seconds)
        return JSONResponse(_told(result))

    router = APIRouter(route_class=GuardedRoute, tags=["ask"])
    content = {"application/json": {"schema": {"type": "object"}}}
    failures: dict[int | str, dict[str, Any]] = {
        status: {"description": "Error", "content": content} for status in (400, 401, 404, 408, 413, 415, 422, 429, 503)
    }
    router.add_api_route("/v1/ask", ask, methods=["POST"], summary="Answer a question", responses=failures)
    return router


def _pipelines(
    asked: AskSettings, retriever: ChromaRetriever, batchers: Mapping[str, Batcher]
) -> dict[str, RagPipeline]:
    generator = None
    if asked.llm is not None:
        from rerankit.rag.generative import ChatGenerator

        generator = ChatGenerator(asked.llm)
    return {
        name: RagPipeline(
            retriever,
            _Queued(batcher),
            generator,
            fetch_k=asked.fetch_k,
            top_k=asked.top_k,
            on_generator_error="extractive",
        )
        for name, batcher in batchers.items()
    }


def _chosen(body: AskRequest, pipelines: Mapping[str, RagPipeline]) -> RagPipeline:
    name = next(iter(pipelines)) if body.model is None else body.model
    if name not in pipelines:
        raise Problem(404, f"There is no model {name[:100]!r} here; there is {', '.join(map(repr, pipelines))}")
    return pipelines[name]


def _check(body: AskRequest, limits: Limits) -> None:
    if len(body.question) > limits.characters:
        raise Problem(413, f"The question has {len(body.question)} characters; {limits.characters} are allowed")
    if is_blank(clean(body.question)):
        raise Problem(422, "question: it is empty; ask something")


class _Queued(Reranker):
    """A server's reranker, which questions share with the callers of ``/rerank``: one queue, one order."""

    def __init__(self, batcher: Batcher) -> None:
        super().__init__()
        self._batcher = batcher
        self.model, self.scale = batcher.reranker.model, batcher.reranker.scale

    async def arank(
        self, query: str, passages: Candidates, *, top_k: int | None = None, deadline_s: float | None = None
    ) -> Ranking:
        """As :meth:`Batcher.rank`."""
        seconds = self._batcher.limits.seconds if deadline_s is None else deadline_s
        until = time.monotonic() + seconds
        ranking = await self._batcher.rank(query, as_passages(passages), deadline=until)
        return ranking if top_k is None else ranking[:top_k]

    def score_lists(self, requests: Sequence[Asked], call: Call) -> Sequence[Scored]:
        """Without the queue."""
        return self._batcher.reranker.score_lists(requests, call)


class _Desk:
    """Counts the questions that are being answered; a context for each."""

    def __init__(self) -> None:
        self.busy = 0

    def __enter__(self) -> None:
        self.busy += 1

    def __exit__(self, *_: object) -> None:
        self.busy -= 1

    def check(self, limits: Limits) -> None:
        """Refuse one more where there are enough."""
        if self.busy >= limits.queue:
            raise Overloaded(1.0)

    async def sent(self, events: AsyncIterator[Event], request: Request, until: float) -> AsyncIterator[bytes]:
        """The pipeline's events as server-sent events; a failure is the last one, and so is the end of the time."""
        with self:
            try:
                async with asyncio.timeout_at(until):
                    async for event in events:
                        yield _line(*_event(event))
            except TimeoutError:
                said = "The answer was not ready in time"
                yield _line("error", error_body("/v1/ask", 504, said, request.state.id))
            except Exception as error:  # the status line is long gone: the stream itself must say it
                problem = problem_of(error)
                logger.error("request failed", exc_info=error, extra={"request": request.state.id})
                yield _line("error", error_body("/v1/ask", problem.status_code, str(problem.detail), request.state.id))


def _line(name: str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _event(event: Event) -> tuple[str, dict[str, Any]]:
    match event:
        case Retrieved():
            return "retrieved", {"candidates": len(event.candidates)}
        case Reranked():
            return "reranked", _ranking(event.ranking)
        case Packed():
            return "packed", event.context.to_dict()
        case Delta():
            return "delta", {"text": event.text}
        case Done():
            return "done", _told(event.result)


def _told(result: RagResult) -> dict[str, Any]:
    answer = dataclasses.replace(result.answer, model=without_addresses(result.answer.model))
    return {**result.to_dict(), "answer": answer.to_dict(), "ranking": _ranking(result.ranking)}


def _ranking(ranking: Ranking) -> dict[str, Any]:
    """Without the rankings of inner stages, which would repeat every passage."""
    told = {name: value for name, value in ranking.to_dict().items() if name != "stages"}
    return {**told, "model": without_addresses(ranking.model)}
