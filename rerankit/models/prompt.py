"""Prompts whose parts remember whether they are ours or come from outside.

A passage is data: it may hold ``<|im_end|>``, ``[3] > [1]`` or "ignore the others". Keeping it apart from the
template's own words up to the tokenizer lets a local model read every control token in it as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rerankit.errors import InputError

__all__ = ["ChatPrompt", "Data", "Message", "Part", "Prompt", "RawPrompt", "as_chat", "fill", "text_of"]


@dataclass(frozen=True, slots=True)
class Data:
    """Text from outside. Read as plain text, whatever it contains."""

    text: str


Part: TypeAlias = str | Data
"""A piece of a prompt: the template's own words, in which control tokens count, or data, in which they do not."""


Role: TypeAlias = Literal["system", "user", "assistant"]
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """What one side of a conversation says."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All parts as one text."""
        return text_of(self.parts)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation that the model is to continue, laid out by its own chat template.

    Attributes:
        messages: the turns so far.
        reply: how the reply begins; a local model continues after it, an endpoint is not told.
        thinking: whether a model that can switch reasoning on and off should reason; None leaves it to the model.
    """

    messages: tuple[Message, ...]
    reply: str = ""
    thinking: bool | None = None


@dataclass(frozen=True, slots=True)
class RawPrompt:
    """A prompt laid out to the last character, control tokens included, as a checkpoint was trained on it."""

    parts: tuple[Part, ...]


Prompt: TypeAlias = str | Sequence[Mapping[str, str]] | ChatPrompt | RawPrompt
"""A user's words, messages such as ``{"role": "user", "content": "..."}``, or a prompt that marks its data."""

_PLACE = re.compile(r"\{([a-z_]+)\}")


def fill(template: str, values: Mapping[str, Part | Sequence[Part]]) -> tuple[Part, ...]:
    """``template`` with each ``{name}`` replaced by its value; other braces stay as they are.

    A value is a part or several. Nothing inside a value is replaced again, and data stays marked as data.

    Raises:
        InputError: the template names a value that is not given.
    """
    parts: list[Part] = []
    for i, piece in enumerate(_PLACE.split(template)):
        if i % 2 == 0:
            parts.append(piece)
        elif piece not in values:
            raise InputError(f"The template names {{{piece}}}, which is none of {', '.join(sorted(values))}")
        else:
            value = values[piece]
            parts.extend([value] if isinstance(value, str | Data) else value)
    return _joined(parts)


def text_of(parts: Sequence[Part]) -> str:
    """The parts as one text."""
    return "".join(part if isinstance(part, str) else part.text for part in parts)


def as_chat(prompt: str | Sequence[Mapping[str, str]] | ChatPrompt) -> ChatPrompt:
    """Any chat-like prompt as a :class:`ChatPrompt`; plain words and messages count as the caller's data.

    Raises:
        InputError: no messages, or not of the form ``{"role": ..., "content": ...}``.
    """
    if isinstance(prompt, ChatPrompt):
        return prompt
    if not isinstance(prompt, Sequence):
        raise InputError(f"A prompt is a text, messages, a ChatPrompt or a RawPrompt; got {prompt!r:.80}")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if not messages:
        raise InputError("A prompt needs at least one message")
    return ChatPrompt(tuple(_message(message) for message in messages))


def _message(message: Mapping[str, str]) -> Message:
    if not isinstance(message, Mapping):
        raise InputError(f"A message has the strings 'role' and 'content'; got {message!r:.80}")
    role, content = message.get("role"), message.get("content")
    for known in _ROLES:
        if role == known and isinstance(content, str):
            return Message(known, (Data(content),))
    raise InputError("A message has the strings 'role' (system, user or assistant) and 'content'")


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Neighbouring words of the template as one part, empty ones dropped."""
    result: list[Part] = []
    for part in parts:
        if isinstance(part, str) and result and isinstance(result[-1], str):
            result[-1] += part
        elif part not in ("", Data("")):
            result.append(part)
    return tuple(result)
