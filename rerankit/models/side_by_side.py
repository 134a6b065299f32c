"""Several requests under way at a time, for as long as somebody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from rerankit.errors import BackendError
from rerankit.models.work import Work

T = TypeVar("T")
R = TypeVar("R")

_POLL_S = 0.05  # how often to look whether the caller has gone


async def side_by_side(
    items: Sequence[T], ask: Callable[[T], Awaitable[R]], concurrency: int, work: Work
) -> list[R | BackendError | None]:
    """What ``ask`` makes of each item, ``concurrency`` at a time, in order.

    An error that ``ask`` raises for an item stands in its place. None stands for an item that was not asked for, or not
    to the end, because ``work`` had expired; what is under way then is cancelled, as it is with the caller.
    """
    results: list[R | BackendError | None] = [None] * len(items)
    waiting = iter(enumerate(items))

    async def worker() -> None:
        for index, item in waiting:
            if work.expired:
                return
            try:
                results[index] = await ask(item)
            except BackendError as error:
                results[index] = error

    tasks = [asyncio.create_task(worker()) for _ in range(min(concurrency, len(items)))]
    try:
        await _ended_or_expired(tasks, work)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return results


async def _ended_or_expired(tasks: Sequence[asyncio.Task[None]], work: Work) -> None:
    pending = set(tasks)
    while pending and not work.expired:
        left = work.remaining()
        pause = _POLL_S if left is None else min(_POLL_S, left)
        done, pending = await asyncio.wait(pending, timeout=pause, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
