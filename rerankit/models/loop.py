"""One event loop in a daemon thread, so that sync and async callers share a single implementation of network code.

Connections belong to the event loop that opened them, so a client used from several ``asyncio.run`` calls breaks. Here
all traffic runs on one private loop: a sync caller waits for the result, an async caller awaits it from any loop of its
own, and cancelling either cancels the work.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_END: Any = object()


def background_loop() -> asyncio.AbstractEventLoop:
    """The process's background loop, started on first use and again after a fork (threads do not survive one)."""
    with _starting:
        if not _running:
            _running.append(_start())
        return _running[0]


_running: list[asyncio.AbstractEventLoop] = []
_starting = threading.Lock()


def _forked() -> None:
    """In a child: the parent's loop has no thread here, and nobody would open a lock that one of its threads held."""
    global _starting
    _running.clear()
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forked)


def _start() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="rerankit-network", daemon=True)
    thread.start()
    atexit.register(_stop, os.getpid(), loop, thread)
    return loop


def _stop(pid: int, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if pid == os.getpid():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=1.0)
        if not loop.is_running():
            loop.close()


def submit(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Start ``work`` on the background loop."""
    return asyncio.run_coroutine_threadsafe(work, background_loop())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Wait for ``work``; an interrupt while waiting (Ctrl-C) cancels it."""
    future = submit(work)
    try:
        return future.result()
    finally:
        future.cancel()


async def arun(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work`` from any event loop; cancelling the caller cancels the work."""
    return await asyncio.wrap_future(submit(work))


def iterate(items: AsyncIterator[T]) -> Iterator[T]:
    """The items of an async iterator, for a sync caller; leaving the iteration early cancels the rest."""
    inbox: queue.SimpleQueue[T] = queue.SimpleQueue()
    future = submit(_pump(items, inbox.put))
    try:
        while (item := inbox.get()) is not _END:
            yield item
        future.result()
    finally:
        future.cancel()


async def aiterate(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same for an async caller on any event loop."""
    inbox: asyncio.Queue[T] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    future = submit(_pump(items, lambda item: loop.call_soon_threadsafe(inbox.put_nowait, item)))
    try:
        while (item := await inbox.get()) is not _END:
            yield item
        await asyncio.wrap_future(future)
    finally:
        future.cancel()


async def _pump(items: AsyncIterator[T], put: Callable[[T], Any]) -> None:
    try:
        async for item in items:
            put(item)
    finally:
        put(_END)
