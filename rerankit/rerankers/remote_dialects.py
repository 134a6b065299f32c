"""How rerank endpoints want to be asked, and how their replies are read: four dialects, as data.

Sources: the API references of Cohere (``/v2/rerank``), Jina (``/v1/rerank``), Voyage (``/v1/rerank``) and of Hugging
Face's text-embeddings-inference (``/rerank``, ``/info``). vLLM, Infinity, llama.cpp, LocalAI and ``rerankit serve``
speak one or several of them. Replies differ so little that one reader takes them all; it trusts none of them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from rerankit.errors import InputError, SpecError

__all__ = ["DIALECTS", "Dialect", "Info", "Reply", "address", "choose", "key_for", "read_info", "read_reply"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to ask.

    Attributes:
        name: what specs call it.
        path: below the base URL.
        max_passages: most passages of one request.
        documents: the body's name for the passages.
        top: the body's name for how many to return; servers that have none return all.
        fixed: further fields of every body.
        hosts: where this dialect is spoken for certain.
        keys: environment variables that hold the key for these hosts, the first that is set counts.
    """

    name: str
    path: str
    max_passages: int
    documents: str = "documents"
    top: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    def body(self, model: str, query: str, texts: Sequence[str], extra: Mapping[str, Any]) -> dict[str, Any]:
        """A request for the scores of all ``texts``: a server that returned fewer would leave passages unjudged."""
        body = {"query": query, self.documents: list(texts), **self.fixed, **extra}
        if self.top:
            body[self.top] = len(texts)
        if model and self is not TEI:  # one TEI server has one model
            body["model"] = model
        return body


COHERE = Dialect(
    "cohere", "/v2/rerank", 1000, top="top_n",
    hosts=("api.cohere.com", "api.cohere.ai"), keys=("COHERE_API_KEY", "CO_API_KEY"),
)  # fmt: skip
JINA = Dialect(
    "jina", "/v1/rerank", 1000, top="top_n", fixed={"return_documents": False},
    hosts=("api.jina.ai",), keys=("JINA_API_KEY",),
)  # fmt: skip
VOYAGE = Dialect(
    "voyage", "/v1/rerank", 1000, top="top_k", fixed={"return_documents": False, "truncation": True},
    hosts=("api.voyageai.com",), keys=("VOYAGE_API_KEY",),
)  # fmt: skip
TEI = Dialect(
    "tei", "/rerank", 32, documents="texts", fixed={"raw_scores": True, "return_text": False, "truncate": True},
)  # fmt: skip

DIALECTS = {dialect.name: dialect for dialect in (COHERE, JINA, VOYAGE, TEI)}

RESERVED = frozenset({"query", "documents", "texts", "model", "top_n", "top_k", "return_documents", "return_text"})
"""Fields that decide which passages are judged; nobody else may set them."""

_OTHER_KEY = "RERANKIT_API_KEY"


def choose(name: str | None, url: str) -> Dialect:
    """The dialect of that name, or the one that the host speaks.

    Raises:
        SpecError: there is none of that name, or none was named and the host is not known.
    """
    if name is None:
        found = next((dialect for dialect in DIALECTS.values() if _host(url) in dialect.hosts), None)
        if found is None:
            raise SpecError(
                f"What the server at {_host(url)!r} speaks cannot be told from its address: add "
                f"[dialect=...], one of {', '.join(DIALECTS)}"
            )
        return found
    if name not in DIALECTS:
        raise SpecError(f"There is no rerank dialect {name!r}; known: {', '.join(DIALECTS)}")
    return DIALECTS[name]


def key_for(url: str) -> str:
    """The key in the environment for this address: a provider's own only ever goes to the provider's own host.

    Raises:
        InputError: the host wants a key, and none is set.
    """
    hosted = next((dialect for dialect in DIALECTS.values() if _host(url) in dialect.hosts), None)
    if hosted is None:
        return os.environ.get(_OTHER_KEY, "")
    key = next((value for name in hosted.keys if (value := os.environ.get(name))), "")
    if not key:
        raise InputError(f"{_host(url)} wants a key: set {hosted.keys[0]}, or pass api_key=")
    return key


def address(url: str, dialect: Dialect) -> tuple[str, str]:
    """Base URL and path: ``url`` may end in ``/rerank``, then it is meant exactly, or in a version such as ``/v1``."""
    base = url.rstrip("/")
    if base.endswith("/rerank"):
        return base.removesuffix("/rerank"), "/rerank"
    return (base if dialect is TEI else re.sub(r"/v\d+$", "", base)), dialect.path


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request brought.

    Attributes:
        scores: float64 ``[n]``, by the position of the passage in the request; masked where the server says that it
            did not get to the passage (``rerankit serve`` does).
        tokens: input tokens that were counted, 0 if the server does not say.
        cost: what the server says it charged, 0 if it does not say.
    """

    scores: np.ma.MaskedArray[Any, np.dtype[np.float64]]
    tokens: int
    cost: float


def read_reply(reply: Any, count: int) -> Reply:
    """Scores by the index that each result carries; the order of the results says nothing.

    Args:
        reply: ``{"results": [...]}``, ``{"data": [...]}`` or the bare list, of objects with ``index`` and
            ``relevance_score`` or ``score``.
        count: how many passages were sent.

    Raises:
        ValueError: an index is missing, twice there, no whole number or out of range, or a score is no finite number.
    """
    whole = reply if isinstance(reply, Mapping) else {}
    results = whole.get("results", whole.get("data")) if whole else reply
    if not isinstance(results, list):
        raise ValueError("The answer holds no list of results. Is the dialect the right one?")
    scores: dict[int, float | None] = {}
    for result in results:
        index, score = _result(result, count)
        if index in scores:
            raise ValueError(f"The answer holds index {index} twice")
        scores[index] = score
    if missing := [index for index in range(count) if index not in scores]:
        raise ValueError(f"The answer lacks {len(missing)} of {count} passages, first index {missing[0]}")
    usage, billed = _member(whole, "usage"), _member(_member(whole, "meta"), "tokens")
    tokens = _amount(billed.get("input_tokens")) or _amount(usage.get("prompt_tokens"))
    found = [scores[i] for i in range(count)]
    return Reply(
        np.ma.array([score or 0.0 for score in found], np.float64, mask=[score is None for score in found]),
        int(tokens or _amount(usage.get("total_tokens"))),
        _amount(usage.get("cost")),
    )


def _result(result: Any, count: int) -> tuple[int, float | None]:
    """Index and score; no score if the server marks it as no judgement."""
    if not isinstance(result, Mapping):
        raise ValueError(f"A result is a {type(result).__name__}, not an object")
    index, score = result.get("index"), result.get("relevance_score", result.get("score"))
    if type(index) is not int:
        raise ValueError(f"A result has the index {index!r:.40}, which is no whole number")
    if not 0 <= index < count:
        raise ValueError(f"A result has the index {index!r:.40}, but {count} passages were sent")
    if (number := _number(score)) is None:
        raise ValueError(f"The result of index {index} has the score {score!r:.40}, which is no finite number")
    return index, None if result.get("status") == "unscored" else number


@dataclass(frozen=True, slots=True)
class Info:
    """What a TEI server says of itself."""

    model: str = ""
    max_passages: int = TEI.max_passages


def read_info(reply: Any) -> Info:
    """``/info`` of a TEI server; what is missing or odd counts as not said."""
    said = reply if isinstance(reply, Mapping) else {}
    model, most = said.get("model_id"), said.get("max_client_batch_size")
    limit = most if isinstance(most, int) and most > 0 else TEI.max_passages
    return Info(model if isinstance(model, str) else "", limit)


def _host(url: str) -> str:
    """The host alone; never the user and password before it."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _member(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = data.get(name)
    return value if isinstance(value, Mapping) else {}


def _amount(value: Any) -> float:
    """A count or price that a server tells; 0 for anything else."""
    return max(0.0, _number(value) or 0.0)


def _number(value: Any) -> float | None:
    """The finite number that ``value`` is, if it is one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None
