"""The shape of a listwise method: a generator that asks about groups of passages and ends with an order.

A method knows nothing of prompts, models, budgets and failures. It yields questions, all that can be asked side by side
at once, and is sent a verdict for each, or None where there is none: then the passages keep the order they have.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

__all__ = ["Outcome", "Question", "Steps", "Verdict", "Window", "consensus", "repeated", "shuffled", "together"]

Window: TypeAlias = tuple[int, ...]
"""Passages by their position in the list, in the order they are shown or judged."""

Q = TypeVar("Q")
T = TypeVar("T")


class Question(NamedTuple):
    """Passages to be judged together.

    Attributes:
        window: in their present order, which stays where a verdict says nothing.
        pick: how many to select, for prompts that ask for a selection.
        shown: in the order of the prompt, if that is another one.
    """

    window: Window
    pick: int = 0
    shown: Window = ()

    @property
    def places(self) -> Window:
        """The passages as the prompt shows them."""
        return self.shown or self.window


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model said of a question.

    Attributes:
        order: the question's passages, best first.
        complete: the whole order was told, not only who is best or worst.
        ratings: of passages that were rated.
    """

    order: Window
    complete: bool = True
    ratings: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a method ends: all passages, best first, and their scores where they say more than the order."""

    order: Window
    scores: Mapping[int, float] | None = None


Steps: TypeAlias = Generator[Sequence[Question], Sequence[Verdict | None], T]


def together(
    parts: Sequence[Generator[Sequence[Q], Sequence[Verdict | None], T]],
) -> Generator[Sequence[Q], Sequence[Verdict | None], list[T]]:
    """Several methods in step: what they ask at the same time is asked at once. Returns their results, in order."""
    results: dict[int, T] = {}
    waiting: dict[int, Sequence[Q]] = {}

    def advance(number: int, answers: Sequence[Verdict | None] | None) -> None:
        try:
            waiting[number] = next(parts[number]) if answers is None else parts[number].send(answers)
        except StopIteration as stop:
            results[number] = stop.value

    for number in range(len(parts)):
        advance(number, None)
    while waiting:
        asked, waiting = waiting, {}
        answers = yield [question for batch in asked.values() for question in batch]
        start = 0
        for number, batch in asked.items():
            advance(number, answers[start : start + len(batch)])
            start += len(batch)
    return [results[number] for number in range(len(parts))]


def shuffled(window: Sequence[int], random: np.random.Generator) -> Window:
    """The same passages in another order."""
    return tuple(int(i) for i in random.permutation(window))


def repeated(steps: Steps[T], times: int, random: np.random.Generator) -> Steps[T]:
    """Permutation self-consistency: each question ``times`` times, shuffled but for the first, the orders merged.

    Tang et al., arXiv:2310.07712.
    """
    try:
        batch = next(steps)
        while True:
            asked: list[Question] = []
            for question in batch:
                again = [question._replace(shown=shuffled(question.window, random)) for _ in range(times - 1)]
                asked += [question, *again]
            answers = yield asked
            batch = steps.send(
                [_merged(question, answers[i * times : (i + 1) * times]) for i, question in enumerate(batch)]
            )
    except StopIteration as stop:
        result: T = stop.value
        return result


def _merged(question: Question, verdicts: Sequence[Verdict | None]) -> Verdict | None:
    told = [verdict for verdict in verdicts if verdict is not None]
    if not told:
        return None
    order = consensus([verdict.order for verdict in told], question.window)
    return Verdict(order, complete=all(verdict.complete for verdict in told))


def consensus(orders: Sequence[Window], items: Window) -> Window:
    """An order with few disagreements with the given ones (Kendall distance), ties as in ``items``.

    From the Borda order, neighbours change places as long as a majority wants them to; that never adds a disagreement
    and keeps what all agree on.
    """
    places = [{item: place for place, item in enumerate(order)} for order in orders]
    result = sorted(items, key=lambda item: sum(place[item] for place in places))
    changed = True
    while changed:
        changed = False
        for i in range(len(result) - 1):
            first, second = result[i], result[i + 1]
            if 2 * sum(place[second] < place[first] for place in places) > len(places):
                result[i], result[i + 1] = second, first
                changed = True
    return tuple(result)
