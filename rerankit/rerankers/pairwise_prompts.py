"""Asking a language model which of two passages is better, and reading what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import BackendError, ModelError
from rerankit.models.chat_labels import named_label
from rerankit.models.language import Completion, LabelScores, LanguageModel
from rerankit.models.prompt import Data, Prompt
from rerankit.models.templates import Template
from rerankit.models.work import Work
from rerankit.rerankers.asking import beginning, neutral, short_title, shown
from rerankit.rerankers.call import Request
from rerankit.rerankers.comparisons import Pair
from rerankit.types import Passage

__all__ = ["Answer", "Asker", "Material", "Mode"]

Mode = Literal["scores", "text"]

FRAME_SLACK = 32
"""Tokens kept free for the marks of a chat template and for the seams between the parts of a prompt."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to one question.

    Attributes:
        chance: probability that the passage shown first is the better one; None if there is no answer.
        sure: it is the model's own probability, not a written letter.
        readable: it named one of the two; if not, ``chance`` is 1/2.
        error: why there is no answer.
    """

    chance: float | None
    sure: bool = False
    readable: bool = True
    error: BackendError | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """A list as it is shown.

    Attributes:
        query, passages: harmless, and short enough for two passages to fit.
        truncated: int64 ``[n]``: tokens of each passage that are not shown.
        query_cut: the query is not shown whole although nobody asked for that.
    """

    query: Data
    passages: tuple[Data, ...]
    truncated: NDArray[np.int64]
    query_cut: bool


@dataclass(frozen=True, slots=True)
class Asker:
    """A model, how it is asked, and how its answers are read.

    Attributes:
        lm: the model.
        template: the question.
        mode: ``scores`` reads log-probabilities of the two labels, ``text`` a written reply.
        query_tokens, passage_tokens: longest query and passage; None: the template's.
        max_tokens: longest written reply.
    """

    lm: LanguageModel
    template: Template
    mode: Mode
    query_tokens: int | None
    passage_tokens: int | None
    max_tokens: int

    def material(self, request: Request, work: Work) -> Material:
        """Query and passages made harmless and cut to what fits, so that no cut ever reaches the question's end.

        Passages that ``work`` leaves no time for stay empty: nothing is asked about them any more.

        Raises:
            ModelError: the model's context is too short for the question itself.
        """
        query = neutral(request.query, "quoted").text
        kept = self._cut(query, self.query_tokens or self.template.query_tokens)
        room = self._room()
        if room is not None:
            kept = self._cut(kept, room // 3)
            room = (room - self.lm.count_tokens(kept)) // 2
        limits = [limit for limit in (room, self.passage_tokens or self.template.passage_tokens) if limit is not None]
        limit = min(limits, default=None)
        cut = [("", 0) if work.expired else self._passage(passage, limit) for passage in request.passages]
        return Material(
            Data(kept),
            tuple(Data(text) for text, _ in cut),
            np.array([missing for _, missing in cut], np.int64),
            kept != query and self.query_tokens is None,
        )

    def ask(self, questions: Sequence[tuple[Material, Pair]], work: Work) -> list[Answer | None]:
        """One answer per question; None where ``work`` had expired."""
        if work.expired:
            return [None] * len(questions)
        prompts = [self.prompt(material, pair) for material, pair in questions]
        if self.mode == "scores":
            return [_scored(said) for said in self.lm.label_logprobs(prompts, self.template.labels, work=work)]
        replies = self.lm.generate_many(
            prompts, work=work, max_tokens=self.max_tokens, temperature=self.template.temperature
        )
        return [_written(said, self.template.labels) for said in replies]

    def prompt(self, material: Material, question: Pair) -> Prompt:
        """The question which of two passages is more relevant."""
        first, second = (material.passages[place] for place in question)
        return self.template.prompt({"query": material.query, "first": first, "second": second})

    def _passage(self, passage: Passage, limit: int | None) -> tuple[str, int]:
        """A passage as it is shown, and how many of its tokens are not."""
        text, behind = beginning(shown(passage), limit)
        whole = neutral(text, "quoted").text
        if limit is None:
            return whole, 0
        if passage.title:
            passage, _ = short_title(self.lm, passage, limit)
        kept = self.lm.cut(neutral(beginning(shown(passage), limit)[0], "quoted").text, limit)
        if kept == whole:
            return kept, behind
        return kept, max(1, self.lm.count_tokens(whole) - self.lm.count_tokens(kept)) + behind

    def _cut(self, text: str, limit: int | None) -> str:
        return text if limit is None else self.lm.cut(text, limit)

    def _room(self) -> int | None:
        """Tokens left for query and passages; None if the context is not known."""
        if self.lm.context is None:
            return None
        template = self.template
        frame = "".join((template.raw, template.system, template.user, template.reply))
        reply = self.max_tokens if self.mode == "text" else 1
        room = self.lm.context - self.lm.count_tokens(frame) - reply - FRAME_SLACK
        if room < 6:
            raise ModelError(
                f"{self.lm.model_id} reads {self.lm.context} tokens, too few for the template {template.name!r} and a "
                f"reply of {reply}. Take another template or model, or a lower max_tokens"
            )
        return room


def _scored(said: LabelScores | BackendError | None) -> Answer | None:
    if not isinstance(said, LabelScores):
        return said if said is None else Answer(None, error=said)
    return Answer(float(said.probabilities[0]), said.source == "logprobs", said.source != "none")


def _written(said: Completion | BackendError | None, labels: Sequence[str]) -> Answer | None:
    if not isinstance(said, Completion):
        return said if said is None else Answer(None, error=said)
    choice = named_label(said.text, labels)
    return Answer(0.5, readable=False) if choice is None else Answer(1.0 - choice)
