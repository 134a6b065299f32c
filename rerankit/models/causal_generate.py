"""Replies, token by token: a batch goes on until each of its prompts has one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rerankit.checks import check_choice, check_whole, is_number, is_whole
from rerankit.errors import InputError
from rerankit.models.language import Completion, GenerateOptions
from rerankit.models.work import Work

if TYPE_CHECKING:
    from rerankit.models.local import LocalModel

__all__ = ["Generation", "replies"]

_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Generation:
    """How to generate; see :class:`~rerankit.models.language.GenerateOptions`.

    Attributes:
        deadline: ``time.monotonic()`` by which to stop, or None.
    """

    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int | None
    deadline: float | None

    @classmethod
    def of(cls, options: GenerateOptions, own: Any) -> Generation:
        """The options, completed by the model's ``own`` generation config.

        Raises:
            InputError: one is unknown or out of range.
        """
        for name in options:
            check_choice("An option of generate_many", name, GenerateOptions.__annotations__)
        max_tokens, temperature = options.get("max_tokens", _MAX_TOKENS), options.get("temperature", 0.0)
        if temperature is None:
            temperature = (own.temperature or 1.0) if own.do_sample else 0.0
        stated = options.get("top_p")
        top_p = (own.top_p or 1.0) if stated is None else stated
        limit, stop, seed = options.get("deadline_s"), options.get("stop") or (), options.get("seed")
        check_whole(1, max_tokens=max_tokens)
        _check_number("temperature", temperature, is_number(temperature) and 0 <= temperature < math.inf)
        _check_number("top_p", top_p, is_number(top_p) and 0 < top_p <= 1)
        _check_number("deadline_s", limit, limit is None or (is_number(limit) and limit >= 0))
        if isinstance(stop, str) or not isinstance(stop, Sequence) or not all(isinstance(text, str) for text in stop):
            raise InputError(f"stop takes a list of texts, such as ['\\n']; got {stop!r:.80}")
        if seed is not None and not is_whole(seed):
            raise InputError(f"seed must be a whole number or None, got {seed!r:.80}")
        return cls(
            max_tokens,
            temperature,
            top_p,
            tuple(text for text in stop if text),
            seed,
            None if limit is None else time.monotonic() + limit,
        )


_RANGES = {
    "temperature": "a number of at least 0",
    "top_p": "a number above 0 and at most 1",
    "deadline_s": "a number of seconds of at least 0, or None",
}


def _check_number(name: str, value: object, fits: bool) -> None:
    if not fits:
        raise InputError(f"{name} must be {_RANGES[name]}, got {value!r:.80}")


@dataclass(slots=True)
class _Reply:
    """One reply in the making."""

    row: int
    prompt_tokens: int
    room: int
    random: Any = None
    ids: list[int] = field(default_factory=list)


def replies(lm: LocalModel, entries: Sequence[Any], how: Generation, work: Work) -> Iterator[tuple[int, Completion]]:
    """Replies with the number of their prompt, as they are finished.

    Args:
        lm: the model.
        entries: what its engine runs.
        how: to generate.
        work: counts passes and tokens, says when to stop.
    """
    for output in lm.engine.run(entries, work, reserve=how.max_tokens):
        work.meter.llm_calls += len(output.rows)
        live = [_begin(lm, row, lm.engine.size(entries[row]), how) for row in output.rows]
        logits, state = output.logits, lm.engine.begin(output)
        while True:
            over = work.expired or (how.deadline is not None and time.monotonic() >= how.deadline)
            lm.check_finite(logits[:, -1].amax(-1).float().cpu().numpy())  # what is no number is the largest
            chosen = _choose(logits[:, -1], live, how)
            going = []
            for place, (reply, token) in enumerate(zip(live, chosen, strict=True)):
                completion = _advance(lm, reply, token, how, over)
                if completion is None:
                    going.append(place)
                    continue
                work.meter.output_tokens += completion.output_tokens
                yield reply.row, completion
            if not going:
                break
            live = [live[place] for place in going]
            logits, state = lm.engine.next(state, going, [chosen[place] for place in going])
            work.meter.forward_passes += 1
            work.meter.padded_tokens += len(going)


def _begin(lm: LocalModel, row: int, size: int, how: Generation) -> _Reply:
    room = how.max_tokens
    if lm.context is not None and lm.engine.joint:
        room = min(room, lm.context - size)
    reply = _Reply(row, size, room)
    if how.temperature > 0:
        import torch

        reply.random = torch.Generator()
        if how.seed is None:
            reply.random.seed()
        else:
            reply.random.manual_seed((how.seed + row) % 2**63)
    return reply


def _choose(logits: Any, live: Sequence[_Reply], how: Generation) -> list[int]:
    """The next token of each reply, from logits ``[rows, vocabulary]``."""
    if how.temperature == 0:
        return [int(token) for token in logits.argmax(-1).tolist()]
    import torch

    probabilities = torch.softmax(logits.float().cpu() / how.temperature, dim=-1)
    if how.top_p < 1:
        ordered, places = probabilities.sort(dim=-1, descending=True)
        ordered[ordered.cumsum(-1) - ordered >= how.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, places, ordered)
    return [
        int(torch.multinomial(row, 1, generator=reply.random)) for row, reply in zip(probabilities, live, strict=True)
    ]


def _advance(lm: LocalModel, reply: _Reply, token: int, how: Generation, over: bool) -> Completion | None:
    """Add a token; the completion if that was the last one."""
    if token in lm.end_ids:
        return _completion(lm, reply, "stop", ended=1)
    reply.ids.append(token)
    if how.stop and (text := _stopped(lm, reply, how.stop)) is not None:
        return _completion(lm, reply, "stop", text=text)
    if len(reply.ids) >= reply.room:
        return _completion(lm, reply, "length")
    return _completion(lm, reply, "deadline") if over else None


def _stopped(lm: LocalModel, reply: _Reply, stop: Sequence[str]) -> str | None:
    """The reply up to the first stop text, if it holds one."""
    longest = max(len(text.encode()) for text in stop)
    tail = lm.decode(reply.ids[-longest - 8 :])  # a token is at least a byte
    if not any(text in tail for text in stop):
        return None
    whole = lm.decode(reply.ids)
    ends = [whole.find(text) for text in stop if text in whole]
    return whole[: min(ends)] if ends else None


def _completion(lm: LocalModel, reply: _Reply, reason: str, *, ended: int = 0, text: str | None = None) -> Completion:
    written = lm.decode(reply.ids) if text is None else text
    return Completion(written, reply.prompt_tokens, len(reply.ids) + ended, reason)
