"""How a language model's answer about one passage becomes a score: log-odds, a logit, a rating, a likelihood."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import BackendError, ModelError
from rerankit.models.language import Completion, LabelScores, LanguageModel
from rerankit.models.prompt import Prompt
from rerankit.models.templates import Template
from rerankit.models.work import Work
from rerankit.models.written_answer import written_answer

__all__ = ["Reading", "ReadsContinuations", "ReadsLogits", "read_pairs"]

Reading = float | BackendError | None
"""A score; the error of this prompt; or None, if it was not asked or its answer says nothing."""


@runtime_checkable
class ReadsLogits(Protocol):
    """A model that tells bare logits of labels, without the product with the whole vocabulary."""

    def label_logits(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, work: Work | None = None, variants: bool = True
    ) -> list[NDArray[np.float64] | BackendError | None]:
        """Float64 ``[labels]`` per prompt; with ``variants`` a label after a space counts too."""
        ...


@runtime_checkable
class ReadsContinuations(Protocol):
    """A model that tells how likely a given text is to follow."""

    def continuation_logprobs(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], *, work: Work | None = None
    ) -> Sequence[tuple[float, int] | BackendError | None]:
        """Sum of log-probabilities and number of tokens, per prompt and its continuation."""
        ...


def read_pairs(
    lm: LanguageModel, template: Template, prompts: Sequence[Prompt], queries: Sequence[str], work: Work
) -> list[Reading]:
    """One reading per prompt, by the way that ``template.read`` names.

    Args:
        lm: the model.
        template: how it was asked.
        prompts: one per (query, passage).
        queries: their queries, for ``likelihood``.
        work: what to count, and until when.

    Raises:
        ModelError: the model cannot be read that way.
    """
    if template.read == "likelihood":
        return _likelihoods(lm, prompts, queries, work)
    if template.read == "score":
        return _ratings(lm, template, prompts, work)
    if template.read == "logit" or isinstance(lm, ReadsLogits):
        return _logits(lm, template, prompts, work)
    return [_log_odds(answer) for answer in lm.label_logprobs(prompts, template.labels, work=work)]


def _log_odds(answer: LabelScores | BackendError | None) -> Reading:
    if not isinstance(answer, LabelScores):
        return answer
    return None if answer.source == "none" else float(answer.logprobs[0] - answer.logprobs[1])


def _logits(lm: LanguageModel, template: Template, prompts: Sequence[Prompt], work: Work) -> list[Reading]:
    if not isinstance(lm, ReadsLogits):
        raise ModelError(f"The template {template.name!r} needs bare logits, which only a local model gives; not {lm}")
    # A raw template is a checkpoint's own: exactly the tokens that it was trained to answer with count.
    answers = lm.label_logits(prompts, template.labels, work=work, variants=not template.raw)
    return [_difference(answer) if isinstance(answer, np.ndarray) else answer for answer in answers]


def _difference(logits: NDArray[np.float64]) -> float:
    """The first label's logit, against the second one's if there is one: the log-odds of the two."""
    return float(logits[0] - (logits[1] if len(logits) > 1 else 0.0))


def _likelihoods(lm: LanguageModel, prompts: Sequence[Prompt], queries: Sequence[str], work: Work) -> list[Reading]:
    if not isinstance(lm, ReadsContinuations):
        raise ModelError(f"Query likelihood needs a local model: no endpoint scores a given text. Not {lm}")
    answers = lm.continuation_logprobs(prompts, queries, work=work)
    return [answer[0] / max(1, answer[1]) if isinstance(answer, tuple) else answer for answer in answers]


def _ratings(lm: LanguageModel, template: Template, prompts: Sequence[Prompt], work: Work) -> list[Reading]:
    if template.labels and isinstance(lm, ReadsContinuations):
        return _expected_ratings(lm, template.labels, prompts, work)
    replies = lm.generate_many(prompts, work=work, max_tokens=template.max_tokens, temperature=template.temperature)
    return [_written_rating(reply, template.answer) for reply in replies]


def _expected_ratings(
    lm: ReadsContinuations, labels: Sequence[str], prompts: Sequence[Prompt], work: Work
) -> list[Reading]:
    """Expectations over the ratings."""
    answers = lm.continuation_logprobs(
        [prompt for prompt in prompts for _ in labels], [label for _ in prompts for label in labels], work=work
    )
    rows = [answers[i : i + len(labels)] for i in range(0, len(answers), len(labels))]
    return [_expectation(row, labels) for row in rows]


def _expectation(row: Sequence[tuple[float, int] | BackendError | None], labels: Sequence[str]) -> Reading:
    """Where ``10`` begins with the token of ``1``, the mass of ``1`` holds that of ``10``, and is freed of it here."""
    known = [answer for answer in row if isinstance(answer, tuple)]
    if len(known) < len(row):
        return next((answer for answer in row if isinstance(answer, BackendError)), None)
    logs = np.array([total for total, _ in known])
    masses = np.exp(logs - logs.max())
    own = masses.copy()
    for i, label in enumerate(labels):
        longer = [k for k, other in enumerate(labels) if other != label and other.startswith(label)]
        if any(known[k][1] > known[i][1] for k in longer):
            own[i] = max(0.0, masses[i] - sum(masses[k] for k in longer))
    return float(own @ np.array([float(label) for label in labels]) / own.sum())


_RATING = r"(?<![\w.])(?!1\.\s+\S)(?:10|\d)(?!\w|\.\d)"
"""A whole number from 0 to 10; "1. The ..." opens a list."""

_OF_TEN = r"\s*(?:/|out\s+of|of)\s*10(?!\w|\.\d)|"


def _written_rating(reply: Completion | BackendError | None, answer: str) -> Reading:
    """The rating that a reply is, or that is what ``answer`` frames in it; a number in prose is none."""
    if not isinstance(reply, Completion):
        return reply
    framed = re.findall(answer, reply.text, re.DOTALL) if answer else []
    said = written_answer(framed[-1] if framed else reply.text, _RATING, _OF_TEN)
    return None if said is None else float(said)
