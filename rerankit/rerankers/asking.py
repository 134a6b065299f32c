"""What the families that ask a language model share: the model, its options, a budget of calls, safe passage text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

from rerankit.errors import BackendError, InputError
from rerankit.models.language import LanguageModel, language_model
from rerankit.models.prompt import Data
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.types import Passage

T = TypeVar("T")


class LanguageModelOptions(RerankerOptions, total=False):
    """Keyword options of every family that asks a language model.

    Attributes:
        max_calls: most prompts per ranked list; None for no limit. The best order found within it is returned.
        passage_tokens: longest passage shown, in tokens; default: the template's.
        query_tokens: longest query shown; default: the template's.
        device, dtype, revision, batch_tokens, batch_size: of a local model, see ``LocalLM``.
        api_key, concurrency, timeout_s, max_retries, reply_cache, price: of an endpoint, see ``ChatLM``.
    """

    max_calls: int | None
    passage_tokens: int | None
    query_tokens: int | None
    device: str | None
    dtype: str | None
    revision: str | None
    batch_tokens: int | None
    batch_size: int | None
    api_key: str | None
    concurrency: int | None
    timeout_s: float | None
    max_retries: int | None
    reply_cache: str | bool | None
    price: Sequence[float] | None


class AsksLanguageModel(Reranker):
    """Mixin for families that ask a language model; goes before ``PointwiseReranker`` where both are bases.

    Attributes:
        lm: the model.
        max_calls: most prompts per list, or None.
    """

    def __init__(
        self,
        model: str | LanguageModel,
        *,
        max_calls: int | None = None,
        passage_tokens: int | None = None,
        query_tokens: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
        api_key: str | None = None,
        concurrency: int | None = None,
        timeout_s: float | None = None,
        max_retries: int | None = None,
        reply_cache: str | bool | None = None,
        price: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)  # those of the base beside this mixin
        for name, value in {
            "max_calls": max_calls, "passage_tokens": passage_tokens, "query_tokens": query_tokens
        }.items():  # fmt: skip
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, or None for no limit; got {value}")
        self.max_calls, self._passage_tokens, self._query_tokens = max_calls, passage_tokens, query_tokens
        self.lm = language_model(
            model, device=device, dtype=dtype, revision=revision, batch_tokens=batch_tokens, batch_size=batch_size,
            api_key=api_key, concurrency=concurrency, timeout_s=timeout_s, max_retries=max_retries,
            reply_cache=reply_cache, price=price,
        )  # fmt: skip

    def _attempt(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        call.once = self.max_calls is not None
        return super()._attempt(requests, call)

    def close(self) -> None:
        """Free the model or drop its connections."""
        super().close()
        close = getattr(self.lm, "close", None)
        if close is not None:
            close()


Framing = Literal["quoted", "numbered"]

_NUMBER = re.compile(r"\[\s*(\d+|[A-Za-z])\s*\]")
_LABEL = re.compile(r"(?i)\b(passage|document|query)(\s+(?:[a-z]|\d+))?\s*:")


def neutral(text: str, framing: Framing) -> Data:
    """Passage or query text that can neither be read as an identifier of the prompt nor close the frame around it.

    ``[3]`` and ``[B]`` become ``(3)`` and ``(B)``; in a quoted frame ``Passage B:`` becomes ``Passage B -``, straight
    double quotes become typographic ones, and blank lines single ones. Nothing else changes, and evidence is never
    taken from this text.
    """
    text = _NUMBER.sub(r"(\1)", text)
    if framing == "quoted":
        text = _LABEL.sub(r"\1\2 -", text).replace('"', "\u201d")
    return Data(re.sub(r"\n\s*\n+", "\n", text).strip())


def shown(passage: Passage) -> str:
    """Title and text as a model reads them."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def failures(results: Iterable[Any]) -> list[BackendError]:
    """The errors among a model's answers."""
    return [result for result in results if isinstance(result, BackendError)]


def check_any(results: Sequence[T | BackendError | None], call: Call, *, strict: bool = True) -> None:
    """Say in ``call.notes`` how many prompts failed.

    Raises:
        BackendError: with ``strict``, if every prompt that was asked failed, so that there is nothing to rank by.
    """
    failed = failures(results)
    asked = [result for result in results if result is not None]
    if strict and failed and len(failed) == len(asked):
        raise failed[0]
    if failed:
        call.notes.append(f"{len(failed)} of {len(asked)} prompts failed ({failed[0]})")
