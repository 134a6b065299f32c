"""LanguageModel: what rerankit asks of a language model, whether it runs here or behind an endpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypedDict, Unpack, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import BackendError, SpecError
from rerankit.models.prompt import Prompt
from rerankit.models.work import Work

__all__ = ["Completion", "GenerateOptions", "LabelScores", "LanguageModel", "language_model"]


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished reply.

    Attributes:
        text: what the model wrote; may be empty.
        input_tokens, output_tokens: as counted by the model or its server, 0 where it does not say.
        finish_reason: ``stop``, ``length`` (cut at ``max_tokens``), or the server's own word; empty if it gave none.
        reasoning: what a reasoning model wrote before its reply, where the server keeps that apart.
        cached: it came from the reply cache.
    """

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    finish_reason: str = ""
    reasoning: str = ""
    cached: bool = False


@dataclass(frozen=True, slots=True)
class LabelScores:
    """How likely each of some labels is to begin the reply.

    Attributes:
        logprobs: float64 ``[labels]``, natural logarithms, finite; not normalised over the labels.
        source: ``logprobs``; or ``text``: read off a written reply, because the server gives none, so that one label
            holds all the mass; or ``none``: the reply names no label, and all are equal.
        reply: what was written, where ``source`` is not ``logprobs``.
    """

    logprobs: NDArray[np.float64]
    source: Literal["logprobs", "text", "none"] = "logprobs"
    reply: str = ""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Float64 ``[labels]``: shares among the labels, adding up to 1."""
        weights = np.exp(self.logprobs - self.logprobs.max())
        return np.asarray(weights / weights.sum(), np.float64)

    @classmethod
    def from_reply(cls, named: int | None, labels: int, reply: str) -> LabelScores:
        """What a written reply says: all mass on the label at ``named``, or the same on each where it is None."""
        if named is None:
            return cls(np.full(labels, -math.log(labels)), "none", reply)
        logprobs = np.full(labels, UNSAID)
        logprobs[named] = 0.0
        return cls(logprobs, "text", reply)


UNSAID = -30.0
"""The log-probability of a label that a written reply passed over: finite, and below what any model reports."""


class GenerateOptions(TypedDict, total=False):
    """How to generate.

    Attributes:
        max_tokens: longest reply; default 512.
        temperature: default 0; None leaves it to the server (some models refuse any value).
        top_p: share of the mass to sample from; default: the model's own.
        stop: texts that end the reply.
        json_schema: the reply is JSON of this schema, where the model can be held to it; elsewhere ignored.
        seed: of the sampling, where there is any.
        deadline_s: replaces an endpoint's own deadline for this call.
    """

    max_tokens: int
    temperature: float | None
    top_p: float | None
    stop: Sequence[str] | None
    json_schema: Mapping[str, Any] | None
    seed: int | None
    deadline_s: float | None


@runtime_checkable
class LanguageModel(Protocol):
    """A causal language model as a judge. ``LocalLM`` and ``ChatLM`` are two; anything of this shape will do.

    The two methods take many prompts at once and answer each in its place:

    * a result, if there is one;
    * a :class:`~rerankit.errors.BackendError`, if this prompt failed (the others are not spoilt);
    * None, if it was not asked any more, because ``work`` had expired.

    They count prompts in ``work.meter.llm_calls`` (not those answered by a cache), tokens, and local forward passes.
    """

    @property
    def model_id(self) -> str:
        """Names weights, revision and precision, or endpoint and model; never credentials."""
        ...

    @property
    def context(self) -> int | None:
        """The longest prompt and reply together, in tokens; None where it is not known."""
        ...

    def label_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, work: Work | None = None
    ) -> list[LabelScores | BackendError | None]:
        """How likely each label is to begin the reply, per prompt.

        Spelling variants (``A``, a leading space) count for their label. Labels must differ in their first token.
        """
        ...

    def generate_many(
        self, prompts: Sequence[Prompt], *, work: Work | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion | BackendError | None]:
        """One reply per prompt."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` read as data; an estimate from above where the tokenizer is not at hand."""
        ...

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest beginning of ``text`` within ``max_tokens``, never splitting a character."""
        ...


def language_model(model: str | LanguageModel, **options: Any) -> LanguageModel:
    """The model that a spec names: ``http://host/v1#name`` is an endpoint, anything else a local name or folder.

    Args:
        model: as above; a model that is already built is returned as it is.
        options: of :class:`~rerankit.models.chat.ChatLM` or :class:`~rerankit.models.causal.LocalLM`; those that are
            None are left out.

    Raises:
        SpecError: the spec cannot be read, or an option does not fit the kind of model.
        ModelError: a local model cannot be loaded.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if not isinstance(model, str):
        if given:
            raise SpecError(f"Options {sorted(given)} cannot be applied to a model that is already built")
        return model
    remote = model.strip().startswith(("http://", "https://"))
    _refuse_misplaced(given, remote)
    if remote:
        from rerankit.models.chat import ChatLM

        return ChatLM.from_spec(model, **given)
    from rerankit.models.causal_load import is_encoder_decoder

    if is_encoder_decoder(model, given.get("revision")):
        from rerankit.models.seq2seq import Seq2SeqLM

        return Seq2SeqLM(model, **given)
    from rerankit.models.causal import LocalLM

    return LocalLM(model, **given)


_LOCAL_ONLY = frozenset({"device", "dtype", "revision", "batch_tokens", "batch_size"})
_REMOTE_ONLY = frozenset({"api_key", "concurrency", "timeout_s", "max_retries", "reply_cache", "price"})


def _refuse_misplaced(given: Mapping[str, Any], remote: bool) -> None:
    for name in sorted(_LOCAL_ONLY if remote else _REMOTE_ONLY):
        if name in given:
            kind, other = ("an endpoint", "local models") if remote else ("a local model", "endpoints")
            raise SpecError(f"The option {name!r} is for {other}; the model here is {kind}")
