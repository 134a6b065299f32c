"""Work for a caller who may go away, and for no longer than he was promised."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from rerankit.server.problems import Problem

T = TypeVar("T")

GRACE_S = 1.0
"""How far past its deadline any answer may come; then its caller is told to wait no longer."""


class CallerGone(Problem):
    """Nobody reads the answer any more."""

    def __init__(self) -> None:
        super().__init__(499, "The caller went away")


async def while_connected(request: Request, work: Coroutine[Any, Any, T], deadline: float) -> T:
    """The result of ``work``, which is cancelled when the caller goes away.

    Args:
        request: whose body has been read.
        work: what to wait for.
        deadline: ``time.monotonic()`` by which it should be done.

    Raises:
        CallerGone: the connection was closed.
        Problem: the work went on well past the deadline (504).
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        patience = max(0.0, deadline - time.monotonic()) + GRACE_S
        await asyncio.wait({task, gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            request.app.state.metrics.gone.inc()
            raise CallerGone
        raise Problem(504, "The answer was not ready in time", retry_after_s=GRACE_S)
    finally:
        for part in (task, gone):
            part.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
