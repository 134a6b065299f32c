"""``/v1/embeddings``: the embedded offline model in OpenAI's format."""

from __future__ import annotations

import asyncio
import base64
import functools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, RootModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rerankit.models.meter import Meter
from rerankit.rerankers.prepare import clean
from rerankit.server.body import GuardedRoute
from rerankit.server.problems import Overloaded, Problem
from rerankit.server.settings import Limits
from rerankit.server.waiting import while_connected

if TYPE_CHECKING:
    from rerankit.models.encoder import TextEncoder

__all__ = ["EmbeddingRequest", "embedding_routes"]

_SLICE_TEXTS = 16
_SLICE_CHARACTERS = 16_000


class _Texts(RootModel[list[str]]):
    """Several texts; the first that is none ends the check."""

    model_config = ConfigDict(strict=True)

    root: list[str] = Field(fail_fast=True)


class EmbeddingRequest(BaseModel):
    """Texts to embed, as OpenAI's clients send them."""

    model_config = ConfigDict(strict=True, extra="ignore")

    input: str | _Texts = Field(description="One text or several; not token ids.")
    model: str | None = Field(None, description="`embedded`, or the model's own name; may be left out.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="The model's own number, 384, or nothing.")
    input_type: Literal["query", "passage", "document"] = Field("passage", description="As in Cohere's and Voyage's.")


def embedding_routes() -> APIRouter:
    """The route, with its one thread."""
    router = APIRouter(route_class=GuardedRoute, tags=["embed"])
    desk = _Desk()

    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of texts, from the embedded offline model."""
        limits: Limits = request.app.state.limits
        texts = _checked(body, limits)
        request.state.log = {"model": "embedded", "passages": len(texts)}
        work = desk.encode(texts, body, limits.queue)
        name, vectors, tokens = await while_connected(request, work, time.monotonic() + limits.seconds)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": _rows(vectors, body), "model": name, "usage": usage})

    content = {"application/json": {"schema": {"type": "object"}}}
    failures: dict[int | str, dict[str, Any]] = {
        status: {"description": "Error", "content": content} for status in (400, 401, 404, 408, 413, 415, 422, 429, 501)
    }
    router.add_api_route("/v1/embeddings", embeddings, methods=["POST"], summary="Vectors of texts", responses=failures)
    return router


class _Desk:
    """One thread for the embedder, and a count of who waits for it.

    The thread works slice by slice, and callers take turns: one who goes away, or whose time is over, hands in no
    further slice, and neither a long request nor the end of the server has to wait for more than a slice.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rerankit-embed")
        self._waiting = 0

    async def encode(
        self, texts: list[str], body: EmbeddingRequest, queue: int
    ) -> tuple[str, NDArray[np.float32], int]:
        if self._waiting >= queue:
            raise Overloaded(1.0)
        self._waiting += 1
        try:
            run = functools.partial(asyncio.get_running_loop().run_in_executor, self._thread)
            encoder, meter = await run(_chosen, body), Meter()
            vectors = [await run(_encode, encoder, part, body, meter) for part in _slices(texts)]
            return encoder.model_id, np.concatenate(vectors), meter.input_tokens
        finally:
            self._waiting -= 1


def _slices(texts: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        if part and (len(part) == _SLICE_TEXTS or size + len(text) > _SLICE_CHARACTERS):
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield part


def _chosen(body: EmbeddingRequest) -> TextEncoder:
    from rerankit.models.embedded import embedder

    encoder = embedder()
    if body.model not in (None, "embedded", encoder.model_id):
        raise Problem(404, f"There is no embedding model {body.model[:100]!r} here; there is 'embedded'")
    if body.dimensions not in (None, encoder.dim):
        raise Problem(422, f"The model has {encoder.dim} dimensions, and cannot give {body.dimensions}")
    return encoder


def _encode(encoder: TextEncoder, texts: list[str], body: EmbeddingRequest, meter: Meter) -> NDArray[np.float32]:
    kind: Literal["query", "passage"] = "query" if body.input_type == "query" else "passage"
    return encoder.encode([clean(text) for text in texts], kind=kind, meter=meter)


def _checked(body: EmbeddingRequest, limits: Limits) -> list[str]:
    texts = [body.input] if isinstance(body.input, str) else body.input.root
    if not texts:
        raise Problem(422, "input: there is no text to embed")
    if len(texts) > limits.passages:
        raise Problem(413, f"{len(texts)} texts in one request; {limits.passages} are allowed")
    if (characters := sum(map(len, texts))) > limits.characters:
        raise Problem(413, f"{characters} characters in one request; {limits.characters} are allowed")
    return texts


def _rows(vectors: NDArray[np.float32], body: EmbeddingRequest) -> list[dict[str, Any]]:
    return [
        {"object": "embedding", "index": index, "embedding": _written(vector, body)}
        for index, vector in enumerate(vectors)
    ]


def _written(vector: NDArray[np.float32], body: EmbeddingRequest) -> str | list[float]:
    if body.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = vector.tolist()
    return values
