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
from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, ModelError
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.cache import ScoreCache, score_key
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.windows import Aggregate, Windows, aggregate
from rerankit.types import Passage, Span

Pair = tuple[str, Passage]

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

    def __init__(
        self,
        *,
        cache: ScoreCache | str | Path | bool | None = None,
        long_passages: Aggregate = "max",
        max_windows: int = 64,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        if long_passages not in ("max", "top2-mean"):
            raise InputError(f"long_passages is 'max' or 'top2-mean', got {long_passages!r}")
        if max_windows < 1:
            raise InputError(f"max_windows must be at least 1, got {max_windows}")
        if cache and type(self).fingerprint is Reranker.fingerprint:
            raise InputError(
                f"{type(self).__name__} has no fingerprint of its own, so a score cache could mix it up with others. "
                "Override the property: name the model, its revision and every option that a score depends on."
            )
        self.long_passages, self.max_windows = long_passages, max_windows
        self.cache = cache if isinstance(cache, ScoreCache) else _cache(cache)

    @abstractmethod
    def score_pairs(self, pairs: Sequence[Pair], call: Call) -> NDArray[np.float64]:
        """The hook: raw scores, float64 ``[len(pairs)]``, of (query, passage) pairs that fit the model."""

    def windows(self, query: str, passage: Passage) -> Windows:
        """How to cut a passage that may be too long, into at most ``max_windows``; by default not at all."""
        return Windows(((0, len(passage.text)),))

    def evidence(self, pairs: Sequence[Pair], call: Call) -> Sequence[tuple[Span, ...]]:
        """Finer evidence inside each pair's text, if the family can tell; by default none."""
        return [()] * len(pairs)

    def close(self) -> None:
        """Stop the worker, close the cache and free the model."""
        super().close()
        if self.cache is not None:
            self.cache.close()

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """Cut into windows, look up, score what is missing, aggregate."""
        fingerprint = self.fingerprint
        jobs = [
            [
                _Job(request.query, passage, self.windows(request.query, passage), fingerprint, self.reads_vectors)
                for passage in request.passages
            ]
            for request in requests
        ]
        book = _Book(self, call)
        book.fill(list(_by_prior_rank(jobs)))
        return [self._scored(list_jobs, book, call) for list_jobs in jobs]

    def _scored(self, jobs: Sequence[_Job], book: _Book, call: Call) -> Scored:
        count = len(jobs)
        scores, scored, cached = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
        best: dict[int, tuple[Pair, tuple[int, int]]] = {}
        for i, job in enumerate(jobs):
            values = [book.scores.get(key) for key in job.keys]
            known = np.array([value for value in values if value is not None])
            if len(known) < len(values):
                continue
            scores[i], scored[i] = aggregate(known, self.long_passages), True
            cached[i] = all(key in book.from_cache for key in job.keys)
            top = int(known.argmax()) if np.isfinite(known).any() else 0
            best[i] = job.pairs[top], job.windows.spans[top]
        return Scored(
            scores,
            scored,
            cached=cached,
            truncated=np.array([job.windows.truncated_tokens for job in jobs]),
            evidence=self._evidence(jobs, best, call),
            partial="" if scored.all() else f"the deadline passed with {count - int(scored.sum())} passages unscored",
        )

    def _evidence(
        self, jobs: Sequence[_Job], best: dict[int, tuple[Pair, tuple[int, int]]], call: Call
    ) -> list[tuple[Span, ...]]:
        """Spans of each scored passage's best window, shifted to the passage; the window itself if nothing finer."""
        result: list[tuple[Span, ...]] = [()] * len(jobs)
        if call.expired:
            return result
        found = self.evidence([pair for pair, _ in best.values()], call)
        for (i, (_, (start, end))), spans in zip(best.items(), found, strict=True):
            shifted = tuple(Span(span.start + start, span.end + start, span.weight) for span in spans)
            whole = (Span(start, end),) if len(jobs[i].windows.spans) > 1 else ()
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
        for job in jobs:
            for key, pair in zip(job.keys, job.pairs, strict=True):
                wanted.setdefault(key, pair)
        self._look_up(list(wanted))
        self._score({key: pair for key, pair in wanted.items() if key not in self.scores})

    def _look_up(self, keys: Sequence[bytes]) -> None:
        if self.cache is None:
            return
        self.scores.update(self.cache.get_many(keys))
        self.from_cache.update(self.scores)
        self.call.meter.cache_hits += len(self.scores)
        self.call.meter.cache_misses += len(keys) - len(self.scores)

    def _score(self, missing: dict[bytes, Pair]) -> None:
        keys = list(missing)
        for piece in _slices(keys, self.call):
            values = np.asarray(self.reranker.score_pairs([missing[key] for key in piece], self.call), np.float64)
            if values.shape != (len(piece),):
                raise ModelError(
                    f"{self.reranker.model} returned scores of shape {values.shape} for {len(piece)} pairs"
                )
            fresh = dict(zip(piece, values.tolist(), strict=True))
            self.scores.update(fresh)
            if self.cache is not None:
                self.cache.put_many({key: value for key, value in fresh.items() if np.isfinite(value)})


def _by_prior_rank(jobs: Sequence[Sequence[_Job]]) -> Iterator[_Job]:
    """The first passage of every request, then the second ...: under a deadline all queries get their best ones."""
    for depth in range(max(map(len, jobs), default=0)):
        for column in jobs:
            if depth < len(column):
                yield column[depth]


def _slices(keys: Sequence[bytes], call: Call) -> Iterator[Sequence[bytes]]:
    """All at once; under a deadline, slices sized by the speed seen so far to end before it."""
    if call.deadline is None:
        if keys:
            yield keys
        return
    done, started = 0, time.monotonic()
    size = FIRST_SLICE
    while done < len(keys) and not call.expired:
        yield keys[done : done + size]
        done += size
        seconds_each = (time.monotonic() - started) / min(done, len(keys))
        affordable = int((call.remaining() or 0.0) / max(seconds_each, 1e-9))
        size = min(max(size * 2, FIRST_SLICE), affordable)
        if size < 1:
            return


def _cache(source: str | Path | bool | None) -> ScoreCache | None:
    if source is None or source is False:
        return None
    return ScoreCache(None if source is True else source)
