"""What goes to a chat endpoint and what comes back: the bodies of requests, the reading of replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rerankit.errors import InputError, ModelError
from rerankit.models.language import Completion, GenerateOptions
from rerankit.models.prompt import Prompt, RawPrompt, as_chat

TOP_LOGPROBS = 20
"""How many tokens of a position to ask for: the most that the OpenAI API and vLLM's default allow."""


class Position(NamedTuple):
    """One position of a generated reply.

    Attributes:
        token: what was generated there.
        top: the likeliest tokens and their log-probabilities, finite and at most 0, the generated one among them.
    """

    token: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered, as far as it can be read.

    Attributes:
        text: the reply; empty where there is none, for example because reasoning took all the tokens.
        reasoning: what the server kept apart.
        positions: with their log-probabilities; empty where the server gives none.
        finish_reason, input_tokens, output_tokens: as in :class:`~rerankit.models.language.Completion`.
    """

    text: str
    reasoning: str
    positions: tuple[Position, ...]
    finish_reason: str
    input_tokens: int
    output_tokens: int

    def completion(self, *, cached: bool = False) -> Completion:
        """Without the positions."""
        return Completion(
            self.text, self.input_tokens, self.output_tokens, self.finish_reason, self.reasoning, cached
        )  # fmt: skip


def request(model: str, prompt: Prompt, options: GenerateOptions) -> dict[str, Any]:
    """The body that asks for one reply, in the words of the OpenAI API as most servers understand it.

    Raises:
        InputError: the prompt has no messages, or an option is out of range.
        ModelError: the prompt is laid out for a local model.
    """
    max_tokens, temperature = options.get("max_tokens", 512), options.get("temperature", 0.0)
    if max_tokens < 1:
        raise InputError(f"max_tokens must be at least 1, got {max_tokens}")
    body: dict[str, Any] = {"model": model, "messages": messages(prompt), "max_tokens": max_tokens}
    optional = {"temperature": temperature, "top_p": options.get("top_p"), "seed": options.get("seed")}
    body.update({name: value for name, value in optional.items() if value is not None})
    if stop := options.get("stop"):
        body["stop"] = list(stop)
    if (schema := options.get("json_schema")) is not None:
        held = {"name": "reply", "schema": dict(schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": held}
    return body


def label_request(model: str, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
    """The body that asks for a short reply and for the likeliest tokens at each of its positions."""
    body = request(model, prompt, {"max_tokens": max_tokens})
    return {**body, "logprobs": True, "top_logprobs": TOP_LOGPROBS}


def messages(prompt: Prompt) -> list[dict[str, str]]:
    """The turns of a prompt; the beginning of the reply that it may ask for cannot be sent."""
    if isinstance(prompt, RawPrompt):
        raise ModelError(
            "A prompt laid out token by token needs a local model: an endpoint lays out the conversation itself. "
            "Use a chat prompt, or load the checkpoint by its name or folder instead of a URL"
        )
    return [{"role": message.role, "content": sound(message.text)} for message in as_chat(prompt).messages]


def sound(text: str) -> str:
    """Without lone surrogates, which are no valid Unicode: servers refuse them, and nothing can print or store them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def read_reply(data: Mapping[str, Any]) -> Reply:
    """A reply that may be empty.

    Raises:
        ValueError: the answer has no choices.
    """
    choice = first_choice(data)
    if not isinstance(choice.get("message"), dict):
        raise ValueError(what_is_wrong(choice))
    message, usage = member(choice, "message"), member(data, "usage")
    return Reply(
        text=text_at(message, "content"),
        reasoning=reasoning_of(message),
        positions=_positions(member(choice, "logprobs")),
        finish_reason=str(choice.get("finish_reason") or ""),
        input_tokens=count(usage, "prompt_tokens"),
        output_tokens=count(usage, "completion_tokens"),
    )


def read_text(data: Mapping[str, Any]) -> Reply:
    """A reply with a text, which may be the empty one.

    Raises:
        ValueError: it holds none; says why.
    """
    choice = first_choice(data)
    if not isinstance(member(choice, "message").get("content"), str):
        raise ValueError(what_is_wrong(choice))
    return read_reply(data)


def essence(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an answer that is read."""
    return {"choices": [first_choice(data)], "usage": member(data, "usage")}


def member(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object called ``name``, or an empty one."""
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def text_at(data: Mapping[str, Any], name: str) -> str:
    """The text called ``name``, or an empty one."""
    value = data.get(name)
    return sound(value) if isinstance(value, str) else ""


def reasoning_of(message: Mapping[str, Any]) -> str:
    """``reasoning_content`` (llama.cpp, vLLM) or ``reasoning`` (Ollama, newer vLLM)."""
    return text_at(message, "reasoning_content") or text_at(message, "reasoning")


def first_choice(data: Mapping[str, Any]) -> dict[str, Any]:
    """The first choice, or an empty one."""
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def count(usage: Mapping[str, Any], name: str) -> int:
    """A number of tokens, 0 where the server gives none."""
    value = usage.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**40 else 0


def what_is_wrong(choice: Mapping[str, Any]) -> str:
    """Why there is no text."""
    if not choice:
        return "The answer has no choices. Is this an OpenAI-compatible chat endpoint?"
    if refusal := text_at(member(choice, "message"), "refusal"):
        return f"The model refused: {refusal[:200]}"
    finish = choice.get("finish_reason")
    if finish == "length":
        return "The reply holds no text: max_tokens was spent before any was written. Raise max_tokens"
    return f"The reply holds no text (finish_reason {str(finish)[:40]!r})"


def _positions(logprobs: Mapping[str, Any]) -> tuple[Position, ...]:
    content = logprobs.get("content")
    found = (_position(entry) for entry in content) if isinstance(content, list) else ()
    return tuple(position for position in found if position is not None)


def _position(entry: object) -> Position | None:
    """What can be used of one position; servers report impossible tokens as -inf, -9999 or null."""
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    top = [pair for pair in map(_pair, _listed(entry.get("top_logprobs"))) if pair is not None]
    own = _pair(entry)
    if own is not None and all(token != own[0] for token, _ in top):
        top.append(own)
    return Position(entry["token"], tuple(top)) if top else None


def _listed(top: object) -> Sequence[object]:
    if isinstance(top, dict):  # the form of the older completions API
        return [{"token": token, "logprob": value} for token, value in top.items()]
    return top if isinstance(top, list) else ()


def _pair(entry: object) -> tuple[str, float] | None:
    if not isinstance(entry, dict):
        return None
    token, value = entry.get("token"), entry.get("logprob")
    if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return (token, min(float(value), 0.0)) if -1e9 < value < 1e9 else None
