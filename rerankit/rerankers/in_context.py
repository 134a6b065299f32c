"""InContext: rank a whole list by where a language model looks when it reads the query behind it.

In-context reranking (ICR): Chen et al., "Attention in Large Language Models Yields Efficient Zero-Shot Re-Rankers"
(arXiv:2410.02642). Nothing is generated, so every passage gets a score and the order is always well formed. Which
heads are read matters more than the size of the model: QRHead (arXiv:2506.09944), CoRe heads (arXiv:2510.02219),
Selective-ICR (arXiv:2602.22591).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_choice, check_whole, is_number
from rerankit.errors import InputError, SpecError
from rerankit.models.attention_layers import model_shape
from rerankit.models.heads import choose_heads
from rerankit.models.in_context_prompt import Candidate, InContextPrompt, Question, fitting_template
from rerankit.models.templates import Template
from rerankit.models.templates_in_context import INSTRUCTIONS
from rerankit.rerankers.asking import shown
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.in_context_reading import Calibrate, ListReader, ReadRows
from rerankit.rerankers.in_context_rounds import Outcome, tournament
from rerankit.rerankers.in_context_scores import LengthNorm, evidence, passage_score
from rerankit.types import Passage, Span

if TYPE_CHECKING:
    from rerankit.models.causal import LocalLM

__all__ = ["InContext"]

Order = Literal["reverse", "given", "shuffle"]
Floats = NDArray[np.float64]

SHARE = 4
"""A query takes at most one part in so many of the context, and where a list does not fit, so does each passage."""

PASSAGE_TOKENS = 512
"""Longest passage shown; the paper cuts at 300 words."""

_CHOICES = {
    "rows": ("tail", "query"),
    "calibrate": ("na", "none"),
    "order": ("reverse", "given", "shuffle"),
    "length_norm": ("sum", "mean", "sqrt"),
}


class InContext(Reranker):
    """Attention of a local causal language model as the reranker.

    Works with full-attention models of transformers (Llama, Qwen2.5, Qwen3, Mistral, Phi, Granite and their like). A
    list that does not fit into the context is ranked as a tournament; ``Ranking.reason`` then says so.

    Args:
        model: local folder, hub name, or a :class:`~rerankit.models.causal.LocalLM` that is loaded already.
        heads: ``auto`` (a published list for this model, else ``middle``), ``all`` (the paper), ``middle`` (four layers
            a third of the way up), the name of a published list, a file from ``rerankit train heads``, or heads such as
            ``"13-18/14-20"`` or ``[(13, 18), (14, 20)]``: layer and head from 0.
        rows: ``tail`` reads from the instruction to the prompt's end (the paper), ``query`` the query's own tokens.
        calibrate: ``na`` subtracts what the query "N/A" gives, ``none`` does not.
        filter_sigma: of a calibrated passage, drop tokens so many deviations below its mean; None keeps all.
        order: how passages are shown: ``reverse`` (the first stage's best next to the query), ``given``, or
            ``shuffle``: scores averaged over random orders.
        shuffles: how many, for ``shuffle``.
        seed: of the shuffles.
        length_norm: a passage's score is the ``sum`` over its tokens (the paper), the ``mean``, or the sum over the
            square root of their number (``sqrt``).
        template: name of a prompt template, or a :class:`~rerankit.models.templates.Template`; default: the model's.
        instruction: ``answer`` or ``find`` (the paper's wordings for questions and for topics), or your own.
        passage_tokens: longest passage shown; the rest is counted in ``Hit.truncated_tokens``. None: no limit.
        query_tokens: longest query shown; default: a quarter of the context.
        max_tokens: longest prompt; default: the model's context. Bounds memory and time of long lists.
        kept_prefixes: lists whose keys and values are kept for further queries on the same list in the same order.
        device, dtype, revision: see :class:`~rerankit.models.causal.LocalLM`.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        SpecError: the model is an endpoint (those do not show their attention), or no such template.
        InputError: an option is out of range, or the heads cannot be read.
        ModelError: the model cannot be had, or has layers whose attention cannot be read.

    Example:
        >>> reranker = InContext("Qwen/Qwen3-4B-Instruct-2507")  # doctest: +SKIP
        >>> reranker.rank("How deep to sow maize?", ["Sow maize 5 cm deep.", "Cows drink water."])  # doctest: +SKIP
    """

    scale = "attention"

    def __init__(
        self,
        model: str | Path | LocalLM,
        *,
        heads: str | Path | Sequence[str | tuple[int, int]] = "auto",
        rows: ReadRows = "tail",
        calibrate: Calibrate | None = "na",
        filter_sigma: float | None = 2.0,
        order: Order = "reverse",
        shuffles: int = 3,
        seed: int = 0,
        length_norm: LengthNorm = "sum",
        template: str | Template | None = None,
        instruction: str | None = None,
        passage_tokens: int | None = PASSAGE_TOKENS,
        query_tokens: int | None = None,
        max_tokens: int | None = None,
        kept_prefixes: int = 0,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        calibrate = calibrate or "none"  # as a spec writes it
        for name, value in {"rows": rows, "calibrate": calibrate, "order": order, "length_norm": length_norm}.items():
            check_choice(name, value, _CHOICES[name])
        limits = {"passage_tokens": passage_tokens, "query_tokens": query_tokens, "max_tokens": max_tokens}
        check_whole(1, or_none=True, **limits)
        check_whole(1, shuffles=shuffles)
        check_whole(0, seed=seed, kept_prefixes=kept_prefixes)
        if filter_sigma is not None and not (is_number(filter_sigma) and filter_sigma >= 0):
            raise InputError(f"filter_sigma must be a number of at least 0 or None, got {filter_sigma!r:.80}")
        self.lm = _local(model, device, dtype, revision)
        self._owns_lm = self.lm is not model
        self.lm.engine.check_open()
        checkpoint = self.lm.loaded.checkpoint
        shape = model_shape(self.lm.model)
        self.heads = choose_heads(heads, model=checkpoint.name, shape=shape, weights=checkpoint.digest)
        self.template = fitting_template(checkpoint.name, template, self.lm.reader)
        self.instruction = INSTRUCTIONS.get(instruction or "", instruction)
        self.rows, self.calibrate, self.order, self.length_norm = rows, calibrate, order, length_norm
        self.filter_sigma = filter_sigma if calibrate == "na" else None
        self.shuffles, self.seed, self.kept_prefixes = shuffles, seed, kept_prefixes
        self.passage_tokens, self.query_tokens, self.max_tokens = passage_tokens, query_tokens, max_tokens
        self.model = f"in-context:{self.lm.model_id}"
        self._reader = self._list_reader(self.lm)

    @property
    def fingerprint(self) -> str:
        """Model, heads, prompt and every option that a score depends on."""
        shuffled = f"{self.shuffles}/{self.seed}" if self.order == "shuffle" else ""
        settings = (
            self.rows, self.calibrate, self.filter_sigma, self.order, shuffled, self.length_norm, self.passage_tokens,
            self.query_tokens, self.max_tokens, self.template.fingerprint, self.instruction, self.heads.fingerprint,
        )  # fmt: skip
        return f"in-context:{self.lm.fingerprint}|{'|'.join(map(str, settings))}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """One prompt per list (and order), or a tournament of prompts."""
        self.lm.engine.check_open()
        reader = self._exact if call.float32 else self._reader
        try:
            return [self._scored(request, reader, call) for request in requests]
        finally:
            reader.forget()

    def close(self) -> None:
        """Stop the worker thread, free what was kept of lists, and those models that were loaded here."""
        super().close()
        self._reader.forget(everything=True)
        exact = self.__dict__.pop("_exact", self._reader)
        if exact is not self._reader:
            exact.lm.close()
        if self._owns_lm:
            self.lm.close()

    def _scored(self, request: Request, reader: ListReader, call: Call) -> Scored:
        question, candidates, room = self._laid_out(request, reader.prompt)
        trial = _Trial(self, reader, question, candidates, call)
        costs = [reader.prompt.cost(candidate, len(candidates)) for candidate in candidates]
        outcome = tournament(costs, room, trial.judge)
        return Scored(
            outcome.scores,
            outcome.scored,
            order=np.array(outcome.order, np.int64) if outcome.groups else None,
            truncated=np.array([candidate.cut for candidate in candidates], np.int64),
            evidence=[trial.evidence(i, passage) for i, passage in enumerate(request.passages)],
            partial="; ".join(dict.fromkeys([*self._why(outcome, room), *trial.notes])),
        )

    def _laid_out(self, request: Request, prompt: InContextPrompt) -> tuple[Question, list[Candidate], int]:
        """Query and passages as tokens, cut to what they may take, and the room for passages in one prompt."""
        context = min((n for n in (self.lm.context, self.max_tokens) if n is not None), default=1 << 30)
        laid_out = self._within(context, request, prompt)
        switch = self._reader.attention.switch
        if switch is None or switch >= context:
            return laid_out
        _, candidates, room = laid_out
        apart = (
            switch < len(prompt.shared(candidates).ids)
            and sum(prompt.cost(one, len(candidates)) for one in candidates) <= room
        )
        return laid_out if apart else self._within(switch, request, prompt)  # all with the same rotary factors

    def _within(self, context: int, request: Request, prompt: InContextPrompt) -> tuple[Question, list[Candidate], int]:
        question = prompt.question(request.query, min(self.query_tokens or context, max(1, context // SHARE)))
        room = prompt.room(context, max(question, self._reader.null, key=lambda one: len(one.ids)))
        texts = [shown(passage) for passage in request.passages]
        candidates = [prompt.candidate(text, self.passage_tokens) for text in texts]
        if sum(prompt.cost(candidate, len(texts)) for candidate in candidates) > room:
            number = prompt.cost(Candidate((), np.empty((0, 2), np.int64), 0), len(texts))
            limit = room // min(SHARE, len(texts)) - number
            if limit < 1:
                raise InputError(
                    f"A prompt of {context} tokens has no room for passages: template and query take {context - room}. "
                    "Raise max_tokens, or lower query_tokens."
                )
            limit = min(limit, self.passage_tokens or limit)
            candidates = [prompt.candidate(text, limit) for text in texts]
        return question, candidates, room

    def _why(self, outcome: Outcome, room: int) -> list[str]:
        """What is less than planned about an outcome."""
        count, last = len(outcome.order), int(outcome.scored.sum())
        if not last:
            return [f"the deadline passed: {count} passages unscored"]
        if outcome.groups:
            return [
                f"{count} passages do not fit into one prompt (room for {room} tokens), and scores of different "
                f"prompts cannot be compared: ranked as a tournament of {outcome.groups} groups; the {count - last} "
                "knocked out have places but no score"
            ]
        return []

    @functools.cached_property
    def _exact(self) -> ListReader:
        """The same in float32, for the one retry after scores that are no numbers."""
        from rerankit.models.causal import LocalLM

        if self.lm.loaded.dtype == "float32":
            return self._reader
        device = str(self.lm.model.device)
        return self._list_reader(LocalLM(self.lm.loaded.checkpoint.folder, device=device, dtype="float32"))

    def _list_reader(self, lm: LocalLM) -> ListReader:
        prompt = InContextPrompt(lm.reader, self.template, self.instruction)
        return ListReader(
            lm, prompt, self.heads.heads, rows=self.rows, calibrate=self.calibrate, kept=self.kept_prefixes
        )

    def orders(self, count: int) -> list[NDArray[np.int64]]:
        """Which passage is shown in which place, for each prompt of a list."""
        given = np.arange(count)
        if self.order == "shuffle":
            random = np.random.default_rng(self.seed)
            return [random.permutation(count) for _ in range(self.shuffles)]
        return [given[::-1] if self.order == "reverse" else given]


@dataclass(slots=True)
class _Trial:
    """One list before its judge."""

    reranker: InContext
    reader: ListReader
    question: Question
    candidates: Sequence[Candidate]
    call: Call
    tokens: dict[int, Floats] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.question.cut:
            self.notes.append(f"the query was cut by {self.question.cut} tokens")

    def judge(self, positions: list[int]) -> Floats | None:
        """Scores of some passages shown together, the mean over the orders; None if there was no time for one."""
        orders = self.reranker.orders(len(positions))
        runs = [found for order in orders if (found := self._read([positions[i] for i in order])) is not None]
        if not runs:
            return None
        if len(runs) < len(orders):
            self.notes.append(f"the deadline passed after {len(runs)} of {len(orders)} orders")
        for i in positions:
            own = len(self.candidates[i].ids)
            self.tokens[i] = np.mean([run[i][len(run[i]) - own :] for run in runs], axis=0)
        scores = np.array([[self._score(run[i]) for i in positions] for run in runs], np.float64)
        mean: Floats = scores.mean(axis=0)
        return mean

    def evidence(self, position: int, passage: Passage) -> tuple[Span, ...]:
        """Where the passage was looked at, in the last prompt that showed it."""
        if position not in self.tokens:
            return ()
        candidate, shift = self.candidates[position], len(shown(passage)) - len(passage.text)
        return evidence(passage.text, self.tokens[position], candidate.offsets, shift)

    def _read(self, positions: Sequence[int]) -> dict[int, Floats] | None:
        arrays = self.reader.read(self.question, [self.candidates[i] for i in positions], self.call)
        return None if arrays is None else dict(zip(positions, arrays, strict=True))

    def _score(self, tokens: Floats) -> float:
        return passage_score(tokens, self.reranker.filter_sigma, self.reranker.length_norm)


def _local(model: str | Path | LocalLM, device: str | None, dtype: str | None, revision: str | None) -> LocalLM:
    from rerankit.models.causal import LocalLM

    given = {"device": device, "dtype": dtype, "revision": revision}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if isinstance(model, LocalLM):
        if asked:
            raise SpecError(f"Options {sorted(asked)} cannot be applied to a model that is already loaded")
        return model
    if isinstance(model, str) and model.strip().startswith(("http://", "https://")):
        raise SpecError(
            "An endpoint does not show a model's attention, so 'in-context' needs a local folder or a hub name. With "
            f"an endpoint use 'pairwise:{model.strip()}', 'listwise' or 'pointwise'."
        )
    if not isinstance(model, str | Path):
        raise SpecError(f"'in-context' takes a model's name, folder or LocalLM; got {type(model).__name__}")
    return LocalLM(model, **asked)
