"""Dynamic micro-batching: what concurrent callers ask of one model goes through it together.

Requests queue up while the model works and leave in batches, oldest first; an idle model waits a few milliseconds for
company. One request never harms another: a caller who goes away is taken out, a batch that fails is split until only
the guilty request fails, and a batch that may not end in time holds only requests that are due together, so that no
hurry cuts somebody else's list short. Whoever waits is answered when his time is over, whatever the model does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rerankit.rerankers.base import Reranker
from rerankit.rerankers.call import Scored
from rerankit.rerankers.prepare import prepare
from rerankit.rerankers.results import build_ranking
from rerankit.server.problems import Overloaded, Problem
from rerankit.server.settings import Limits
from rerankit.types import Passage, Ranking

__all__ = ["BatchRecord", "Batcher"]

logger = logging.getLogger(__name__)

_SAFETY = 4.0
"""A deadline less than so many times the expected time away is passed on to the ranking."""
_SMOOTHING = 0.2
_TOGETHER_S = 0.1
"""Requests whose deadlines lie so near each other may share one, the latest."""
SLACK_S = 0.5
"""How far past its deadline a ranking that has begun may end; then its caller gets the input order."""
_LATE = "the time ran out while the model worked"


class BatchRecord(Protocol):
    """Told of every batch that ended."""

    def __call__(self, *, requests: int, passages: int, seconds: float) -> None:
        """``seconds`` of work for so many requests with so many passages."""


@dataclass(eq=False, slots=True)
class _Waiting:
    """One request in the queue."""

    query: str
    passages: Sequence[Passage]
    deadline: float
    future: asyncio.Future[Ranking]
    arrived: float = field(default_factory=time.monotonic)
    has_begun: bool = False

    @property
    def characters(self) -> int:
        return len(self.query) * len(self.passages) + sum(len(p.text) + len(p.title) for p in self.passages)


class Batcher:
    """The queue in front of one reranker, and the task that empties it.

    Args:
        reranker: works on its own one thread.
        limits: queue length, waiting time, batch size.
        record: told of every batch.
    """

    def __init__(self, reranker: Reranker, limits: Limits, record: BatchRecord) -> None:
        self.reranker, self.limits, self._record = reranker, limits, record
        self._queue: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._seconds_per_character: float | None = None
        self._seconds_per_request = 0.05
        self._task: asyncio.Task[None] | None = None
        self._working = False

    @property
    def depth(self) -> int:
        """Requests that wait; whose caller has gone is not among them."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next request would be refused."""
        return self.depth >= self.limits.queue

    def start(self) -> None:
        """Begin to empty the queue, in the running event loop."""
        self._task = asyncio.create_task(self._run(), name=f"batcher {self.reranker.model}")

    async def stop(self) -> None:
        """Finish what was taken in, then end."""
        while self._queue or self._working:
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def rank(self, query: str, passages: Sequence[Passage], *, deadline: float) -> Ranking:
        """The whole ranking of ``passages``, best first.

        Args:
            query: not empty.
            passages: the candidates.
            deadline: ``time.monotonic()`` at which the answer is due; then what is scored comes back, the rest after
                it in input order and marked.

        Raises:
            Problem: the queue is full, or time ran out before the model was free.
            RerankitError: the model failed on this very request.
        """
        if self.full:
            raise Overloaded(self.depth * self._seconds_per_request)
        future: asyncio.Future[Ranking] = asyncio.get_running_loop().create_future()
        item = _Waiting(query, passages, deadline, future)
        self._queue.append(item)
        self._news.set()
        try:
            return await self._awaited(item)
        finally:  # also when the caller goes away: his place is free at once
            future.cancel()
            with contextlib.suppress(ValueError):
                self._queue.remove(item)

    async def _awaited(self, item: _Waiting) -> Ranking:
        await asyncio.wait({item.future}, timeout=max(0.0, item.deadline - time.monotonic()))
        if not item.future.done() and item.has_begun:
            await asyncio.wait({item.future}, timeout=max(0.0, item.deadline + SLACK_S - time.monotonic()))
        if item.future.done():
            return item.future.result()
        if not item.has_begun:
            raise self._too_late()
        return await asyncio.to_thread(self._in_input_order, item)

    def _too_late(self) -> Problem:
        return Problem(503, "Time ran out before the model was free", retry_after_s=self._seconds_per_request)

    def _in_input_order(self, item: _Waiting) -> Ranking:
        prepared = prepare(item.query, item.passages, by_text=self.reranker.by_text)
        nothing = Scored(np.empty(0)).padded(len(prepared.request.passages), _LATE)
        return build_ranking(prepared, nothing, self.reranker.model, self.reranker.scale)

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._news.clear()
                await self._news.wait()
            await self._linger()
            self._working = True
            batch = self._take()
            try:
                await self._work(batch)
            except Exception as error:  # the queue must go on whatever happens here
                logger.exception("a batch was lost")
                for item in batch:
                    _fail(item, error)
            finally:
                self._working = False

    async def _linger(self) -> None:
        """Wait for company: until the oldest request is ``wait_ms`` old, or a batch is full."""
        while self._queue and not self._fills_a_batch():
            patience = self._queue[0].arrived + self.limits.wait_ms / 1000 - time.monotonic()
            if patience <= 0:
                return
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), patience)

    def _fills_a_batch(self) -> bool:
        return sum(len(item.passages) for item in self._queue) >= self.limits.batch_passages

    def _take(self) -> list[_Waiting]:
        """The next batch: the oldest requests that fit together, in size and in time."""
        batch: list[_Waiting] = []
        passages = characters = 0
        while self._queue:
            item = self._queue[0]
            if item.future.done():  # its caller goes away in this very moment
                self._queue.popleft()
                continue
            passages += len(item.passages)
            characters += item.characters
            too_much = passages > self.limits.batch_passages or characters > self.limits.batch_characters
            if batch and (too_much or not self._can_share([*batch, item], characters)):
                break
            batch.append(self._queue.popleft())
        return batch

    async def _work(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        for item in batch:
            if item.deadline <= started:
                _fail(item, self._too_late())
        batch = [item for item in batch if not item.future.done()]
        if not batch:
            return
        for item in batch:
            item.has_begun = True
        try:
            rankings = await self._rank(batch)
        except _AbandonedError:
            return
        except Exception as error:  # of whichever request it is: halves are tried until it stands alone
            await self._divide(batch, error)
            return
        self._learn(batch, time.monotonic() - started)
        for item, ranking in zip(batch, rankings, strict=True):
            if not item.future.done():
                item.future.set_result(ranking)

    async def _divide(self, batch: list[_Waiting], error: Exception) -> None:
        if len(batch) == 1:
            _fail(batch[0], error)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            await self._work([item for item in half if not item.future.done()])

    async def _rank(self, batch: Sequence[_Waiting]) -> list[Ranking]:
        work = asyncio.ensure_future(
            self.reranker.arank_many(
                [(item.query, item.passages) for item in batch],
                top_k=max(1, *(len(item.passages) for item in batch)),
                deadline_s=self._deadline_s(batch),
            )
        )

        def look(_: object) -> None:
            if all(item.future.done() for item in batch):
                work.cancel()

        for item in batch:
            item.future.add_done_callback(look)
        await asyncio.wait({work})
        if work.cancelled():
            raise _AbandonedError
        return work.result()

    def _deadline_s(self, batch: Sequence[_Waiting]) -> float | None:
        """Seconds that the batch has, never fewer than one of its requests; None where it will surely end in time.

        Under a deadline a reranker works in small pieces, which costs most of what batching gains.
        """
        if self._ends_in_time(batch, sum(item.characters for item in batch)):
            return None
        return max(1e-3, max(item.deadline for item in batch) - time.monotonic())

    def _can_share(self, batch: Sequence[_Waiting], characters: int) -> bool:
        due = [item.deadline for item in batch]
        return max(due) - min(due) <= _TOGETHER_S or self._ends_in_time(batch, characters)

    def _ends_in_time(self, batch: Sequence[_Waiting], characters: int) -> bool:
        """Whether so many characters will be read well before the first request is due."""
        if self._seconds_per_character is None:
            return False
        left = min(item.deadline for item in batch) - time.monotonic()
        return self._seconds_per_character * characters * _SAFETY <= left

    def _learn(self, batch: Sequence[_Waiting], seconds: float) -> None:
        """Keep moving averages of what a character and a request cost."""
        characters = max(1, sum(item.characters for item in batch))
        known = self._seconds_per_character
        each = seconds / characters
        self._seconds_per_character = each if known is None else known + _SMOOTHING * (each - known)
        self._seconds_per_request += _SMOOTHING * (seconds / len(batch) - self._seconds_per_request)
        self._record(requests=len(batch), passages=sum(len(item.passages) for item in batch), seconds=seconds)


class _AbandonedError(Exception):
    """Nobody waits for any of the batch."""


def _fail(item: _Waiting, error: Exception) -> None:
    if not item.future.done():
        item.future.set_exception(error)
