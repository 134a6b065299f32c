"""Remote: rerank endpoints over HTTP, hosted (Cohere, Jina, Voyage) or your own (TEI, vLLM, ``rerankit serve`` ...)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import BackendError, InputError, SpecError
from rerankit.models import loop
from rerankit.models.http import Endpoint
from rerankit.models.retry import RetryPolicy
from rerankit.rerankers.call import Call
from rerankit.rerankers.pairs import Pair, PointwiseOptions, PointwiseReranker
from rerankit.rerankers.remote_dialects import (
    RESERVED,
    TEI,
    Info,
    Reply,
    address,
    choose,
    key_for,
    read_info,
    read_reply,
)
from rerankit.rerankers.worker import Worker
from rerankit.types import Passage

__all__ = ["Remote"]

Scores: TypeAlias = "np.ma.MaskedArray[Any, np.dtype[np.float64]]"

_TOO_LARGE = 413
_WAKE_S = 0.1
"""How soon a caller that has gone is noticed."""

_UNJUDGED = "the server did not get to all passages"

_READS_LISTS = ("jina-reranker-v3",)
"""Models whose score of a passage depends on the others in the request, so that it cannot be kept for another list."""


class Remote(PointwiseReranker):
    """An endpoint that scores passages for a query.

    Scores are taken by the index that the server gives with each, never by the order of its answer; an answer that
    does not hold every passage exactly once, with a finite score, is refused. Lists above the server's limits are cut
    into requests that run side by side, and a request that is refused as too large (413) is halved. The title is sent
    before the text, with a space between. What the model cannot read of a long passage the server cuts off, silently:
    ``Hit.truncated_tokens`` stays 0.

    Under a deadline everything is sent at once; passages whose answer is not there in time are left unscored.

    Args:
        model: ``base_url#model``, e.g. ``https://api.cohere.com#rerank-v3.5``; ``#model`` may be left away where a
            server has one model only. A base URL that ends in ``/rerank`` is used exactly as it is.
        dialect: ``cohere``, ``jina``, ``voyage`` or ``tei``; needed unless the host is one of these providers'.
        api_key: default the provider's variable (``COHERE_API_KEY``, ``JINA_API_KEY``, ``VOYAGE_API_KEY``), which goes
            to the provider's host alone; for other hosts ``RERANKIT_API_KEY``. ``""`` sends none.
        headers: further HTTP headers.
        extra: further fields of every request body, e.g. ``{"max_tokens_per_doc": 1024}``, ``{"truncate": False}``.
        max_passages: most passages in one request; default the provider's limit, of a TEI server what ``/info`` says.
        max_request_bytes: largest request body; a single longer passage is still sent.
        timeout_s: longest silence of the server, in seconds.
        connect_timeout_s: longest wait for a connection.
        deadline_s: longest time for one request, all attempts and waits together.
        max_retries: attempts after the first on connection errors, timeouts, 408, 409, 425, 429 and 5xx; a
            ``Retry-After`` is kept to.
        retry: finer control of waits; replaces ``max_retries``.
        max_concurrency: simultaneous requests.
        options: see :class:`~rerankit.rerankers.pairs.PointwiseOptions`. A cache needs the model's name.

    Raises:
        SpecError: address, model or dialect is missing or unknown.
        InputError: the URL, key, cache or a limit cannot be used.
    """

    in_slices = False

    def __init__(
        self,
        model: str,
        *,
        dialect: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
        max_passages: int | None = None,
        max_request_bytes: int = 1_500_000,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        deadline_s: float = 300.0,
        max_retries: int = 3,
        retry: RetryPolicy | None = None,
        max_concurrency: int = 8,
        **options: Unpack[PointwiseOptions],
    ) -> None:
        super().__init__(**options)
        url, _, self._served = (part.strip() for part in model.partition("#"))
        if not url.startswith(("http://", "https://")):
            raise SpecError("A remote reranker is written base_url#model, e.g. https://api.cohere.com#rerank-v3.5")
        if (max_passages is not None and max_passages < 1) or max_request_bytes < 1:
            raise InputError("max_passages and max_request_bytes must be at least 1")
        self._dialect = choose(dialect, url)
        base, self._path = address(url, self._dialect)
        self._endpoint = Endpoint(
            base,
            api_key=key_for(url) if api_key is None else api_key,
            headers=headers,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            deadline_s=deadline_s,
            retry=retry or RetryPolicy(max_retries=max_retries),
            max_concurrency=max_concurrency,
        )
        self._worker = Worker(max_concurrency)  # async callers need not wait for each other: the work is elsewhere
        self._extra, self._deadline_s = _checked_extra(extra or {}), deadline_s
        self._max_concurrency = max_concurrency
        self._max_bytes, self._max_passages = max_request_bytes, max_passages
        if max_passages is None and self._dialect is not TEI:
            self._max_passages = self._dialect.max_passages
        raw = {**self._dialect.fixed, **self._extra}.get("raw_scores")
        self.scale = "logit" if raw else "relevance"
        self.model = f"remote:{self._endpoint.url}" + (f"#{self._served}" if self._served else "")
        if self.cache is not None:
            self._check_cacheable()

    @property
    def fingerprint(self) -> str:
        """Address, model, dialect and every field of the request that a score may depend on."""
        fields = json.dumps({**self._dialect.fixed, **self._extra}, sort_keys=True)
        return f"{self.model}|{self._path}|{self._dialect.name}|{fields}"

    def score_pairs(self, pairs: Sequence[Pair], call: Call) -> NDArray[np.float64]:
        """The server's scores, float64 ``[len(pairs)]``; masked where none came before the deadline.

        Raises:
            BackendError: a request failed for good, or its answer cannot be trusted.
        """
        scores = np.ma.array(np.zeros(len(pairs)), mask=True)
        _wait(loop.submit(self._score(pairs, scores, call)), call)
        return scores

    def close(self) -> None:
        """Drop the connections."""
        super().close()
        loop.run(self._endpoint.aclose())

    async def _score(self, pairs: Sequence[Pair], scores: Scores, call: Call) -> None:
        """Fill in what arrives in time."""
        try:
            most = await self._most_passages(call)
            async with asyncio.TaskGroup() as group:  # the first failure ends the rest: nobody would read it
                volley = _Volley(group, asyncio.Semaphore(self._max_concurrency), scores, call)
                for query, places in _by_query(pairs).items():
                    texts = {place: _shown(pairs[place][1]) for place in places}
                    for part in _parts(texts, most, self._max_bytes):
                        group.create_task(self._request(volley, query, part))
        except BackendError as error:
            if not _late(error, call):
                raise
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _request(self, volley: _Volley, query: str, texts: dict[int, str]) -> None:
        """One request; ``texts`` by their place among the scores."""
        call = volley.call
        body = self._dialect.body(self._served, query, list(texts.values()), self._extra)
        read = functools.partial(read_reply, count=len(texts))
        try:
            async with volley.slots:  # its patience begins when it is sent, not when it is planned
                if call.expired:
                    return
                reply = await self._endpoint.ask(self._path, body, read, self._patience(call))
        except BackendError as error:
            if error.status == _TOO_LARGE and len(texts) > 1:
                for half in _halves(texts):
                    volley.group.create_task(self._request(volley, query, half))
            elif not _late(error, call):
                raise
            return
        volley.take(list(texts), reply)

    async def _most_passages(self, call: Call) -> int:
        """How many passages a request may hold; a TEI server is asked once."""
        if self._max_passages is None:
            try:
                info = await self._endpoint.ask("/info", None, read_info, self._patience(call))
            except BackendError as error:
                if error.retryable:
                    raise
                info = Info()  # a proxy that does not let /info through
            if self._served and info.model not in ("", self._served):
                raise BackendError(
                    f"The server has the model {info.model!r:.80}, not {self._served!r}; name that one or none",
                    endpoint=f"{self._endpoint.url}/info",
                )
            self._max_passages = info.max_passages
        return self._max_passages

    def _patience(self, call: Call) -> float:
        remaining = call.remaining()
        return self._deadline_s if remaining is None else min(self._deadline_s, remaining)

    def _check_cacheable(self) -> None:
        if not self._served:
            raise InputError(f"A score cache needs the model's name, or it would outlive the model: {self.model}#MODEL")
        if self._served in _READS_LISTS:
            raise InputError(f"{self._served} reads passages together: its scores cannot be cached one by one")


@dataclass(frozen=True, slots=True)
class _Volley:
    """The requests of one call, and what they share."""

    group: asyncio.TaskGroup
    slots: asyncio.Semaphore
    scores: Scores
    call: Call

    def take(self, places: list[int], reply: Reply) -> None:
        """Keep what a request brought."""
        self.scores[places] = reply.scores
        if reply.scores.mask.any() and _UNJUDGED not in self.call.notes:
            self.call.notes.append(_UNJUDGED)
        self.call.meter.llm_calls += 1
        self.call.meter.input_tokens += reply.tokens
        self.call.meter.cost += reply.cost


def _wait(future: concurrent.futures.Future[None], call: Call) -> None:
    """Until it is done or nobody waits for it any more."""
    try:
        while not future.done() and not call.cancelled.is_set():
            concurrent.futures.wait([future], _WAKE_S)
        if future.done():
            future.result()
    finally:
        future.cancel()


def _late(error: BackendError, call: Call) -> bool:
    return error.retryable and call.expired


def _shown(passage: Passage) -> str:
    return f"{passage.title} {passage.text}" if passage.title else passage.text


def _by_query(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, (query, _) in enumerate(pairs):
        places.setdefault(query, []).append(place)
    return places


def _parts(texts: Mapping[int, str], most: int, max_bytes: int) -> Iterator[dict[int, str]]:
    """``texts`` in requests of at most ``most`` passages and about ``max_bytes`` of JSON; each holds at least one."""
    part: dict[int, str] = {}
    size = 0
    for place, text in texts.items():
        length = len(json.dumps(text)) + 2
        if part and (len(part) >= most or size + length > max_bytes):
            yield part
            part, size = {}, 0
        part[place] = text
        size += length
    if part:
        yield part


def _halves(texts: dict[int, str]) -> tuple[dict[int, str], dict[int, str]]:
    items = list(texts.items())
    middle = len(items) // 2
    return dict(items[:middle]), dict(items[middle:])


def _checked_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    if reserved := sorted(RESERVED & set(extra)):
        raise InputError(
            f"extra cannot set {', '.join(reserved)}: every passage must be judged, and named by its index"
        )
    try:
        return dict(json.loads(json.dumps(dict(extra), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InputError(f"extra cannot be written as JSON: {error}") from error
