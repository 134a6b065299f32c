"""Any OpenAI-compatible chat endpoint: llama.cpp's server, Ollama, vLLM, ``transformers serve``, hosted services."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from rerankit.checks import check_whole
from rerankit.errors import BackendError, InputError, SpecError
from rerankit.models import chat_messages as wire
from rerankit.models import loop, token_estimate
from rerankit.models.chat_habits import Habits
from rerankit.models.chat_labels import label_position, read_labels
from rerankit.models.chat_messages import Reply
from rerankit.models.http import Endpoint
from rerankit.models.language import Completion, GenerateOptions, LabelScores
from rerankit.models.prompt import Prompt
from rerankit.models.reply_cache import ReplyCache
from rerankit.models.retry import RetryPolicy
from rerankit.models.side_by_side import side_by_side
from rerankit.models.work import Work

__all__ = ["ChatLM", "Completion", "GenerateOptions", "Prompt"]

logger = logging.getLogger(__name__)

_PATH = "/chat/completions"


class ChatLM:
    """A chat model behind an OpenAI-compatible endpoint; a :class:`~rerankit.models.language.LanguageModel`.

    Safe to share between threads and event loops. Close it, or use it as a context manager, to drop its connections.

    What a server refuses or leaves out (log-probabilities, JSON schemas, the name of the length limit) is found out
    with the first requests and remembered by this object.

    Args:
        base_url: up to but without ``/chat/completions``, e.g. ``http://localhost:11434/v1``.
        model: the server's name for the model.
        api_key: sent as a bearer token; default ``$RERANKIT_API_KEY``, else none. ``""`` sends none.
        headers: further HTTP headers.
        timeout_s: longest silence of the server, in seconds.
        connect_timeout_s: longest wait for a connection.
        deadline_s: longest time for one reply: all attempts, waits and the reply itself.
        max_retries: attempts after the first on connection errors, timeouts, 408, 409, 425, 429 and 5xx.
        retry: finer control of waits; replaces ``max_retries``.
        concurrency: simultaneous requests, whoever makes them.
        max_response_bytes: a longer response is refused.
        extra: further fields of every request body, e.g. ``{"chat_template_kwargs": {"enable_thinking": False}}``.
        max_tokens_field: the body's name for the length limit, if it is known not to be ``max_tokens``.
        reply_cache: keep replies on disk: True for the user's cache folder, or a file. Only replies that would be the
            same again are kept: temperature 0, or a seed. Streams are not.
        price: of a million input and a million output tokens, in any currency; adds up in ``Usage.cost``.
        context: the model's context in tokens, if known.
        label_reply_tokens: longest reply in which a label is looked for where one token does not do; a model that
            cannot be kept from reasoning needs many.

    Raises:
        InputError: the URL, key, model name or a limit cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        deadline_s: float = 300.0,
        max_retries: int = 3,
        retry: RetryPolicy | None = None,
        concurrency: int = 8,
        max_response_bytes: int = 16 * 2**20,
        extra: Mapping[str, Any] | None = None,
        max_tokens_field: str = "max_tokens",
        reply_cache: bool | str | Path | ReplyCache = False,
        price: Sequence[float] = (0.0, 0.0),
        context: int | None = None,
        label_reply_tokens: int = 16,
    ) -> None:
        if not model.strip():
            raise InputError("ChatLM needs the name of a model")
        check_whole(1, concurrency=concurrency, label_reply_tokens=label_reply_tokens)
        self.model = model.strip()
        self._endpoint = Endpoint(
            base_url,
            api_key=os.environ.get("RERANKIT_API_KEY", "") if api_key is None else api_key,
            headers=headers,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            deadline_s=deadline_s,
            retry=retry or RetryPolicy(max_retries=max_retries),
            max_concurrency=concurrency,
            max_response_bytes=max_response_bytes,
        )
        self._concurrency, self._label_reply_tokens = concurrency, label_reply_tokens
        self._extra, self._habits = dict(extra or {}), Habits(max_tokens_field)
        self._cache, self._price, self._context = _cache(reply_cache), _checked_price(price), context
        self._warned = False

    @classmethod
    def from_spec(cls, spec: str, **options: Any) -> ChatLM:
        """A model from ``base_url#model``, e.g. ``http://localhost:11434/v1#qwen3:8b``.

        Raises:
            SpecError: the spec is not of that form.
        """
        base_url, _, model = spec.strip().partition("#")
        if not base_url.startswith(("http://", "https://")) or not model:
            raise SpecError("A chat model is written base_url#model, for example http://localhost:11434/v1#qwen3:8b")
        return cls(base_url, model, **options)

    @property
    def base_url(self) -> str:
        """Where the model is served, without credentials."""
        return self._endpoint.url

    @property
    def model_id(self) -> str:
        """``base_url#model``, without credentials."""
        return f"{self.base_url}#{self.model}"

    @property
    def context(self) -> int | None:
        """As given; an endpoint does not say."""
        return self._context

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, {self.model!r})"

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """One reply; options as in :class:`~rerankit.models.language.GenerateOptions`.

        Raises:
            BackendError: no usable reply; says what came instead.
            InputError: the prompt has no messages or is not made of strings.
            ModelError: the prompt is laid out token by token, which needs a local model.
        """
        return loop.run(self._complete(self._body(prompt, options), options.get("deadline_s"), Work()))

    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """:meth:`generate` for async callers; cancelling it closes the connection."""
        return await loop.arun(self._complete(self._body(prompt, options), options.get("deadline_s"), Work()))

    def generate_many(
        self, prompts: Sequence[Prompt], *, work: Work | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion | BackendError | None]:
        """One reply per prompt, in order, at most ``concurrency`` at a time.

        A failed prompt does not spoil the others: its error is returned in its place. None stands for a prompt that
        was not asked, or not to the end, because ``work`` had expired; what is under way then is broken off.
        """
        return loop.run(self._generate_many(prompts, work or Work(), options))

    async def agenerate_many(
        self, prompts: Sequence[Prompt], *, work: Work | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion | BackendError | None]:
        """:meth:`generate_many` for async callers."""
        return await loop.arun(self._generate_many(prompts, work or Work(), options))

    def label_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, work: Work | None = None
    ) -> list[LabelScores | BackendError | None]:
        """How likely each label is to begin the reply, per prompt; errors and None as in :meth:`generate_many`.

        Read from the log-probabilities of the generated tokens, of which one is asked for, or as many as the model
        turned out to need to name a label. A label that is missing among the likeliest tokens gets the highest value
        that it can have. A server without log-probabilities is asked for a short reply, which is searched for a label.
        """
        return loop.run(self._label_many(prompts, labels, work or Work()))

    async def alabel_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, work: Work | None = None
    ) -> list[LabelScores | BackendError | None]:
        """:meth:`label_logprobs` for async callers."""
        return await loop.arun(self._label_many(prompts, labels, work or Work()))

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Iterator[str | Completion]:
        """The reply piece by piece, and the whole :class:`Completion` as the last item.

        Only the opening of the stream is tried again; a stream that breaks later raises ``BackendError``.
        """
        return loop.iterate(self._deltas(self._body(prompt, options), options.get("deadline_s")))

    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncIterator[str | Completion]:
        """:meth:`stream` for async callers."""
        return loop.aiterate(self._deltas(self._body(prompt, options), options.get("deadline_s")))

    def count_tokens(self, text: str) -> int:
        """An estimate from above, see :mod:`rerankit.models.token_estimate`: the tokenizer is at the other end."""
        return token_estimate.count_tokens(text)

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest beginning of ``text`` within ``max_tokens`` by the same estimate."""
        return token_estimate.cut(text, max_tokens)

    def close(self) -> None:
        """Drop the connections. The model stays usable: a later call opens new ones."""
        loop.run(self._endpoint.aclose())
        if self._cache is not None:
            self._cache.close()

    def __enter__(self) -> ChatLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _body(self, prompt: Prompt, options: GenerateOptions) -> dict[str, Any]:
        return wire.request(self.model, prompt, options)

    async def _generate_many(
        self, prompts: Sequence[Prompt], work: Work, options: GenerateOptions
    ) -> list[Completion | BackendError | None]:
        bodies = [self._body(prompt, options) for prompt in prompts]
        deadline_s = options.get("deadline_s")
        return await side_by_side(bodies, lambda body: self._complete(body, deadline_s, work), self._concurrency, work)

    async def _label_many(
        self, prompts: Sequence[Prompt], labels: Sequence[str], work: Work
    ) -> list[LabelScores | BackendError | None]:
        if len(set(labels)) < len(labels) or not all(label.strip() for label in labels) or not labels:
            raise InputError(f"Labels must be words that differ from each other, got {list(labels)}")
        bodies = [wire.label_request(self.model, prompt, self._label_reply_tokens) for prompt in prompts]
        return await side_by_side(bodies, lambda body: self._label(body, tuple(labels), work), self._concurrency, work)

    async def _complete(self, body: Mapping[str, Any], deadline_s: float | None, work: Work) -> Completion:
        key = self._key(body)
        if (known := await self._recalled(key, wire.read_text, work)) is not None:
            return known.completion(cached=True)
        reply, data = await self._request(body, wire.read_text, work, deadline_s)
        await self._remember(key, data)
        return reply.completion()

    async def _label(self, body: Mapping[str, Any], labels: tuple[str, ...], work: Work) -> LabelScores:
        key = self._key(body, labels)
        reply = await self._recalled(key, wire.read_reply, work)
        if reply is None:
            reply, data = await self._labelled(body, labels, work)
            await self._remember(key, data)
        return read_labels(reply, labels)

    async def _labelled(
        self, body: Mapping[str, Any], labels: Sequence[str], work: Work
    ) -> tuple[Reply, dict[str, Any]]:
        """An answer that names a label, if the model can be brought to give one within ``label_reply_tokens``."""
        habits = self._habits
        if habits.label_tokens and habits.top_logprobs and not work.once:
            reply, data = await self._request(body, wire.read_reply, work, whole=False)
            if label_position(reply.positions, labels) is not None:
                return reply, data
        reply, data = await self._request(body, wire.read_reply, work)
        found = label_position(reply.positions, labels)
        if found is not None:
            habits.label_tokens = max(habits.label_tokens, found + 1)
        elif reply.text and not reply.positions and not habits.label_tokens:
            habits.top_logprobs = 0
        self._warn_if_cut(reply, found)
        return reply, data

    def _warn_if_cut(self, reply: Reply, found: int | None) -> None:
        reasons = reply.reasoning or "<think>" in reply.text
        if found is None and reasons and reply.finish_reason == "length" and not self._warned:
            self._warned = True
            logger.warning(
                "%s reasons before it names a label, and label_reply_tokens=%d ends the reply before that. "
                "Raise it, or switch reasoning off through extra=",
                self.model_id,
                self._label_reply_tokens,
            )

    async def _request(
        self,
        body: Mapping[str, Any],
        read: Callable[[dict[str, Any]], Reply],
        work: Work,
        deadline_s: float | None = None,
        *,
        whole: bool = True,
    ) -> tuple[Reply, dict[str, Any]]:
        """The answer to a request, put in the words that this server understands: read, and to be kept."""
        work.meter.llm_calls += 1
        guesses: dict[str, Any] = {}
        while True:
            said = self._said(body, guesses, whole=whole)
            try:
                reply, data = await self._endpoint.post(
                    _PATH, said, lambda data: (read(data), wire.essence(data)), deadline_s
                )
            except BackendError as error:
                guesses |= (guess := self._guess(error, said))
                if not guess or self._said(body, guesses, whole=whole) == said:
                    raise
            else:
                self._habits.keep(guesses)
                self._count(reply, work)
                return reply, data

    def _said(self, body: Mapping[str, Any], guesses: Mapping[str, Any], *, whole: bool = True) -> dict[str, Any]:
        return {**dataclasses.replace(self._habits, **guesses).spoken(body, whole=whole), **self._extra}

    def _guess(self, error: BackendError, said: Mapping[str, Any]) -> dict[str, Any]:
        return self._habits.guess(error, {name: value for name, value in said.items() if name not in self._extra})

    def _count(self, reply: Reply, work: Work) -> None:
        work.meter.input_tokens += reply.input_tokens
        work.meter.output_tokens += reply.output_tokens
        work.meter.cost += (reply.input_tokens * self._price[0] + reply.output_tokens * self._price[1]) / 1e6

    def _key(self, body: Mapping[str, Any], labels: tuple[str, ...] = ()) -> bytes | None:
        """The identity of the answer; None if it need not be the same again, or nothing is kept."""
        asked = {**body, **self._extra}
        if self._cache is None or not (asked.get("temperature") == 0 or asked.get("seed") is not None):
            return None
        return self._cache.key(self.base_url, asked, labels)

    async def _recalled(self, key: bytes | None, read: Callable[[dict[str, Any]], Reply], work: Work) -> Reply | None:
        if self._cache is None or key is None:
            return None
        try:
            data = await asyncio.to_thread(self._cache.get, key)
            reply = None if data is None else read(data)
        except ValueError:
            reply = None
        work.meter.cache_hits += reply is not None
        work.meter.cache_misses += reply is None
        return reply

    async def _remember(self, key: bytes | None, data: Mapping[str, Any]) -> None:
        if self._cache is not None and key is not None:
            await asyncio.to_thread(self._cache.put, key, data)

    async def _deltas(self, body: Mapping[str, Any], deadline_s: float | None) -> AsyncIterator[str | Completion]:
        guesses: dict[str, Any] = {}
        while True:
            said = self._said(body, guesses)
            try:
                async for item in self._streamed(said, deadline_s):
                    self._habits.keep(guesses)
                    guesses = {}
                    yield item
                return
            except BackendError as error:
                # a refusal comes before the first piece
                guesses |= (guess := self._guess(error, said))
                if not guess or self._said(body, guesses) == said:
                    raise

    async def _streamed(self, said: Mapping[str, Any], deadline_s: float | None) -> AsyncIterator[str | Completion]:
        pieces, reasoning = [], []
        usage: dict[str, Any] = {}
        finish_reason = ""
        async for event in self._endpoint.events(_PATH, {**said, "stream": True}, _is_last, deadline_s):
            choice = wire.first_choice(event)
            usage = wire.member(event, "usage") or usage
            finish_reason = str(choice.get("finish_reason") or finish_reason)
            part = wire.member(choice, "delta") or wire.member(choice, "message")
            reasoning.append(wire.reasoning_of(part))
            if text := wire.text_at(part, "content"):
                pieces.append(text)
                yield text
        counts = wire.count(usage, "prompt_tokens"), wire.count(usage, "completion_tokens")
        yield Completion("".join(pieces), *counts, finish_reason, "".join(reasoning))


def _is_last(event: Mapping[str, Any]) -> bool:
    return bool(wire.first_choice(event).get("finish_reason"))


def _cache(choice: bool | str | Path | ReplyCache) -> ReplyCache | None:
    if isinstance(choice, bool):
        return ReplyCache() if choice else None
    return choice if isinstance(choice, ReplyCache) else ReplyCache(choice)


def _checked_price(price: Sequence[float]) -> tuple[float, float]:
    try:
        values = [float(value) for value in price]
    except (TypeError, ValueError):
        values = []
    if len(values) != 2 or not all(math.isfinite(value) and value >= 0 for value in values):
        raise InputError("price is two numbers: of a million input tokens and of a million output tokens")
    return values[0], values[1]
