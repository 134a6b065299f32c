"""Any OpenAI-compatible chat endpoint: llama.cpp's server, Ollama, vLLM, ``transformers serve``, hosted services."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict, Unpack

from rerankit.errors import BackendError, InputError, SpecError
from rerankit.models import loop
from rerankit.models.http import Endpoint
from rerankit.models.retry import RetryPolicy

__all__ = ["ChatLM", "Completion", "GenerateOptions", "Prompt"]

Prompt: TypeAlias = "str | Sequence[Mapping[str, str]]"
"""A user's words, or messages such as ``{"role": "system", "content": "..."}``."""

_PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished reply.

    Attributes:
        text: what the model wrote; may be empty.
        input_tokens, output_tokens: as the server counted them, 0 where it does not say.
        finish_reason: ``stop``, ``length`` (cut at ``max_tokens``), or the server's own word; empty if it gave none.
    """

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = ""


class GenerateOptions(TypedDict, total=False):
    """How to generate.

    Attributes:
        max_tokens: longest reply; default 512.
        temperature: default 0; None leaves it to the server (some models refuse any value).
        stop: texts that end the reply.
        deadline_s: replaces the model's own deadline for this call.
    """

    max_tokens: int
    temperature: float | None
    stop: Sequence[str] | None
    deadline_s: float | None


class ChatLM:
    """A chat model behind an OpenAI-compatible endpoint.

    Safe to share between threads and event loops. Close it, or use it as a context manager, to drop its connections.

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
        max_concurrency: simultaneous requests, whoever makes them.
        max_response_bytes: a longer response is refused.
        extra: further fields of every request body, e.g. ``{"seed": 1}`` or ``{"chat_template_kwargs": {...}}``.
        max_tokens_field: the body's name for the length limit; newer OpenAI models want ``max_completion_tokens``.

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
        max_concurrency: int = 8,
        max_response_bytes: int = 16 * 2**20,
        extra: Mapping[str, Any] | None = None,
        max_tokens_field: str = "max_tokens",
    ) -> None:
        if not model.strip():
            raise InputError("ChatLM needs the name of a model")
        self.model = model.strip()
        self._endpoint = Endpoint(
            base_url,
            api_key=os.environ.get("RERANKIT_API_KEY", "") if api_key is None else api_key,
            headers=headers,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            deadline_s=deadline_s,
            retry=retry or RetryPolicy(max_retries=max_retries),
            max_concurrency=max_concurrency,
            max_response_bytes=max_response_bytes,
        )
        self._extra, self._max_tokens_field = dict(extra or {}), max_tokens_field

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

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r}, {self.model!r})"

    def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """One reply to the user's words or to a list of messages; options as in :class:`GenerateOptions`.

        Raises:
            BackendError: no usable reply; says what came instead.
            InputError: the prompt has no messages or is not made of strings.
        """
        return loop.run(self._complete(self._body(prompt, options), options.get("deadline_s")))

    async def agenerate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Completion:
        """:meth:`generate` for async callers; cancelling it closes the connection."""
        return await loop.arun(self._complete(self._body(prompt, options), options.get("deadline_s")))

    def generate_many(
        self, prompts: Sequence[Prompt], **options: Unpack[GenerateOptions]
    ) -> list[Completion | BackendError]:
        """One reply or error per prompt, in order, at most ``max_concurrency`` at a time.

        A failed prompt does not spoil the others: its error is returned in its place.
        """
        bodies = [self._body(prompt, options) for prompt in prompts]
        return loop.run(self._complete_many(bodies, options.get("deadline_s")))

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Iterator[str | Completion]:
        """The reply piece by piece, and the whole :class:`Completion` as the last item.

        Only the opening of the stream is tried again; a stream that breaks later raises ``BackendError``.
        """
        return loop.iterate(self._deltas(self._body(prompt, options), options.get("deadline_s")))

    def astream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> AsyncIterator[str | Completion]:
        """:meth:`stream` for async callers."""
        return loop.aiterate(self._deltas(self._body(prompt, options), options.get("deadline_s")))

    def close(self) -> None:
        """Drop the connections. The model stays usable: a later call opens new ones."""
        loop.run(self._endpoint.aclose())

    def __enter__(self) -> ChatLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _body(self, prompt: Prompt, options: GenerateOptions) -> dict[str, Any]:
        max_tokens, temperature = options.get("max_tokens", 512), options.get("temperature", 0.0)
        if max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {max_tokens}")
        body: dict[str, Any] = {"model": self.model, "messages": _messages(prompt), self._max_tokens_field: max_tokens}
        if temperature is not None:
            body["temperature"] = temperature
        if stop := options.get("stop"):
            body["stop"] = list(stop)
        return {**body, **self._extra}

    async def _complete(self, body: Mapping[str, Any], deadline_s: float | None) -> Completion:
        return await self._endpoint.post(_PATH, body, _read_completion, deadline_s)

    async def _complete_many(
        self, bodies: Sequence[Mapping[str, Any]], deadline_s: float | None
    ) -> list[Completion | BackendError]:
        async def one(body: Mapping[str, Any]) -> Completion | BackendError:
            try:
                return await self._complete(body, deadline_s)
            except BackendError as error:
                return error

        return await asyncio.gather(*map(one, bodies))

    async def _deltas(self, body: Mapping[str, Any], deadline_s: float | None) -> AsyncIterator[str | Completion]:
        pieces: list[str] = []
        usage: dict[str, Any] = {}
        last: dict[str, Any] = {}
        async for event in self._endpoint.events(_PATH, {**body, "stream": True}, _is_last, deadline_s):
            choice = _first_choice(event)
            usage, last = (event if event.get("usage") else usage), (choice if _is_last(event) else last)
            text = (_member(choice, "delta") or _member(choice, "message")).get("content")
            if isinstance(text, str) and text:
                pieces.append(_sound(text))
                yield pieces[-1]
        yield _completion("".join(pieces), usage, last)


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if not messages:
        raise InputError("A prompt needs at least one message")
    for message in messages:
        if not all(isinstance(value, str) for value in message.values()) or not {"role", "content"} <= set(message):
            raise InputError("A message is a dictionary with the strings 'role' and 'content'")
    return [{key: _sound(value) for key, value in message.items()} for message in messages]


def _sound(text: str) -> str:
    """Without lone surrogates, which are no valid Unicode: servers refuse them, and nothing can print or store them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _member(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def _first_choice(reply: Mapping[str, Any]) -> dict[str, Any]:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _is_last(event: Mapping[str, Any]) -> bool:
    return bool(_first_choice(event).get("finish_reason"))


def _read_completion(reply: Mapping[str, Any]) -> Completion:
    choice = _first_choice(reply)
    text = _member(choice, "message").get("content")
    if not isinstance(text, str):
        raise ValueError(_what_is_wrong(choice))
    return _completion(_sound(text), reply, choice)


def _completion(text: str, reply: Mapping[str, Any], choice: Mapping[str, Any]) -> Completion:
    usage = _member(reply, "usage")
    finish_reason = str(choice.get("finish_reason") or "")
    return Completion(text, _count(usage, "prompt_tokens"), _count(usage, "completion_tokens"), finish_reason)


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value >= 0 else 0


def _what_is_wrong(choice: Mapping[str, Any]) -> str:
    if not choice:
        return "The answer has no choices. Is this an OpenAI-compatible chat endpoint?"
    finish = choice.get("finish_reason")
    if finish == "length":
        return "The reply holds no text: max_tokens was spent before any was written. Raise max_tokens"
    return f"The reply holds no text (finish_reason {str(finish)[:40]!r})"
