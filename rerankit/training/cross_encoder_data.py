"""Training lists for a cross-encoder: ranked by the base that it corrects, and drawn from the top of that ranking."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_whole
from rerankit.errors import InputError
from rerankit.models.layout import Entry
from rerankit.models.vector_cache import KeepsVectors
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.rerankers.residual import query_shown
from rerankit.rerankers.scaling import z_scores
from rerankit.training.lists import TrainingList
from rerankit.training.sources import Tell
from rerankit.training.teaching import taught
from rerankit.types import Passage

__all__ = ["Floats", "PairReader", "Pairs", "Ranked", "RankedSet", "fingerprint_of", "ranked"]

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which pairs of a list are looked at in one step.

    Attributes:
        pairs: at most so many.
        positives: of them relevant, at most; drawn at random.
        hard: the others are drawn from so many irrelevant passages that the base ranks first.

    Raises:
        InputError: one is out of range.
    """

    pairs: int = 8
    positives: int = 1
    hard: int = 25

    def __post_init__(self) -> None:
        check_whole(2, pairs=self.pairs)
        check_whole(1, positives=self.positives, hard=self.hard)
        if self.positives >= self.pairs:
            raise InputError(f"positives must be below pairs={self.pairs}, got {self.positives}")


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A list with the scores of the base ranking.

    Attributes:
        item: the list.
        base: float32 ``[n]``, of mean 0 and standard deviation 1; all 0 where nothing is to be corrected.
        order: int64 ``[n]``: places, best first by the base.
        grades: float32 ``[n]``.
        teacher: float32 ``[n]``, standardised; None without one.
    """

    item: TrainingList
    base: Floats
    order: NDArray[np.int64]
    grades: Floats
    teacher: Floats | None

    @property
    def weight(self) -> float:
        """Of the list."""
        return self.item.weight

    def draw(self, options: Pairs, random: np.random.Generator) -> NDArray[np.int64]:
        """Places of the pairs of one step."""
        relevant = self.grades[self.order] > 0
        good = random.permutation(self.order[relevant])[: options.positives]
        bad = random.permutation(self.order[~relevant][: options.hard])[: options.pairs - len(good)]
        return np.concatenate([good, bad])


@dataclass(frozen=True, slots=True)
class RankedSet:
    """Lists of one source, to be measured on."""

    name: str
    lists: Sequence[Ranked]


def ranked(
    lists: Sequence[TrainingList], residual: str, teacher: str, cache: Path, vectors: KeepsVectors, tell: Tell
) -> list[Ranked]:
    """Lists of two passages or more, with the scores of the base ranking and of a teacher.

    Args:
        lists: any.
        residual: spec of the base ranking, or ``none``: then they are taken as they are ordered.
        teacher: spec of a reranker; ``none`` for the scores that the lists bring, if any.
        cache: folder for scores.
        vectors: for those who can use them.
        tell: is told what takes long.
    """
    lists = [item for item in lists if len(item.passages) > 1]
    bare = [replace(item, teacher=None) for item in lists]
    based = bare if residual == "none" else taught(bare, residual, cache, vectors, tell)
    if teacher != "none":
        lists = taught(lists, teacher, cache, vectors, tell)
    return [_ranked(item, base.teacher) for item, base in zip(lists, based, strict=True)]


def _ranked(item: TrainingList, scores: Sequence[float] | None) -> Ranked:
    base = np.zeros(len(item.passages)) if scores is None else z_scores(np.array(scores))
    return Ranked(
        item,
        base.astype(np.float32),
        np.argsort(-base, kind="stable"),
        np.array(item.grades, np.float32),
        None if item.teacher is None else z_scores(np.array(item.teacher)).astype(np.float32),
    )


class PairReader:
    """Makes pairs into model inputs, just as the trained model will be given them.

    Args:
        cross: of the same tokenizer and length.
        windows: that are read of a passage in an evaluation.
    """

    def __init__(self, cross: CrossEncoder, windows: int = 8) -> None:
        self.cross, self.limit = cross, windows
        cross.max_windows = windows

    def best(self, query: str, passages: Sequence[Passage]) -> list[Entry]:
        """One input per passage: of a long one, the window with the most words of the query, the first of equals."""
        query = query_shown(self.cross.encoder, query)
        words = set(query.lower().split())
        chosen = [max(self._windows(query, one), key=lambda part: _shared(words, part)) for one in passages]
        return self._entries(query, chosen)

    def all(self, query: str, passages: Sequence[Passage]) -> tuple[list[Entry], list[int]]:
        """Inputs for all windows of all passages, and how many each passage has."""
        query = query_shown(self.cross.encoder, query)
        parts = [self._windows(query, one) for one in passages]
        return self._entries(query, [part for row in parts for part in row]), [len(row) for row in parts]

    def _windows(self, query: str, passage: Passage) -> list[Passage]:
        spans = self.cross.windows(query, passage).spans
        return [passage.replace(text=passage.text[start:end], embedding=None) for start, end in spans]

    def _entries(self, query: str, parts: Sequence[Passage]) -> list[Entry]:
        return self.cross.encoder.entries([(query, self.cross.shown(query, part)) for part in parts])


def _shared(words: set[str], part: Passage) -> int:
    return len(words & set(part.text.lower().split()))


def fingerprint_of(lists: Sequence[Ranked]) -> str:
    """Names queries, passages, grades and scores."""
    digest = hashlib.sha256()
    for one in lists:
        texts = [one.item.query, *(f"{p.title}\n{p.text}" for p in one.item.passages), str(one.item.weight)]
        digest.update("\x00".join(texts).encode("utf-8", "replace"))
        for column in (one.base, one.grades, one.teacher):
            digest.update(b"-" if column is None else column.tobytes())
    return digest.hexdigest()[:16]
