"""Answers written by a chat model, with every citation checked against the context."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator

from rerankit.models.chat import ChatLM, Completion, GenerateOptions
from rerankit.rag.answer import Answer
from rerankit.rag.citations import Checked, check
from rerankit.rag.context import Context
from rerankit.rag.prompts import AnswerPrompt
from rerankit.types import Usage

__all__ = ["ChatGenerator"]

_OPEN, _CLOSE = "<think>", "</think>"


class ChatGenerator:
    """Lets a chat model answer from the numbered context.

    Reasoning between ``<think>`` marks is left out. Numbers that the context does not have are taken out of the text;
    they, and sentences without any citation, are named in ``Answer.reason``.

    Args:
        lm: the model, or its spec such as ``http://localhost:11434/v1#qwen3:8b``.
        prompt: what the model is told.
        max_tokens: longest answer, reasoning included.
        temperature: None leaves it to the server.
    """

    def __init__(
        self,
        lm: ChatLM | str,
        *,
        prompt: AnswerPrompt | None = None,
        max_tokens: int = 1024,
        temperature: float | None = 0.0,
    ) -> None:
        self.lm = ChatLM.from_spec(lm) if isinstance(lm, str) else lm
        self.prompt = prompt or AnswerPrompt()
        self.max_tokens, self.temperature = max_tokens, temperature

    @property
    def model(self) -> str:
        """``chat:`` and the model's address and name."""
        return f"chat:{self.lm.model_id}"

    def generate(self, query: str, context: Context, *, deadline_s: float | None = None) -> Answer:
        """One answer.

        Raises:
            BackendError: the endpoint failed.
        """
        if not context.blocks:
            return self._nothing()
        started = time.monotonic()
        reply = self.lm.generate(self.prompt.messages(query, context), **self._options(deadline_s))
        return self._answer(reply, context, time.monotonic() - started)

    async def agenerate(self, query: str, context: Context, *, deadline_s: float | None = None) -> Answer:
        """:meth:`generate` without blocking the event loop."""
        if not context.blocks:
            return self._nothing()
        started = time.monotonic()
        reply = await self.lm.agenerate(self.prompt.messages(query, context), **self._options(deadline_s))
        return self._answer(reply, context, time.monotonic() - started)

    def stream(self, query: str, context: Context, *, deadline_s: float | None = None) -> Iterator[str | Answer]:
        """The text as it is written, then the checked :class:`Answer`."""
        if not context.blocks:
            yield from self._nothing_streamed()
            return
        started, visible = time.monotonic(), _Visible()
        for item in self.lm.stream(self.prompt.messages(query, context), **self._options(deadline_s)):
            if isinstance(item, Completion):
                yield self._answer(item, context, time.monotonic() - started)
            elif piece := visible.feed(item):
                yield piece

    async def astream(
        self, query: str, context: Context, *, deadline_s: float | None = None
    ) -> AsyncIterator[str | Answer]:
        """:meth:`stream` without blocking the event loop."""
        if not context.blocks:
            for item in self._nothing_streamed():
                yield item
            return
        started, visible = time.monotonic(), _Visible()
        async for part in self.lm.astream(self.prompt.messages(query, context), **self._options(deadline_s)):
            if isinstance(part, Completion):
                yield self._answer(part, context, time.monotonic() - started)
            elif piece := visible.feed(part):
                yield piece

    def _options(self, deadline_s: float | None) -> GenerateOptions:
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "deadline_s": deadline_s}

    def _answer(self, reply: Completion, context: Context, seconds: float) -> Answer:
        usage = Usage(seconds, 0, reply.input_tokens, reply.output_tokens, llm_calls=1)
        checked = check(_without_reasoning(reply.text), context)
        abstained = self.prompt.is_abstention(checked.text, cited=bool(checked.citations))
        if not checked.text:
            spent = " within max_tokens" if reply.finish_reason == "length" else ""
            return self._nothing(f"The model wrote no answer{spent}", usage)
        reason = "The model found no answer in the passages" if abstained else _doubts(reply, checked)
        return Answer(checked.text, checked.citations, abstained, reason, None, self.model, usage)

    def _nothing(self, reason: str = "The context is empty", usage: Usage | None = None) -> Answer:
        return Answer(self.prompt.abstention, (), True, reason, None, self.model, usage or Usage())

    def _nothing_streamed(self) -> Iterator[str | Answer]:
        yield self.prompt.abstention
        yield self._nothing()


class _Visible:
    """Holds back the reasoning at the beginning of a streamed reply."""

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"

    def feed(self, piece: str) -> str:
        """What of the reply so far may be shown now."""
        if self._state == "open":
            return piece
        self._held = (self._held + piece).lstrip()
        if self._state == "start" and not _OPEN.startswith(self._held[: len(_OPEN)]):
            return self._release(self._held)
        if len(self._held) < len(_OPEN) and self._state == "start":
            return ""
        self._state = "thinking"
        _, closed, rest = self._held.partition(_CLOSE)
        self._held = self._held[-len(_CLOSE) :]
        return self._release(rest.lstrip()) if closed else ""

    def _release(self, text: str) -> str:
        self._state, self._held = "open", ""
        return text


def _without_reasoning(text: str) -> str:
    """What follows the last ``</think>`` (the opening one may stand in the prompt); nothing if it never closes."""
    rest = text.rpartition(_CLOSE)[2].strip()
    return "" if rest.startswith(_OPEN) else rest


def _doubts(reply: Completion, checked: Checked) -> str:
    doubts = []
    if checked.unknown:
        numbers = ", ".join(f"[{number}]" for number in dict.fromkeys(checked.unknown))
        doubts.append(f"{len(checked.unknown)} citation(s) of passages that do not exist removed: {numbers}")
    if checked.uncited:
        doubts.append("Without citation: " + " | ".join(checked.uncited))
    if reply.finish_reason == "length":
        doubts.append("Cut off at max_tokens")
    return ". ".join(doubts)
