"""A request's body, read with care: size, time and nesting are limited before anything looks at it."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from rerankit.server.problems import Problem, problem_of
from rerankit.server.settings import Limits

logger = logging.getLogger(__name__)

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SMALL = 64 * 1024
"""Bytes that are parsed in no time."""


class GuardedRequest(Request):
    """A request whose JSON body is bounded."""

    @property
    def limits(self) -> Limits:
        """The server's limits."""
        limits: Limits = self.app.state.limits
        return limits

    async def body(self) -> bytes:
        """The body, read once.

        Raises:
            Problem: too large (413), too slow (408), or not JSON by its own account (415).
        """
        if not hasattr(self, "_body"):
            self._check_headers()
            self._body = await self._read()
        return self._body

    def _check_headers(self) -> None:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # a web page can send other types across sites without being asked
            raise Problem(415, "The body must be JSON, with the header Content-Type: application/json")
        length = self.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.limits.body_bytes:
            raise self._too_large()

    async def _read(self) -> bytes:
        blocks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for block in self.stream():
                    size += len(block)
                    if size > self.limits.body_bytes:
                        raise self._too_large()
                    blocks.append(block)
        except TimeoutError as error:
            raise Problem(408, f"The body did not come within {self.limits.body_seconds:g} s") from error
        except ClientDisconnect as error:
            raise Problem(400, "The connection was closed before the body was complete") from error
        return b"".join(blocks)

    def _too_large(self) -> Problem:
        return Problem(413, f"The body is larger than {self.limits.body_bytes} bytes; send less at a time")

    async def json(self) -> Any:
        """The parsed body; lone surrogates, which no text may hold, are replaced.

        Raises:
            Problem: it is not JSON, or nested too deeply.
        """
        body = await self.body()
        if len(body) < _SMALL:
            return self._parsed(body)
        return await asyncio.to_thread(self._parsed, body)  # other callers are answered meanwhile

    def _parsed(self, body: bytes) -> Any:
        try:
            value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
        except RecursionError as error:
            raise self._too_deep() from error
        except UnicodeDecodeError as error:
            raise Problem(400, f"The body is not UTF-8 (byte {error.start})") from error
        except ValueError as error:  # JSONDecodeError; numbers of thousands of digits
            raise Problem(400, f"The body is not JSON: {str(error)[:200]}") from error
        if _deeper_than(value, self.limits.depth):
            raise self._too_deep()
        return _clean(value) if _ESCAPED_SURROGATE.search(body) else value

    def _too_deep(self) -> Problem:
        return Problem(400, f"The JSON is nested more than {self.limits.depth} levels deep")


class GuardedRoute(APIRoute):
    """A route that reads its body with care, and whose failures are answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler with a :class:`GuardedRequest` put under it."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(GuardedRequest(request.scope, request.receive))
            except (HTTPException, RequestValidationError):
                raise
            except Exception as error:  # a server outlives whatever one request does to it
                problem = problem_of(error)
                if problem.status_code >= 500:
                    logger.error("request failed", exc_info=error, extra={"request": request.state.id})
                raise problem from error

        return guarded


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):  # 1e999 is valid JSON, and no number that could be sent back
        raise ValueError(f"the number {digits[:20]} is out of range")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value
