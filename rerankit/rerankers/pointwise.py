"""Pointwise: a language model judges one passage at a time.

Relevance as yes or no (Liang et al., arXiv:2211.09110; monoT5, arXiv:2003.06713; Qwen3-Reranker, arXiv:2506.05176),
as a rating from 0 to 10 (ERank, arXiv:2509.00520), or as the likelihood of the query (UPR, arXiv:2204.07496). What a
checkpoint is shown and what its answer is called are data: ``rerankit/models/templates_pointwise.py``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Sequence
from typing import Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_choice
from rerankit.errors import BackendError, ModelError, SpecError
from rerankit.models.chat import ChatLM
from rerankit.models.language import LanguageModel
from rerankit.models.prompt import ChatPrompt, Data, RawPrompt, text_of
from rerankit.models.templates import SelfTest, Template, choose_template
from rerankit.models.work import Work
from rerankit.rerankers.asking import (
    CHARACTERS_PER_TOKEN,
    AsksLanguageModel,
    LanguageModelOptions,
    neutral,
    short_title,
    shown,
)
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.pairs import Pair, PointwiseOptions, PointwiseReranker
from rerankit.rerankers.readings import ReadsContinuations, read_pairs
from rerankit.rerankers.windows import Windows
from rerankit.types import Passage

__all__ = ["Pointwise"]

METHODS = ("yes-no", "score", "likelihood")
SCALES = {"yes-no": "logit", "logit": "logit", "score": "rating", "likelihood": "log-likelihood"}


class PointwiseLanguageOptions(LanguageModelOptions, PointwiseOptions, total=False):
    """Keyword options of :class:`Pointwise` besides its own."""


class Pointwise(AsksLanguageModel, PointwiseReranker):
    """A language model that judges each passage alone; local, or behind an OpenAI-compatible endpoint.

    A passage longer than there is room for is read in overlapping windows; query and instruction are never cut.
    Passages whose answer cannot be read are marked ``unscored``, and ``Ranking.reason`` says how many and why.

    Args:
        model: local folder or hub name, ``http://host/v1#name``, or a :class:`~rerankit.models.language.LanguageModel`.
        method: ``yes-no``, ``score`` or ``likelihood``; by default what the model's template does. The score is the
            log-odds of yes, the (expected) rating from 0 to 10, or the mean log-probability of the query's tokens.
        template: name of a template, or a :class:`~rerankit.models.templates.Template`; by default the model's own.
        instruction: what counts as relevant; by default the template's.
        options: see :class:`~rerankit.rerankers.asking.LanguageModelOptions` and
            :class:`~rerankit.rerankers.pairs.PointwiseOptions`.

    Raises:
        SpecError: no such method or template.
        ModelError: the model cannot be had, or cannot be read by this method.

    Example:
        >>> reranker = Pointwise("Qwen/Qwen3-Reranker-0.6B")  # doctest: +SKIP
        >>> reranker.rank("How deep to sow maize?", ["Sow maize 5 cm deep.", "Cows drink water."])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | LanguageModel,
        *,
        method: Literal["yes-no", "score", "likelihood"] | None = None,
        template: str | Template | None = None,
        instruction: str | None = None,
        **options: Unpack[PointwiseLanguageOptions],
    ) -> None:
        if method is not None:
            check_choice("method", method, METHODS, SpecError)
        super().__init__(model, **options)
        self.template = self._chosen(template, method or "")
        self.instruction = self.template.instruction if instruction is None else instruction
        self.scale = SCALES[self.template.read]
        self.model = f"pointwise:{self.lm.model_id}"
        self._room = functools.lru_cache(_REMEMBERED)(self._find_room)
        self._check_self_tests()

    @property
    def fingerprint(self) -> str:
        """Model, template, instruction and lengths."""
        lengths = f"{self._query_tokens or ''}/{self._passage_tokens or ''}"
        return f"{self.model}|{self.template.fingerprint}|{self.instruction}|{lengths}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """Judge each passage; those that ``max_calls`` is too small for stay unscored."""
        if self.max_calls is None:
            return super().score_lists(requests, call)
        kept = [self._affordable(request, call) for request in requests]
        heads = [
            Request(request.query, tuple(request.passages[i] for i in places))
            for request, places in zip(requests, kept, strict=True)
        ]
        judged = super().score_lists(heads, call)
        why = f"max_calls={self.max_calls} reached"
        return [
            _spread(verdict, places, len(request.passages), why)
            for verdict, places, request in zip(judged, kept, requests, strict=True)
        ]

    def score_pairs(self, pairs: Sequence[Pair], call: Call) -> NDArray[np.float64]:
        """Scores, float64 ``[len(pairs)]``; masked where there is no answer or none that can be read."""
        prompts = [self._prompt(query, passage) for query, passage in pairs]
        readings = read_pairs(self.lm, self.template, prompts, [query for query, _ in pairs], call)
        known = {_key(pair): reading for pair, reading in zip(pairs, readings, strict=True)}
        # None: not read, or not asked, because time was up
        call.readings.update({key: said for key, said in known.items() if said is not None or not call.expired})
        values = [reading if isinstance(reading, float) else math.nan for reading in readings]
        return np.ma.masked_array(values, [not isinstance(reading, float) for reading in readings], np.float64)

    def judged(self, verdict: Scored, pairs: Sequence[Pair], call: Call) -> Scored:
        """Say how many prompts of the list came to nothing, and why.

        Raises:
            BackendError: all of them failed. Under ``keep_order`` the list keeps its order, and is not asked again.
        """
        if verdict.scored is None or verdict.scored.all():
            return verdict
        asked = [call.readings[key] for key in map(_key, pairs) if key in call.readings]
        failed = [said for said in asked if isinstance(said, BackendError)]
        unread = sum(said is None for said in asked)
        nothing = not verdict.scored.any()
        if nothing and failed and len(failed) == len(asked) and self.on_error == "raise":
            raise failed[0]
        reasons = [f"{len(failed)} of {len(asked)} prompts failed ({failed[0]})"] if failed else []
        reasons += [f"{unread} replies could not be read"] if unread else []
        partial = f"{'; '.join(reasons)}: {(~verdict.scored).sum()} passages unscored" if reasons else verdict.partial
        return dataclasses.replace(verdict, partial=partial, fell_back=nothing and bool(reasons))

    def windows(self, query: str, passage: Passage) -> Windows:
        """Overlapping windows of the text that fit beside query and title."""
        return self._windows(query, passage, self.max_windows)

    def _windows(self, query: str, passage: Passage, most: int) -> Windows:
        passage, untitled = self._titled(query, passage)
        room = self._room(query, passage.title)
        spans: list[tuple[int, int]] = []
        start, text = 0, passage.text
        while not spans or (start < len(text) and len(spans) < most):
            ahead = text[start : start + room * CHARACTERS_PER_TOKEN]
            end = start + max(1, len(self.lm.cut(ahead, room)))
            spans.append((start, min(end, len(text))))
            if end >= len(text):
                break
            start = _restart(text, start, end)
        return Windows(tuple(spans), math.ceil((len(text) - spans[-1][1]) / 4) + untitled)

    def _titled(self, query: str, passage: Passage) -> tuple[Passage, int]:
        """The passage with as much of its title as leaves most of the room to the text, and the tokens left out."""
        return short_title(self.lm, passage, self._room(query, "")) if passage.title else (passage, 0)

    def _find_room(self, query: str, title: str) -> int:
        """Tokens left for a window of the text, at least 16."""
        limit = self._passage_tokens or self.template.passage_tokens
        context = self.lm.context
        free = [limit] if limit else []
        if context is not None:
            frame = self._prompt(query, Passage("frame", "", title))
            reply = 0 if self.template.read in ("yes-no", "logit") else self.template.max_tokens
            free.append(context - self.lm.count_tokens(_text(frame)) - reply - FRAME_SLACK)
        return max(16, min(free, default=4096))

    def _prompt(self, query: str, passage: Passage) -> ChatPrompt | RawPrompt:
        passage, _ = self._titled(query, passage)
        longest_query = self._query_tokens or self.template.query_tokens
        shown_query = self.lm.cut(query, longest_query) if longest_query else query
        # A raw template is what its checkpoint was trained on, so its inputs stay as they are.
        clean = Data if self.template.raw else functools.partial(neutral, framing="quoted")
        return self.template.prompt(
            {"query": clean(shown_query), "passage": clean(shown(passage)), "instruction": self.instruction}
        )

    def _chosen(self, asked: str | Template | None, method: str) -> Template:
        """The template; for an endpoint, which lays out its prompts itself, never a raw one."""
        template = choose_template("pointwise", self.lm.model_id, asked, among=method)
        if not template.raw or not isinstance(self.lm, ChatLM):
            return template
        if asked is None:
            return choose_template("pointwise", "", among=method or template.read.replace("logit", "yes-no"))
        raise ModelError(
            f"The template {template.name!r} lays out the whole prompt, which the endpoint {self.lm.model_id} does by "
            "itself. Load the model locally, or leave the template out"
        )

    def _affordable(self, request: Request, call: Call) -> list[int]:
        """The places of the passages that ``max_calls`` prompts can judge; what is too long is passed over."""
        rates = self.template.read == "score" and isinstance(self.lm, ReadsContinuations)
        each = max(1, len(self.template.labels)) if rates else 1
        left = (self.max_calls or 0) // each
        places = []
        for place, passage in enumerate(request.passages):
            if not left or call.expired:
                break
            needed = len(self._windows(request.query, passage, min(self.max_windows, left + 1)).spans)
            if needed <= left:
                places.append(place)
                left -= needed
        return places

    def _check_self_tests(self) -> None:
        """Warn loudly if a checkpoint that the template is made for does not give what it should."""
        tests = self.template.self_tests
        if not tests or choose_template("pointwise", self.lm.model_id) is not self.template:
            return
        prompts = [self._prompt(test.query, Passage("self-test", test.passage)) for test in tests]
        readings = read_pairs(self.lm, self.template, prompts, [test.query for test in tests], Work())
        wrong = [said for test, reading in zip(tests, readings, strict=True) if (said := _drift(test, reading))]
        if wrong:
            warnings.warn(
                f"{self.model} fails the self-test of the template {self.template.name!r}: {'; '.join(wrong)}. "
                "Are these the published weights, and is the tokenizer theirs? Rankings may be worthless",
                RuntimeWarning,
                stacklevel=3,
            )


FRAME_SLACK = 8
"""Tokens kept free, since the seams of a prompt can take a few more than its parts counted alone."""


_REMEMBERED = 256
"""Frames, of query and title, whose room is kept: each is asked for several times per passage."""


def _key(pair: Pair) -> tuple[str, str, str]:
    query, passage = pair
    return query, passage.title, passage.text


def _spread(verdict: Scored, places: Sequence[int], count: int, why: str) -> Scored:
    """A verdict on the passages at ``places`` as one on all ``count``."""
    rest = sorted(set(range(count)) - set(places))
    at = np.argsort([*places, *rest])
    whole = verdict.padded(count, why)
    columns = ("scores", "scored", "cached", "truncated")
    moved = {name: column[at] for name in columns if (column := getattr(whole, name)) is not None}
    return dataclasses.replace(whole, evidence=[(whole.evidence or [()] * count)[i] for i in at], **moved)


def _drift(test: SelfTest, reading: float | BackendError | None) -> str:
    if not isinstance(reading, float):
        return f"no score for {test.passage!r}"
    probability = 1 / (1 + math.exp(-max(-60.0, min(60.0, reading))))
    if test.at_least <= probability <= test.at_most:
        return ""
    return f"probability {probability:.3f} for {test.passage!r}, expected {test.at_least} to {test.at_most}"


def _restart(text: str, start: int, end: int) -> int:
    """Where the next window begins: an eighth of the window back, at a word's start, and always further on."""
    back = max(start + 1, end - (end - start) // 8)
    space = text.rfind(" ", back, end)
    return space + 1 if space >= 0 else back


def _text(prompt: ChatPrompt | RawPrompt) -> str:
    parts = prompt.parts if isinstance(prompt, RawPrompt) else [p for m in prompt.messages for p in m.parts]
    return text_of(parts)
