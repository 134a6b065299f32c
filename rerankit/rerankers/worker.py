"""The thread on which a reranker and its views run for async callers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """A thread that starts when it is first needed and starts again after :meth:`close`. Copies begin without one.

    Args:
        threads: more than one only for families that wait for others instead of computing.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run ``job`` as soon as a thread is free, in the order of the calls."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=self._threads, thread_name_prefix="rerankit")
            return self._executor.submit(job)

    def close(self) -> None:
        """Finish the running job, drop those that wait, end the thread."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)

    def __reduce__(self) -> tuple[type[Worker], tuple[int]]:
        return type(self), (self._threads,)
