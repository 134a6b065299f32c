"""Comparisons: what is known of one list, pair by pair, and what still has to be asked.

A pair is asked in both orders, because models prefer one place over the other (Qin et al., arXiv:2306.17563). If the
two answers disagree it is a tie. Nothing is asked twice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["Comparisons", "Pair"]

Pair = tuple[int, int]
"""Two positions. Of a question the first is shown first."""


class Comparisons:
    """The comparison matrix of one list of n passages.

    Args:
        leads: per passage a number, different for each: of a pair, the one with the smaller number is shown first where
            only one order is asked. Taken from the texts, it makes the bias for a place noise of mean zero, and the
            outcome does not depend on the input order.
        adaptive: ask the second order only if the first answer's probability is closer to 1/2 than this; None: always.
        closure: take what follows from wins already seen (a over b, b over c) as known, unless wins contradict it.
        soft: go by the chances: of two orders that disagree, the surer one tells.

    Attributes:
        verdicts: float64 ``[n, n]``: 1 for a win of the row, 0 for a loss, 1/2 for a tie, NaN for pairs not decided.
        chances: float64 ``[n, n]``: the same as probabilities, the mean of both orders.
        matrix: the one of the two that counts.
    """

    def __init__(self, leads: NDArray[np.int64], *, adaptive: float | None, closure: bool, soft: bool) -> None:
        size = len(leads)
        self.verdicts = np.full((size, size), np.nan)
        self.chances = np.full((size, size), np.nan)
        self.matrix = self.chances if soft else self.verdicts
        self._leads, self._adaptive, self._closure = leads, adaptive, closure
        self._answers = np.full((size, size), np.nan)
        self._asked = np.zeros((size, size), bool)
        self._sure = np.zeros((size, size), bool)
        self._reaches = np.zeros((size, size), bool)

    def __len__(self) -> int:
        return len(self.verdicts)

    @property
    def compared(self) -> NDArray[np.bool_]:
        """Bool ``[n]``: which passages have met another one, with a verdict. A passage alone in its list has."""
        return np.asarray(np.isfinite(self.verdicts).any(axis=1) | (len(self) == 1), np.bool_)

    @property
    def fruitless(self) -> NDArray[np.int64]:
        """Int ``[n]``: of a passage without a verdict the opponents it was asked against in vain; 0 for the others."""
        tried = (self._asked | self._asked.T).sum(axis=1)
        return np.where(self.compared, 0, tried)

    def beats(self, i: int, j: int) -> bool:
        """Whether ``i`` won against ``j``; neither a tie nor an open pair is a win."""
        return bool(self.matrix[i, j] > 0.5)

    def met(self, i: int, j: int) -> bool:
        """Whether the pair is decided, or has been asked without a decision: it is not asked again."""
        return bool(np.isfinite(self.verdicts[i, j]) or self._asked[i, j] or self._asked[j, i])

    def questions(self, pairs: Iterable[Pair]) -> list[list[Pair]]:
        """What to ask now to decide ``pairs``: per open pair its one or two questions, in the order of the pairs.

        With ``adaptive`` the second order of an unsure pair comes up when the first is answered: call again.
        """
        found: dict[Pair, list[Pair]] = {}
        for i, j in pairs:
            first, second = (i, j) if self._leads[i] < self._leads[j] else (j, i)
            if self._follows(first, second):
                continue
            both = [(first, second), (second, first)]
            unasked = [question for question in both if not self._asked[question]]
            if self._adaptive is not None:
                unasked = [] if self._is_sure(first, second) else unasked[:1]
            if unasked:
                found[first, second] = unasked
        return list(found.values())

    def record(self, question: Pair, chance: float | None, *, sure: bool = True) -> None:
        """Note an answer.

        Args:
            question: which passage was shown first, and which second.
            chance: probability that the first is the better one; None if there was no answer.
            sure: the probability is the model's own; a written letter says nothing of how sure the model was.
        """
        self._asked[question] = True
        if chance is not None:
            self._answers[question] = chance
            self._sure[question] = sure
            self._decide(*question)

    def extension(self, order: Iterable[int]) -> list[int]:
        """``order`` changed as little as it takes to put every passage behind those that beat it.

        The next place goes to the first one in ``order`` that the fewest of the others left have beaten: none, unless
        wins go in a circle.
        """
        left = list(order)
        wins = self.matrix[np.ix_(left, left)] > 0.5
        conquerors = wins.sum(axis=0).astype(np.float64)
        result = []
        for _ in left:
            best = int(conquerors.argmin())
            result.append(left[best])
            conquerors -= wins[best]
            conquerors[best] = np.inf
        return result

    def mended(self, order: Iterable[int]) -> list[int]:
        """``order``, but of two neighbours that have met the winner stands in front.

        Local Kemenization (Dwork et al., "Rank aggregation methods for the Web", WWW 2001), by insertion.
        """
        result: list[int] = []
        for passage in order:
            place = len(result)
            while place and self.beats(passage, result[place - 1]):
                place -= 1
            result.insert(place, passage)
        return result

    def _is_sure(self, first: int, second: int) -> bool:
        answer = self._answers[first, second]
        return bool(self._sure[first, second] and abs(answer - 0.5) >= (self._adaptive or 0.0))

    def _decide(self, i: int, j: int) -> None:
        """Both answers, or with ``adaptive`` the one there is, as a verdict."""
        there, back = self._answers[i, j], 1.0 - self._answers[j, i]
        if np.isnan(back):
            if self._adaptive is None:
                return
            # Without its second order, an answer that is not sure is a tie.
            self._set(i, j, float(np.sign(there - 0.5) / 2 + 0.5) if self._is_sure(i, j) else 0.5, there)
        else:
            agreed = np.sign(there - 0.5) if (there - 0.5) * (back - 0.5) > 0 else 0.0
            self._set(i, j, float(agreed / 2 + 0.5), (there + back) / 2)

    def _set(self, i: int, j: int, verdict: float, chance: float) -> None:
        self.verdicts[i, j], self.verdicts[j, i] = verdict, 1.0 - verdict
        self.chances[i, j], self.chances[j, i] = chance, 1.0 - chance
        if self._closure and verdict != 0.5:
            winner, loser = (i, j) if verdict == 1.0 else (j, i)
            above, below = self._reaches[:, winner].copy(), self._reaches[loser].copy()
            above[winner] = below[loser] = True
            self._reaches |= np.outer(above, below)

    def _follows(self, i: int, j: int) -> bool:
        """Whether the pair is known from others, noting the verdict if so."""
        if np.isfinite(self.verdicts[i, j]):
            return not (self._asked[i, j] or self._asked[j, i])
        if not self._closure or self._reaches[i, j] == self._reaches[j, i]:
            return False
        verdict = float(self._reaches[i, j])
        self._set(i, j, verdict, verdict)
        return True
