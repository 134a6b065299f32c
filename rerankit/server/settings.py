"""What a server is told when it starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rerankit.errors import InputError
from rerankit.redaction import public_spec
from rerankit.rerankers.base import Reranker

_NAME = re.compile(r"[\w./-]{1,100}")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        body_bytes: of a request's body, counted while it comes in.
        body_seconds: for a request's body to come in.
        depth: levels of nesting in a request's JSON.
        passages: per request; also the number of texts in one request for embeddings.
        characters: per request, query and passages together.
        seconds: per request, from the end of its body to its answer.
        queue: requests that wait for a model, per model; more are refused with 429.
        wait_ms: how long an idle model waits for more requests before it starts on the first.
        batch_passages, batch_characters: most that goes into one batch, unless a single request is larger.
        connections: open at a time; more are refused with 503.
    """

    body_bytes: int = 8 * 2**20
    body_seconds: float = 20.0
    depth: int = 16
    passages: int = 1000
    characters: int = 4_000_000
    seconds: float = 30.0
    queue: int = 256
    wait_ms: float = 2.0
    batch_passages: int = 256
    batch_characters: int = 200_000
    connections: int = 1024

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not math.isfinite(value) or (value <= 0 and (name, value) != ("wait_ms", 0)):
                raise InputError(f"The server's limit {name!r} must be a number above 0, got {value!r}")


@dataclass(frozen=True, slots=True)
class AskSettings:
    """The store and the generator behind ``/v1/ask``; without a store there is no such endpoint."""

    store: str
    collection: str = "rerankit"
    llm: str | None = None
    fetch_k: int = 30
    top_k: int = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """A server's whole configuration.

    Attributes:
        models: name -> reranker spec (or a reranker); the first one answers requests that name none.
        ask: what ``/v1/ask`` asks.
        api_keys: any one of them opens the server; none means that it is open to all. Not part of ``repr``.
        limits: see :class:`Limits`.
        hosts: the only names, without ports, by which requests may call the server; none means any.
        log_text: whether logs may hold queries and passages.
    """

    models: Mapping[str, str | Reranker] = field(default_factory=lambda: {"default": "default"})
    ask: AskSettings | None = None
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    limits: Limits = field(default_factory=Limits)
    hosts: tuple[str, ...] = ()
    log_text: bool = False

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("A server needs at least one model")


def named_models(given: Sequence[str]) -> dict[str, str]:
    """``["fast=dense", "default"]`` -> ``{"fast": "dense", "default": "default"}``; a spec without a name is its own.

    Raises:
        InputError: a name occurs twice, or a spec is empty.
    """
    models: dict[str, str] = {}
    for item in given:
        name, sign, spec = item.partition("=")
        if not sign or not _NAME.fullmatch(name.strip()):  # the = of an option: cross-encoder:x[dtype=int8]
            name, spec = public_spec(item), item  # clients are told the name
        name, spec = name.strip(), spec.strip()
        if not spec:
            raise InputError(f"A model is written NAME=SPEC, such as fast=dense; got {public_spec(item)!r}")
        if name in models:
            raise InputError(f"Two models have the name {name!r}; give each its own: --rerank NAME=SPEC")
        models[name] = spec
    return models
