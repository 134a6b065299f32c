"""Pairwise ranking prompting: a language model says which of two passages is more relevant, again and again.

Qin et al., "Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting" (arXiv:2306.17563).
Which pairs are compared is in ``pairwise_methods.py``, what is known of them in ``comparisons.py``, how they become
scores in ``aggregation.py``, how they are asked in ``pairwise_prompts.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Unpack

from rerankit.checks import check_choice, check_whole
from rerankit.errors import InputError
from rerankit.models.chat import ChatLM
from rerankit.models.language import LanguageModel
from rerankit.models.templates import Template, choose_template
from rerankit.rerankers.aggregation import Aggregate
from rerankit.rerankers.asking import AsksLanguageModel, LanguageModelOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.comparisons import Pair
from rerankit.rerankers.pairwise_contest import Contest, Method, Plan
from rerankit.rerankers.pairwise_prompts import Answer, Asker, Mode

__all__ = ["Pairwise"]

SLICE = 1024
"""Questions put to the model at a time: bounds the memory, and what is asked of an endpoint that is gone."""


class Pairwise(AsksLanguageModel):
    """A language model that compares passages two at a time, local or behind an OpenAI-compatible endpoint.

    Every pair is asked in both orders, and is a tie if the answers disagree. A passage longer than ``passage_tokens``
    is cut, and ``Hit.truncated_tokens`` says by how much. A passage that was never compared is ``unscored``; where
    ``heapsort`` or ``sliding`` ended early it keeps its place, since they do not begin with the first ones.

    Args:
        model: local folder or hub name, ``http://host/v1#name``, or a :class:`~rerankit.models.language.LanguageModel`.
        method: ``allpair``: every pair, in one batch, whatever the input order. ``heapsort``: the best few of many.
            ``sliding``: the best few by bubble passes from the back. ``swiss``: rounds between neighbours, then the
            pairs that are still unclear; the best use of a ``max_calls``.
        aggregate: how ``allpair`` and ``swiss`` make scores of comparisons: ``wins`` (default of ``allpair``),
            ``borda``, ``bradley-terry`` (default of ``swiss``), ``pagerank``, ``path``. The others score by place.
        mode: ``scores`` reads the log-probabilities of the two labels, ``text`` a written reply.
        soft: count probabilities, the mean of both orders, instead of wins and ties.
        k: places that ``heapsort`` settles and passes that ``sliding`` makes; default: ``top_k``, else all and 10.
        rounds: of ``swiss``; default: log2 n, and after them comparisons until all neighbours in the order have met.
        adaptive: ask the second order only where the first answer's probability is closer to 1/2 than this.
        closure: do not ask what follows from wins already seen; ``allpair`` then goes in rounds.
        template: name of a template, or a :class:`~rerankit.models.templates.Template`; by default the model's own.
        max_tokens: longest reply in ``text`` mode; default: the template's.
        options: see :class:`~rerankit.rerankers.asking.LanguageModelOptions`; ``max_calls`` counts every order asked.

    Raises:
        InputError: an option is out of range, or has no meaning for the method.
        SpecError: no such template, or an option does not fit the kind of model.
        ModelError: the model cannot be had.

    Example:
        >>> reranker = Pairwise("http://localhost:11434/v1#qwen3:8b", method="heapsort", top_k=5)  # doctest: +SKIP
        >>> reranker.rank("How deep to sow maize?", ["Sow maize 5 cm deep.", "Cows drink water."])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | LanguageModel,
        *,
        method: Method = "allpair",
        aggregate: Aggregate | None = None,
        mode: Mode = "scores",
        soft: bool = False,
        k: int | None = None,
        rounds: int | None = None,
        adaptive: float | None = None,
        closure: bool = False,
        template: str | Template | None = None,
        max_tokens: int | None = None,
        **options: Unpack[LanguageModelOptions],
    ) -> None:
        self.plan = Plan(method, aggregate, soft, k, rounds, adaptive, closure, options.get("max_calls"))
        _check_mode(mode, adaptive, max_tokens)
        super().__init__(model, **options)
        letter = "prp-letter" if mode == "scores" and isinstance(self.lm, ChatLM) else None
        chosen = choose_template("pairwise", self.lm.model_id, template or letter)
        longest = max_tokens or chosen.max_tokens
        self.asker = Asker(self.lm, chosen, mode, self._query_tokens, self._passage_tokens, longest)
        self.scale = self.plan.scale
        self.model = f"pairwise:{self.lm.model_id}[method={method}]"

    @property
    def fingerprint(self) -> str:
        """Model, template, lengths, and everything that decides what is compared and how it counts."""
        asker = self.asker
        lengths = f"{asker.query_tokens}/{asker.passage_tokens}/{asker.max_tokens}"
        return f"{self.model}|{asker.template.fingerprint}|{asker.mode}|{lengths}|{self.plan}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Compare in all lists at once, batch by batch, until each has what its method wants."""
        top_k = call.top_k or self.top_k
        contests = [Contest(self.plan, request, self.asker.material(request, call), top_k) for request in requests]
        running = [(contest, contest.questions()) for contest in contests]
        while running:
            batches = [next(questions, None) for _, questions in running]
            running = [item for item, batch in zip(running, batches, strict=True) if batch is not None]
            asked = [
                [(contest, question) for question in batch]
                for (contest, _), batch in zip(running, filter(None, batches), strict=True)
            ]
            # One of each list in turn, so that a deadline is fair to all.
            self._ask([item for turn in itertools.zip_longest(*asked) for item in turn if item is not None], call)
        return [self._verdict(contest) for contest in contests]

    def _ask(self, asked: Sequence[tuple[Contest, Pair]], call: Call) -> None:
        """Put the questions of all lists to the model, and note the answers."""
        for start in range(0, len(asked), SLICE):
            piece = [item for item in asked[start : start + SLICE] if not item[0].stopped]
            answers = self.asker.ask([(contest.material, question) for contest, question in piece], call)
            said: dict[Contest, list[tuple[Pair, Answer | None]]] = {}
            for (contest, question), answer in zip(piece, answers, strict=True):
                said.setdefault(contest, []).append((question, answer))
            for contest, noted in said.items():
                contest.record(noted)

    def _verdict(self, contest: Contest) -> Scored:
        """A list without any answer: its error, or under ``keep_order`` its input order."""
        if contest.error is not None and self.on_error == "raise":
            raise contest.error
        return contest.verdict()


def _check_mode(mode: Mode, adaptive: float | None, max_tokens: int | None) -> None:
    check_choice("mode", mode, ("scores", "text"))
    if mode == "text" and adaptive is not None:
        raise InputError("adaptive goes by probabilities, which a written reply has not: leave it out, or mode='text'")
    check_whole(1, or_none=True, max_tokens=max_tokens)
    if max_tokens is not None and mode == "scores":
        raise InputError("max_tokens is an option of mode='text', not of 'scores'")
