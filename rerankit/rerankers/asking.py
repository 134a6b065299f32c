"""What the families that ask a language model share: the model, its options, a budget of calls, safe passage text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError
from rerankit.models.language import LanguageModel, language_model
from rerankit.models.prompt import Data
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.windows import TITLE_SHARE
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
        check_whole(
            1, or_none=True, max_calls=max_calls, passage_tokens=passage_tokens, query_tokens=query_tokens,
            batch_tokens=batch_tokens, batch_size=batch_size, concurrency=concurrency,
        )  # fmt: skip
        check_whole(0, or_none=True, max_retries=max_retries)
        if timeout_s is not None and not (is_number(timeout_s) and timeout_s > 0):
            raise InputError(f"timeout_s must be a number of seconds above 0, got {timeout_s!r:.80}")
        self.max_calls, self._passage_tokens, self._query_tokens = max_calls, passage_tokens, query_tokens
        self.lm = language_model(
            model, device=device, dtype=dtype, revision=revision, batch_tokens=batch_tokens, batch_size=batch_size,
            api_key=api_key, concurrency=concurrency, timeout_s=timeout_s, max_retries=max_retries,
            reply_cache=reply_cache, price=price,
        )  # fmt: skip
        self._owns_lm = self.lm is not model

    def _attempt(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        call.once = self.max_calls is not None
        return super()._attempt(requests, call)

    def close(self) -> None:
        """Free the model or drop its connections, unless it was given as an object: then it is its owner's."""
        super().close()
        close = getattr(self.lm, "close", None)
        if self._owns_lm and close is not None:
            close()


Framing = Literal["quoted", "numbered"]

_ONE = r"[\"']?(?:\d+|[A-Za-z\uff21-\uff3a\uff41-\uff5a])[\"']?"
_NUMBER = re.compile(rf"[\[\uff3b\u3010]\s*({_ONE}(?:\s*[,;\uff0c\u3001]\s*{_ONE})*)\s*[\]\uff3d\u3011]")
_LABEL = re.compile(r"(?i)\b(passage|document|query)(\s+(?:[a-z\uff21-\uff3a\uff41-\uff5a]|\d+))?\s*[:\uff1a\ufe55]")


def neutral(text: str, framing: Framing) -> Data:
    """Passage or query text that can neither be read as an identifier of the prompt nor close the frame around it.

    ``[3]``, ``[B]`` and ``[2, 1]`` become ``(3)``, ``(B)`` and ``(2, 1)``, full-width ones too. In a quoted frame
    ``Passage B:`` becomes ``Passage B -``, straight
    double quotes become typographic ones, and blank lines single ones. Nothing else changes, and evidence is never
    taken from this text.
    """
    text = _NUMBER.sub(r"(\1)", text)
    if framing == "quoted":
        text = _LABEL.sub(r"\1\2 -", text).replace('"', "\u201d")
    return Data(re.sub(r"\n\s*\n+", "\n", text).strip())


CHARACTERS_PER_TOKEN = 16
"""No tokenizer makes ordinary text longer than this per token; bounds what is looked at of a text that will be cut."""


MEASURED = 16_384
"""Characters that are measured of any text, so that what is cut off an ordinary one is counted, not estimated."""


def beginning(text: str, max_tokens: int | None) -> tuple[str, int]:
    """As much of a text as ``max_tokens`` can hold, and an estimate of the tokens behind it, from its length alone."""
    if max_tokens is None:
        return text, 0
    size = max(max_tokens * CHARACTERS_PER_TOKEN, MEASURED)
    return text[:size], -(-max(0, len(text) - size) // 4)


def short_title(lm: LanguageModel, passage: Passage, room: int) -> tuple[Passage, int]:
    """The passage, its title no longer than its share of ``room`` tokens, and how many tokens that leaves out."""
    most = max(1, room // TITLE_SHARE)
    title, behind = beginning(passage.title, most)
    kept = lm.cut(title, most)
    if kept == passage.title:
        return passage, 0
    return passage.replace(title=kept), max(1, lm.count_tokens(title) - lm.count_tokens(kept)) + behind


def shown(passage: Passage) -> str:
    """Title and text as a model reads them."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text
