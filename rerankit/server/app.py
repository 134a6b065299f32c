"""The HTTP application: rerank in every dialect, ask, embed, and what an operator looks at."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

import rerankit
from rerankit.rag.chroma import ChromaRetriever
from rerankit.server.ask import ask_routes
from rerankit.server.auth import Keys
from rerankit.server.batching import Batcher
from rerankit.server.body import GuardedRoute
from rerankit.server.dialects import RerankReply, RerankRequest, TeiHit, as_object, as_tei, passages_of
from rerankit.server.embeddings import embedding_routes
from rerankit.server.frame import Frame
from rerankit.server.metrics import CONTENT_TYPE_LATEST, Metrics
from rerankit.server.page import docs_page
from rerankit.server.problems import Problem, describe, error_body
from rerankit.server.settings import Settings
from rerankit.server.waiting import while_connected
from rerankit.spec import load

__all__ = ["create_app"]

RERANK_PATHS = ("/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking")
_DESCRIPTION = "Rerankers behind the request and response formats of Cohere, Jina, Voyage, vLLM, Infinity and TEI."


def create_app(settings: Settings) -> FastAPI:
    """The application, its models loaded.

    Raises:
        RerankitError: a model cannot be had.
    """
    metrics = Metrics()
    batchers: dict[str, Batcher] = {}
    for name, spec in settings.models.items():
        record = metrics.of(name)
        batcher = batchers[name] = Batcher(load(spec), settings.limits, record)
        record.watch(lambda batcher=batcher: batcher.depth)  # type: ignore[misc]
    app = FastAPI(
        title="rerankit",
        version=rerankit.__version__,
        description=_DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # the usual page fetches scripts from the internet
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.limits, app.state.settings = settings.limits, settings
    app.state.metrics, app.state.batchers = metrics, batchers
    app.include_router(_rerank_routes())
    app.include_router(embedding_routes())
    app.state.retriever = None
    if (asked := settings.ask) is not None:
        retriever = ChromaRetriever(asked.store, collection=asked.collection, fetch_k=asked.fetch_k)
        app.state.retriever = retriever
        app.include_router(ask_routes(asked, retriever, batchers))
    app.include_router(_operator_routes())
    app.add_exception_handler(HTTPException, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_middleware(Frame, keys=Keys(settings.api_keys), metrics=metrics, hosts=settings.hosts)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    batchers: dict[str, Batcher] = app.state.batchers
    for batcher in batchers.values():
        batcher.start()
    yield
    for batcher in batchers.values():
        await batcher.stop()
        await asyncio.to_thread(batcher.reranker.close)
    if app.state.retriever is not None:
        app.state.retriever.close()


async def _rerank(body: RerankRequest, request: Request) -> Response:
    """Order documents for a query.

    A body with `texts` and without `model` gets TEI's bare list; any other gets one object that Cohere's, Jina's,
    Voyage's, vLLM's and Infinity's clients understand.
    """
    settings: Settings = request.app.state.settings
    name, batcher = _chosen(request, body.model)
    passages = passages_of(body, settings.limits)
    told: dict[str, Any] = {"model": name, "passages": len(passages)}
    request.state.log = told
    if settings.log_text:
        told |= {"query": body.query, "texts": [passage.text for passage in passages]}
    seconds = min(body.deadline_s or settings.limits.seconds, settings.limits.seconds)
    deadline = time.monotonic() + seconds
    work = batcher.rank(body.query, passages, deadline=deadline)
    ranking = await while_connected(request, work, deadline)
    told["result"] = ranking.status
    request.app.state.metrics.rankings.labels(name, ranking.status).inc()
    headers = {"X-Rerankit-Status": ranking.status}
    if body.is_tei:
        return JSONResponse(as_tei(body, ranking), headers=headers)
    return JSONResponse(as_object(body, ranking, name=name, request_id=request.state.id), headers=headers)


def _chosen(request: Request, name: str | None) -> tuple[str, Batcher]:
    batchers: dict[str, Batcher] = request.app.state.batchers
    if name is None:
        name = next(iter(batchers))
    if name not in batchers:
        raise Problem(404, f"There is no model {name[:100]!r} here; there is {', '.join(map(repr, batchers))}")
    return name, batchers[name]


def _rerank_routes() -> APIRouter:
    router = APIRouter(route_class=GuardedRoute, tags=["rerank"])
    for path in RERANK_PATHS:
        router.add_api_route(
            path,
            _rerank,
            methods=["POST"],
            summary="Order documents for a query",
            response_model=None,
            responses={200: {"model": RerankReply | list[TeiHit]}, **errors(400, 404, 408, 413, 415, 422, 429, 503)},
        )
    return router


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error answers for the OpenAPI document."""
    content = {"application/json": {"schema": {"type": "object"}}}
    return {status: {"description": "Error", "content": content} for status in (401, *statuses)}


def _operator_routes() -> APIRouter:
    router = APIRouter(route_class=GuardedRoute, tags=["operation"])
    router.add_api_route("/v1/models", _models, summary="The models that requests can name", responses=errors())
    router.add_api_route("/info", _info, summary="The default model, as TEI describes it", responses=errors())
    router.add_api_route("/healthz", _healthy, summary="The server runs")
    router.add_api_route("/health", _healthy, summary="The server runs")
    router.add_api_route("/readyz", _ready, summary="The server takes requests", responses={503: {}})
    router.add_api_route(
        "/metrics", _metrics, summary="Counters for Prometheus", response_class=Response, responses=errors()
    )
    router.add_api_route("/docs", _docs, include_in_schema=False)
    return router


async def _models(request: Request) -> dict[str, Any]:
    """OpenAI's list of models."""
    rows = [
        {"id": name, "object": "model", "created": 0, "owned_by": "rerankit"} for name in request.app.state.batchers
    ]
    return {"object": "list", "data": rows}


async def _info(request: Request) -> dict[str, Any]:
    """What TEI's clients ask before they begin."""
    limits = request.app.state.limits
    labels = {"id2label": {"0": "relevance"}, "label2id": {"relevance": 0}}
    return {
        "model_id": next(iter(request.app.state.batchers)),
        "model_type": {"reranker": labels},
        "max_concurrent_requests": limits.queue,
        "max_client_batch_size": limits.passages,
        "version": rerankit.__version__,
    }


async def _healthy() -> dict[str, str]:
    return {"status": "ok"}


async def _ready(request: Request) -> JSONResponse:
    full = [name for name, batcher in request.app.state.batchers.items() if batcher.full]
    if full:
        return JSONResponse({"status": "busy"}, 503, {"Retry-After": "1"})
    return JSONResponse({"status": "ready"})


async def _metrics(request: Request) -> Response:
    metrics: Metrics = request.app.state.metrics
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _docs(request: Request) -> HTMLResponse:
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(docs_page(request.app.openapi()), headers=headers)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (what it is registered for)
    body = error_body(request.url.path, error.status_code, str(error.detail), request.state.id)
    return JSONResponse(body, error.status_code, error.headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 (what it is registered for)
    return JSONResponse(error_body(request.url.path, 422, describe(error.errors()), request.state.id), 422)
