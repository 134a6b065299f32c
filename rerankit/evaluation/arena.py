"""A blind arena: people vote between answers without knowing which arm wrote them.

    arena = Arena(["none", "cross-encoder", "listwise"], path="votes.jsonl")
    ballot = arena.ballot({"none": "...", "cross-encoder": "...", "listwise": "..."}, k=2)
    show(ballot.answers)                     # in random order, without names
    arena.vote(ballot, [[1], [0]])           # the second is better
    arena.ratings().leaderboard()

Which arms meet next is chosen so that the vote is expected to say most about the ratings, so that fewer votes are
wasted on pairs whose order is clear (Chiang et al., "Chatbot Arena", ICML 2024, choose by variance; here by the
information of the whole K-wise vote, a Bayesian D-optimal design: Chaloner and Verdinelli, Statistical Science 1995).
"""

from __future__ import annotations

import json
import logging
import operator
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, StoreError
from rerankit.evaluation.ratings import MOST_SHOWN, Ratings, Vote, design, fit_ratings

__all__ = ["Arena", "Ballot", "expected_information", "next_match"]

logger = logging.getLogger(__name__)

_MOST_MATCHES = 2000  # beyond so many possible match-ups a random sample of them is weighed


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a voter sees, and the key that they do not.

    Attributes:
        answers: in random order.
        arms: who wrote each; not for the voter.
    """

    answers: tuple[str, ...]
    arms: tuple[str, ...]


class Arena:
    """Ballots, votes and ratings.

    Args:
        arms: at least two names.
        path: a jsonl file for the votes, read first if it exists; None keeps them in memory.
        seed: of match-making and display order.

    Raises:
        InputError: fewer than two arms, or a name twice.
        StoreError: the file cannot be read.
    """

    def __init__(self, arms: Sequence[str], *, path: str | Path | None = None, seed: int | None = None) -> None:
        if len(set(arms)) < max(2, len(arms)):
            raise InputError(f"An arena takes at least two arms, each once, got {list(arms)}")
        self.arms, self.path = tuple(arms), Path(path) if path is not None else None
        self._rng, self._lock = np.random.default_rng(seed), threading.Lock()
        self._votes: list[Vote] = []
        self._read_bytes = 0
        self._fitted: Ratings | None = None
        self._refresh()

    @property
    def votes(self) -> tuple[Vote, ...]:
        """All votes so far, those of other processes included."""
        with self._lock:
            self._refresh()
            return tuple(self._votes)

    def ballot(self, answers: Mapping[str, str], *, k: int = 2) -> Ballot:
        """Choose ``k`` of the answers for the next vote, in random order.

        Arms that gave the same answer never meet: the vote would say nothing about either.

        Args:
            answers: text per arm, for one question; arms without an answer may be absent.
            k: how many answers to show; fewer are shown if fewer differ.

        Raises:
            InputError: an unknown arm, or fewer than two different answers.
        """
        if unknown := sorted(set(answers) - set(self.arms)):
            raise InputError(f"No such arm: {unknown}; known: {list(self.arms)}")
        with self._lock:
            order = self._rng.permutation(len(answers))
            shuffled = [list(answers)[place] for place in order]
            distinct = list({answers[arm].strip(): arm for arm in shuffled}.values())
            if len(distinct) < 2:
                raise InputError("All arms gave the same answer to this question, so there is nothing to vote on")
            match = next_match(self._ratings(), min(k, len(distinct)), among=distinct, seed=self._rng)
            arms = tuple(match[place] for place in self._rng.permutation(len(match)))
        return Ballot(tuple(answers[arm] for arm in arms), arms)

    def vote(self, ballot: Ballot, order: Sequence[Sequence[int]]) -> Vote:
        """Record a vote.

        Args:
            ballot: what was shown.
            order: groups of positions on the ballot, best first: ``[[1], [0]]`` (second is better), ``[[0, 1]]`` (tie),
                ``[[2]]`` (third is best, nothing said about the others).

        Raises:
            InputError: the order does not fit the ballot.
            StoreError: the vote cannot be written.
        """
        vote = Vote(ballot.arms, _named(order, ballot.arms))
        with self._lock:
            if self.path is not None:
                _append(self.path, vote)
            else:
                self._votes.append(vote)
                self._fitted = None
        return vote

    def ratings(self) -> Ratings:
        """Ratings from all votes so far."""
        with self._lock:
            return self._ratings()

    def _refresh(self) -> None:
        """Read again if this or another process has voted since."""
        size = self.path.stat().st_size if self.path is not None and self.path.exists() else 0
        if self.path is not None and size != self._read_bytes:
            self._votes, self._read_bytes, self._fitted = _read(self.path), size, None

    def _ratings(self) -> Ratings:
        self._refresh()
        if self._fitted is None:
            self._fitted = fit_ratings(self._votes, arms=self.arms)
        return self._fitted


def next_match(
    ratings: Ratings, k: int = 2, *, among: Sequence[str] | None = None, seed: int | np.random.Generator | None = None
) -> tuple[str, ...]:
    """The ``k`` arms whose next vote is expected to tell most; chance decides between equals.

    Args:
        ratings: the present state.
        k: arms per match, 2 to ``MOST_SHOWN``.
        among: arms that can take part; default all.
        seed: None, an int or a generator.

    Raises:
        InputError: ``k`` is out of range.
    """
    names = sorted(ratings.arms if among is None else among)
    if not 2 <= k <= min(MOST_SHOWN, len(names)):
        raise InputError(f"A match takes 2 to {min(MOST_SHOWN, len(names))} arms, got {k}")
    rng = np.random.default_rng(seed)
    if comb(len(names), k) <= _MOST_MATCHES:
        matches = list(islice(combinations(names, k), _MOST_MATCHES))
    else:
        matches = [tuple(rng.choice(names, size=k, replace=False).tolist()) for _ in range(_MOST_MATCHES)]
    gains = expected_information(ratings, matches)
    return matches[int(rng.choice(np.flatnonzero(gains >= gains.max() - 1e-9)))]


def expected_information(ratings: Ratings, matches: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """Information about the ratings (in nats) that the first choice of a vote on each match is expected to bring.

    Half the log-determinant of ``1 + information x covariance``, at the fitted strengths; shape ``[matches]``.
    """
    sizes = [size for size in ratings.ties if size <= min(map(len, matches))]
    columns = [*range(len(ratings.arms)), *(len(ratings.arms) + place for place in range(len(sizes)))]
    covariance = ratings.covariance[np.ix_(columns, columns)]
    at = np.array([*ratings.strengths, *(ratings.ties[size] for size in sizes)])
    rows = np.stack([design(match, ratings.arms, sizes) for match in matches])
    utility = rows @ at
    chance = np.exp(utility - utility.max(axis=1, keepdims=True))
    chance /= chance.sum(axis=1, keepdims=True)
    spread = np.sqrt(chance)[..., None] * (rows - (chance[..., None] * rows).sum(axis=1, keepdims=True))
    inner = np.eye(rows.shape[1]) + spread @ covariance @ spread.swapaxes(1, 2)
    return np.asarray(0.5 * np.linalg.slogdet(inner)[1])


def _named(order: Sequence[Sequence[int]], arms: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The arms at the positions of ``order``."""
    try:
        positions = [[operator.index(position) for position in group] for group in order]
    except TypeError as error:
        raise InputError(
            f"A vote is a list of lists of positions, best first, like [[1], [0]]; got {order!r}"
        ) from error
    if any(not 0 <= position < len(arms) for group in positions for position in group):
        raise InputError(f"The ballot has positions 0 to {len(arms) - 1}, got {positions}")
    return tuple(tuple(arms[position] for position in group) for group in positions)


def _read(path: Path) -> list[Vote]:
    """The votes of a file, without those that were never acknowledged: their writer died in the middle of the line.

    Such a line stands at the very end, without a line break, or before the empty line that :func:`_append` leaves.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StoreError(f"The votes in {path} cannot be read: {error}") from error
    votes = []
    for number, line in enumerate(lines, 1):
        where, following = f"Line {number} of {path}", lines[number : number + 2]
        torn = not following or (len(following) == 2 and not following[0].strip())
        try:
            votes.extend([_parse(line, where)] if line.strip() else [])
        except StoreError:
            if not torn:
                raise
            logger.warning("%s is half a vote that was never recorded; it is left out", where)
    return votes


def _parse(line: bytes, where: str) -> Vote:
    try:
        data = json.loads(line)
        return Vote(tuple(data["shown"]), tuple(tuple(group) for group in data["order"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{where} is no vote ({error}): mend or remove the line") from error


def _is_torn(file: BinaryIO) -> bool:
    """Whether the last line has no end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    return file.read(1) not in (b"", b"\n")


def _append(path: Path, vote: Vote) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            line = json.dumps({"shown": vote.shown, "order": vote.order}) + "\n"
            file.write((b"\n\n" if _is_torn(file) else b"") + line.encode())
    except OSError as error:
        raise StoreError(f"The vote cannot be written to {path}: {error}") from error
