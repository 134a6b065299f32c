"""One list under way: the plan, what was asked and answered so far, and the verdict, early or late."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_bool, check_choice, check_whole, is_number
from rerankit.errors import BackendError, InputError
from rerankit.rerankers.aggregation import RULES, SCALES, Aggregate
from rerankit.rerankers.call import Request, Scored
from rerankit.rerankers.comparisons import Comparisons, Pair
from rerankit.rerankers.pairwise_methods import Batches, all_pairs, heapsort, sliding, swiss
from rerankit.rerankers.pairwise_prompts import Answer, Material
from rerankit.types import Passage

__all__ = ["Contest", "Method", "Plan"]

Method = Literal["allpair", "heapsort", "sliding", "swiss"]
Floats: TypeAlias = NDArray[np.float64]

RULE_OF: dict[Method, Aggregate | None] = {
    "allpair": "wins",
    "heapsort": None,
    "sliding": None,
    "swiss": "bradley-terry",
}
"""The methods, and what each makes scores with by default; None: with the places themselves."""

PASSES = 10
"""Of ``sliding`` where nobody says how many places matter."""

PATIENCE = 8
"""Failed questions, in batches that failed whole, after which a list is given up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared, and how it counts; the options of :class:`~rerankit.rerankers.pairwise.Pairwise`.

    Raises:
        InputError: an option is out of range, or has no meaning for the method.
    """

    method: Method
    aggregate: Aggregate | None
    soft: bool
    k: int | None
    rounds: int | None
    adaptive: float | None
    closure: bool
    max_calls: int | None

    def __post_init__(self) -> None:
        check_choice("method", self.method, RULE_OF)
        if self.aggregate is not None:
            check_choice("aggregate", self.aggregate, RULES)
        if self.aggregate is not None and RULE_OF[self.method] is None:
            raise InputError(f"{self.method} scores by place: aggregate={self.aggregate!r} is for allpair and swiss")
        for name, value, methods in (("k", self.k, ("heapsort", "sliding")), ("rounds", self.rounds, ("swiss",))):
            if value is not None and self.method not in methods:
                raise InputError(f"{name} is an option of {' and '.join(methods)}, not of {self.method}")
        check_whole(1, or_none=True, k=self.k, rounds=self.rounds, max_calls=self.max_calls)
        check_bool(soft=self.soft, closure=self.closure)
        if self.adaptive is not None and not (is_number(self.adaptive) and 0.0 < self.adaptive <= 0.5):
            raise InputError(f"adaptive is a distance from 1/2, above 0 and up to 0.5; got {self.adaptive!r}")

    @property
    def rule(self) -> Aggregate | None:
        """What makes the scores; None: the places."""
        return self.aggregate or RULE_OF[self.method]

    @property
    def scale(self) -> str:
        """What a score means."""
        return "order" if self.rule is None else SCALES[self.rule]

    def strengths(self, matrix: Floats) -> Floats:
        """Scores by the rule, float64 ``[n]``; rounded, so that equals tie whatever the order of summation."""
        return np.round(RULES[self.rule or "wins"](matrix), 9) if len(matrix) else np.empty(0)

    def batches(self, known: Comparisons, order: list[int], top_k: int | None) -> Batches:
        """The method, at work on a list of which ``top_k`` places matter; it leaves its outcome in ``order``."""
        places = min(limit for limit in (self.k, top_k, len(order)) if limit is not None)
        if self.method == "heapsort":
            return heapsort(known, places, order)
        if self.method == "sliding":
            return sliding(known, min(places, PASSES) if self.k is None and top_k is None else places, order)
        if self.method == "swiss":
            settle = self.rounds is None or self.max_calls is not None
            return swiss(known, self.rounds, settle, order, lambda: self.strengths(known.matrix))
        return all_pairs(known, in_rounds=self.closure)


class Contest:
    """One list, from its first question to its verdict.

    Attributes:
        material: query and passages as they are shown.
        stopped: why nothing more is asked, whatever the method wants; empty otherwise.
    """

    def __init__(self, plan: Plan, request: Request, material: Material, top_k: int | None) -> None:
        self.material, self.stopped = material, ""
        self._plan = plan
        self._known = Comparisons(
            _leads(request.passages), adaptive=plan.adaptive, closure=plan.closure, soft=plan.soft
        )
        self._order = list(range(len(request.passages)))
        self._batches = plan.batches(self._known, self._order, top_k)
        self._left = float("inf") if plan.max_calls is None else plan.max_calls
        self._spent = False
        self._answered = self._unreadable = self._failed = self._in_vain = 0
        self._first_error: BackendError | None = None

    @property
    def error(self) -> BackendError | None:
        """The first failure, if no question got an answer."""
        return None if self._answered else self._first_error

    def questions(self) -> Iterator[list[Pair]]:
        """What to ask next, batch by batch, until the method has all it wants or there is a reason to stop."""
        try:
            for pairs in self._batches:
                while groups := self._known.questions(pairs):
                    if affordable := self._affordable(groups):
                        yield affordable
                    if self.stopped or self._spent:
                        return
        finally:
            self._batches.close()

    def record(self, answers: Sequence[tuple[Pair, Answer | None]]) -> None:
        """Note what came of questions that were asked together; None: that one was not asked any more."""
        given = [(question, answer) for question, answer in answers if answer is not None]
        for question, answer in given:
            self._known.record(question, answer.chance, sure=answer.sure)
        errors = [answer.error for _, answer in given if answer.error is not None]
        self._answered += len(given) - len(errors)
        self._failed += len(errors)
        self._unreadable += sum(not answer.readable for _, answer in given)
        self._first_error = self._first_error or next(iter(errors), None)
        # A passage that the endpoint refuses spoils some questions of a batch; one that is gone spoils all.
        self._in_vain = self._in_vain + len(errors) if len(errors) == len(given) else 0
        if len(given) < len(answers):
            self.stopped = f"the deadline passed after {self._answered} answers"
        elif self._in_vain >= PATIENCE:
            self.stopped = f"given up after {self._in_vain} failures in a row"

    def verdict(self) -> Scored:
        """The order by what is known; without a single answer the input order, marked as no model's."""
        size, scored = len(self._order), self._known.compared
        if self.error is not None:
            why = f"{type(self.error).__name__}: {self.error}"
            return Scored(np.zeros(size), np.zeros(size, bool), order=np.arange(size), partial=why, fell_back=True)
        scores = np.zeros(size)
        order = None
        if self._plan.method == "allpair":
            scores[scored] = self._plan.strengths(self._known.matrix[np.ix_(scored, scored)])
        elif self._plan.method == "swiss":
            front = [place for place in self._order if scored[place]]
            # Direct comparisons may have changed places with the strengths: these go along.
            scores[front] = np.sort(self._plan.strengths(self._known.matrix)[front])[::-1]
            order = np.array([*front, *np.flatnonzero(~scored)], np.int64)
        else:
            order = np.array(self._order, np.int64)
            scores[order] = size - 1.0 - np.arange(size)
        return Scored(scores, scored, order=order, truncated=self.material.truncated, partial=self._reason(scored))

    def _affordable(self, groups: list[list[Pair]]) -> list[Pair]:
        """The questions of the first pairs, as far as the budget goes; never one order of two."""
        chosen: list[Pair] = []
        for group in groups:
            if len(group) > self._left:
                self._spent = True
                break
            chosen.extend(group)
            self._left -= len(group)
        return chosen

    def _reason(self, scored: NDArray[np.bool_]) -> str:
        """Why the verdict is less than planned; empty if it is not."""
        asked, missing = self._answered + self._failed, int((~scored).sum())
        said = {
            self.stopped: self.stopped,
            f"max_calls={self._plan.max_calls} spent": self._spent,
            f"{self._failed} of {asked} prompts failed ({self._first_error})": self._failed,
            f"{self._unreadable} of {asked} replies named no passage, or both, and count as ties": self._unreadable,
            "the query was cut to fit": self.material.query_cut,
            f"{missing} passages were never compared": missing,
        }
        return "; ".join(part for part, holds in said.items() if holds)


def _leads(passages: tuple[Passage, ...]) -> NDArray[np.int64]:
    """Ranks of the texts' hashes: who is shown first when only one order is asked."""
    digests = [hashlib.sha256(f"{p.title}\0{p.text}".encode()).digest() for p in passages]
    ranks = np.empty(len(digests), np.int64)
    ranks[sorted(range(len(digests)), key=digests.__getitem__)] = np.arange(len(digests))
    return ranks
