"""The prompts and tools of the assistant: data, read from ``agent.json`` or from a file of your own."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rerankit.errors import InputError
from rerankit.models.prompt import ChatPrompt, Data, Message, fill
from rerankit.rag.prompts import neutral

__all__ = ["AgentPrompts", "Task", "read_reply"]


@dataclass(frozen=True, slots=True)
class Task:
    """One thing that a model is asked to do.

    Attributes:
        system: the rules.
        user: what they are applied to; ``{name}`` stands for a value.
        schema: JSON schema of the reply.
    """

    system: str
    user: str
    schema: Mapping[str, Any]

    def prompt(self, rules: Mapping[str, str], **values: str) -> ChatPrompt:
        """The messages, ``rules`` filled into the system's words and ``values`` into the user's, as data."""
        data = {name: Data(neutral(value)) for name, value in values.items()}
        messages = (Message("system", fill(self.system, rules)), Message("user", fill(self.user, data)))
        return ChatPrompt(messages, thinking=False)


@dataclass(frozen=True, slots=True)
class AgentPrompts:
    """What the assistant's model is told.

    Attributes:
        understand: makes a message standalone and splits it into aspects.
        decide: chooses a tool when what was found does not seem to answer.
        tools: descriptions by name; a tool that is left out is not offered.
    """

    understand: Task
    decide: Task
    tools: Mapping[str, str]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AgentPrompts:
        """From a JSON object of the form of ``agent.json``.

        Raises:
            InputError: it is incomplete, or names a tool that there is not.
        """
        try:
            prompts = cls(Task(**data["understand"]), Task(**data["decide"]), dict(data["tools"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The prompts of an assistant are incomplete: {error!r}") from error
        if unknown := sorted(set(prompts.tools) - {"search", "answer", "ask_back", "give_up"}):
            raise InputError(f"There are no such tools: {unknown}; known: search, answer, ask_back, give_up")
        return prompts

    @classmethod
    @functools.cache
    def bundled(cls) -> AgentPrompts:
        """The ones that ship with rerankit."""
        return cls.from_dict(json.loads(resources.files(__package__).joinpath("agent.json").read_text("utf-8")))

    def understanding(self, question: str, history: Sequence[tuple[str, str]], most: int) -> ChatPrompt:
        """Asks for the standalone question and at most ``most`` aspects; ``history`` is (question, answer) pairs."""
        said = "\n".join(f"Person: {asked}\nAssistant: {answer}" for asked, answer in history) or "(none)"
        return self.understand.prompt({"most": str(most)}, history=said, question=question)

    def deciding(self, question: str, queries: Sequence[str], found: Sequence[str]) -> ChatPrompt:
        """Asks which tool to use next."""
        tools = "\n".join(f"- {name}: {text}" for name, text in self.tools.items())
        lines = "\n".join(f"- {line}" for line in found) or "(nothing)"
        return self.decide.prompt({"tools": tools}, question=question, queries="; ".join(queries), found=lines)


def read_reply(text: str) -> dict[str, Any]:
    """The JSON object in a model's reply, reasoning and code fences around it ignored.

    Raises:
        InputError: there is none.
    """
    visible = text.rpartition("</think>")[2]
    start, end = visible.find("{"), visible.rfind("}")
    try:
        found = json.loads(visible[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"The model's reply is not JSON: {visible!r:.80}") from error
    if not isinstance(found, dict):
        raise InputError(f"The model's reply holds no JSON object: {visible!r:.80}")
    return found
