"""PointwiseReranker: families whose score of a passage depends on the query and that passage alone.

That law buys three things, done here once: a score cache, windows over long passages, and work in slices so that a
deadline leaves the best order so far.
"""

from __future__ import annotations

import functools
import hashlib
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_choice, check_whole
from rerankit.errors import InputError, ModelError
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.cache import ScoreCache, score_key
from rerankit.rerankers.call import BLOCK, Call, Request, Scored
from rerankit.rerankers.windows import Aggregate, Windows, aggregate
from rerankit.types import Passage, Span

Pair = tuple[str, Passage]
T = TypeVar("T")

MAX_WINDOWS = 64
"""Of a passage, unless told otherwise."""

FIRST_SLICE = 4
"""Pairs scored before the speed is known, under a deadline."""


class PointwiseOptions(RerankerOptions, total=False):
    """Keyword options of every pointwise family.

    Attributes:
        cache: True for the user's score cache, a path, a ScoreCache, or None for none.
        long_passages: how window scores become a passage score: ``max`` or ``top2-mean``.
        max_windows: windows read per passage; what lies beyond is counted in ``Hit.truncated_tokens``.
    """

    cache: ScoreCache | str | Path | bool | None
    long_passages: Aggregate
    max_windows: int


class PointwiseReranker(Reranker):
    """Base of the pointwise families; see the module's text. Implement ``score_pairs`` and ``fingerprint``."""

    reads_vectors: ClassVar[bool] = False
    """A score may depend on ``Passage.embedding``."""
    in_slices: ClassVar[bool] = True
    """Under a deadline pairs come a few at a time; a family that keeps deadlines itself is given them all at once."""

    def __init__(
        self,
        *,
        cache: ScoreCache | str | Path | bool | None = None,
        long_passages: Aggregate = "max",
        max_windows: int = MAX_WINDOWS,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        check_choice("long_passages", long_passages, ("max", "top2-mean"))
        check_whole(1, max_windows=max_windows)
        if cache and type(self).fingerprint is Reranker.fingerprint:
            raise InputError(
                f"{type(self).__name__} has no fingerprint of its own, so a score cache could mix it up with others. "
                "Override the property: name the model, its revision and every option that a score depends on."
            )
        self.long_passages, self.max_windows = long_passages, max_windows
        self.cache = cache if isinstance(cache, ScoreCache) else _cache(cache)

    @property
    def passage_fingerprint(self) -> str:
        """The fingerprint, and what becomes of long passages."""
        windows = "" if self.max_windows == MAX_WINDOWS else f":{self.max_windows}"
        return f"{self.fingerprint}:{self.long_passages}{windows}"

    @abstractmethod
    def score_pairs(self, pairs: Sequence[Pair], call: Call) -> NDArray[np.float64]:
        """The hook: raw scores, float64 ``[len(pairs)]``, of (query, passage) pairs that fit the model.

        Pairs that could not be judged are masked (a ``numpy.ma`` array); say why in ``call.notes``.
        """

    def windows(self, query: str, passage: Passage) -> Windows:
        """How to cut a passage that may be too long, into at most ``max_windows``; by default not at all."""
        return Windows(((0, len(passage.text)),))

    def evidence(self, pairs: Sequence[Pair], call: Call) -> Sequence[tuple[Span, ...]]:
        """Finer evidence inside each pair's text, if the family can tell; by default none."""
        return [()] * len(pairs)

    def judged(self, verdict: Scored, pairs: Sequence[Pair], call: Call) -> Scored:
        """The verdict on one list, all of whose pairs looked at are given, as the family wants it said."""
        return verdict

    def close(self) -> None:
        """Stop the worker, close the cache and free the model."""
        super().close()
        if self.cache is not None:
            self.cache.close()

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """Cut into windows, look up, score what is missing, aggregate."""
        book = _Book(self, call)
        jobs: list[list[_Job | None]] = [[None] * len(request.passages) for request in requests]
        for piece in _slices(_by_prior_rank(requests), call if self.in_slices else None):
            fresh = [self._job(requests[row], place) for row, place in piece]
            for (row, place), job in zip(piece, fresh, strict=True):
                jobs[row][place] = job
            book.fill(fresh)
        return [self._scored(list_jobs, book, call) for list_jobs in jobs]

    def _job(self, request: Request, place: int) -> _Job:
        passage = request.passages[place]
        windows = self.windows(request.query, passage)
        return _Job(request.query, passage, windows, self.fingerprint, self.reads_vectors)

    def _scored(self, jobs: Sequence[_Job | None], book: _Book, call: Call) -> Scored:
        count = len(jobs)
        scores, scored, cached = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        best: dict[int, tuple[_Job, int]] = {}
        for i, job in enumerate(jobs):
            values = [] if job is None else [book.scores.get(key) for key in job.keys]
            known = np.array([value for value in values if value is not None])
            if job is None or len(known) < len(values):
                continue
            scores[i], scored[i] = aggregate(known, self.long_passages), True
            cached[i] = all(key in book.from_cache for key in job.keys)
            best[i] = job, int(known.argmax()) if np.isfinite(known).any() else 0
        verdict = Scored(
            scores,
            scored,
            cached=cached,
            truncated=np.array([0 if job is None else job.windows.truncated_tokens for job in jobs], np.int64),
            evidence=self._evidence(count, best, call),
            partial="" if scored.all() else _why_partial(count - int(scored.sum()), call),
        )
        return self.judged(verdict, [pair for job in jobs if job is not None for pair in job.pairs], call)

    def _evidence(self, count: int, best: dict[int, tuple[_Job, int]], call: Call) -> list[tuple[Span, ...]]:
        """Spans of each scored passage's best window, shifted to the passage; the window itself if nothing finer."""
        result: list[tuple[Span, ...]] = [()] * count
        if call.expired:
            return result
        found = self.evidence([job.pairs[top] for job, top in best.values()], call)
        for (i, (job, top)), spans in zip(best.items(), found, strict=True):
            start, end = job.windows.spans[top]
            shifted = tuple(Span(span.start + start, span.end + start, span.weight) for span in spans)
            whole = (Span(start, end),) if len(job.windows.spans) > 1 else ()
            result[i] = shifted or whole
        return result


@dataclass(frozen=True)
class _Job:
    """One passage of one request, cut."""

    query: str
    passage: Passage
    windows: Windows
    fingerprint: str
    reads_vectors: bool

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        spans = self.windows.spans
        if len(spans) == 1 and spans[0] == (0, len(self.passage.text)):
            return [(self.query, self.passage)]
        # A vector of the whole passage says nothing about a window of it.
        return [
            (self.query, self.passage.replace(text=self.passage.text[start:end], embedding=None))
            for start, end in spans
        ]

    @functools.cached_property
    def keys(self) -> list[bytes]:
        return [
            score_key(self.fingerprint, query, part.title, part.text, self._vector(part)) for query, part in self.pairs
        ]

    def _vector(self, part: Passage) -> str:
        """What a stored vector adds to the identity of a pair, for families that read it."""
        if not self.reads_vectors or part.embedding is None:
            return ""
        return f"{part.embedding_model}:{hashlib.sha256(part.embedding.tobytes()).hexdigest()}"


class _Book:
    """Scores of the distinct (query, window) pairs of one call, and where they came from."""

    def __init__(self, reranker: PointwiseReranker, call: Call) -> None:
        self.reranker, self.call = reranker, call
        # A float32 retry is another computation than the one the cache stands for.
        self.cache = None if call.float32 else reranker.cache
        self.scores: dict[bytes, float] = {}
        self.from_cache: set[bytes] = set()

    def fill(self, jobs: Sequence[_Job]) -> None:
        wanted: dict[bytes, Pair] = {}
        # First windows first: under a deadline a huge passage does not keep short ones from their score.
        for depth in range(max((len(job.pairs) for job in jobs), default=0)):
            for job in jobs:
                if depth < len(job.pairs) and job.keys[depth] not in self.scores:
                    wanted.setdefault(job.keys[depth], job.pairs[depth])
        self._look_up(list(wanted))
        self._score({key: pair for key, pair in wanted.items() if key not in self.scores})

    def _look_up(self, keys: Sequence[bytes]) -> None:
        if self.cache is None:
            return
        found = self.cache.get_many(keys)
        self.scores.update(found)
        self.from_cache.update(found)
        self.call.meter.cache_hits += len(found)
        self.call.meter.cache_misses += len(keys) - len(found)

    def _score(self, missing: dict[bytes, Pair]) -> None:
        keys = list(missing)
        for piece in _slices(keys, self.call if self.reranker.in_slices else None):
            values = np.ma.asarray(self.reranker.score_pairs([missing[key] for key in piece], self.call), np.float64)
            if values.shape != (len(piece),):
                raise ModelError(
                    f"{self.reranker.model} returned scores of shape {values.shape} for {len(piece)} pairs"
                )
            fresh = {key: value for key, value in zip(piece, values.tolist(), strict=True) if value is not None}
            self.scores.update(fresh)
            if self.cache is not None:
                self.cache.put_many(fresh)


def _why_partial(unscored: int, call: Call) -> str:
    return f"{'; '.join(dict.fromkeys(call.notes)) or 'the deadline passed'}: {unscored} passages unscored"


def _by_prior_rank(requests: Sequence[Request]) -> list[tuple[int, int]]:
    """(request, place): the first passage of every request, then the second ..., so that a deadline is fair to all."""
    depth = max((len(request.passages) for request in requests), default=0)
    return [(row, place) for place in range(depth) for row, r in enumerate(requests) if place < len(r.passages)]


def _slices(items: Sequence[T], call: Call | None) -> Iterator[Sequence[T]]:
    """All at once without a call; in blocks as long as one waits; by a deadline, as many as the speed so far allows."""
    if call is None or call.deadline is None:
        step = BLOCK if call else max(1, len(items))
        for start in range(0, len(items), step):
            if call and call.expired:
                return
            yield items[start : start + step]
        return
    done, started = 0, time.monotonic()
    size = FIRST_SLICE
    while done < len(items) and not call.expired:
        yield items[done : done + size]
        done += size
        seconds_each = (time.monotonic() - started) / min(done, len(items))
        affordable = int((call.remaining() or 0.0) / max(seconds_each, 1e-9))
        size = min(max(size * 2, FIRST_SLICE), affordable)
        if size < 1:
            return


def _cache(source: str | Path | bool | None) -> ScoreCache | None:
    if source is None or source is False:
        return None
    return ScoreCache(None if source is True else source)
