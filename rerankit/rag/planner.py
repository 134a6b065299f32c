"""Planner: the two decisions that a language model takes better than rules, read from its replies with suspicion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rerankit.errors import BackendError, InputError
from rerankit.models.language import LanguageModel
from rerankit.models.prompt import ChatPrompt
from rerankit.models.work import Work
from rerankit.rag.agent_prompts import AgentPrompts, read_reply
from rerankit.rag.memory import Remembered
from rerankit.rag.terms import terms
from rerankit.rerankers.prepare import clean, is_blank

__all__ = ["Decision", "Planner", "Tool"]

Tool = Literal["search", "answer", "ask_back", "give_up"]

_LONGEST = 500  # characters of what a model may write, and of each earlier message that it is shown
_REPLY_TOKENS = 400


@dataclass(frozen=True, slots=True)
class Decision:
    """A tool and its text: the next query, the question to ask back, or what is missing."""

    tool: Tool
    text: str


class Planner:
    """Asks a language model.

    Args:
        model: the model.
        prompts: what it is told.
    """

    def __init__(self, model: LanguageModel, prompts: AgentPrompts) -> None:
        self.model, self.prompts = model, prompts

    def understand(self, question: str, history: Sequence[Remembered], most: int, work: Work) -> tuple[str, list[str]]:
        """The standalone question, and its aspects, one to ``most``.

        Raises:
            BackendError: the model failed, or there was no time.
            InputError: its reply is not what was asked for, or about something else than the conversation.
        """
        pairs = [(turn.question[:_LONGEST], turn.answer[:_LONGEST]) for turn in history]
        reply = self._ask(self.prompts.understanding(question, pairs, most), self.prompts.understand.schema, work)
        standalone = _text(reply.get("standalone"))
        said = " ".join([question, *(f"{turn.question} {turn.standalone}" for turn in history)])
        if not set(terms(standalone)) & set(terms(said)):
            raise InputError(f"The model's question has no word of the conversation: {standalone!r:.80}")
        found = reply.get("aspects")
        aspects = [_text(item) for item in found] if isinstance(found, list) else []
        many = 1 < len(aspects) <= most
        return standalone, list(dict.fromkeys(aspects)) if many else [standalone]

    def decide(self, question: str, queries: Sequence[str], found: Sequence[str], work: Work) -> Decision:
        """What to do when the judge doubts that ``found`` answers.

        Raises:
            BackendError: the model failed, or there was no time.
            InputError: its reply names no tool that it has, or lacks the text that the tool needs.
        """
        reply = self._ask(self.prompts.deciding(question, queries, found), self.prompts.decide.schema, work)
        tool, text = reply.get("tool"), reply.get("text")
        tools: tuple[Tool, ...] = ("search", "answer", "ask_back", "give_up")
        for name in tools:
            if tool == name and name in self.prompts.tools:
                return Decision(name, "" if name == "answer" else _text(text))
        raise InputError(f"The model chose the tool {tool!r:.40}; it has {', '.join(self.prompts.tools)}")

    def _ask(self, prompt: ChatPrompt, schema: Any, work: Work) -> dict[str, Any]:
        options: dict[str, Any] = {"max_tokens": _REPLY_TOKENS, "temperature": 0.0, "json_schema": schema}
        reply = self.model.generate_many([prompt], work=work, **options)[0]
        if reply is None:
            raise BackendError("was not asked: the deadline had passed", endpoint=self.model.model_id)
        if isinstance(reply, BackendError):
            raise reply
        return read_reply(reply.text)


def _text(value: object) -> str:
    if not isinstance(value, str) or is_blank(value) or len(value) > _LONGEST:
        raise InputError(f"The model's reply must hold a text of at most {_LONGEST} characters, got {value!r:.80}")
    return " ".join(clean(value).split())
