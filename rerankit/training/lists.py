"""Lists to train on: a query, passages, and how relevant each of them is.

``read_lists`` makes them of a test collection, of jsonl files in several shapes, of clicks, and of what users of the
assistant said. ``docs/training-data.md`` shows every shape.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError, StoreError
from rerankit.evaluation.datasets import Corpus
from rerankit.rerankers.prepare import is_blank
from rerankit.training.clicks import PositionBias
from rerankit.training.lists_files import Draft, Judged, query_key
from rerankit.training.lists_sources import drafts_of
from rerankit.types import Passage

__all__ = ["TrainingList", "read_lists", "split_lists", "write_lists"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingList:
    """One query with judged passages.

    Attributes:
        query: the question.
        passages: those with first-stage scores first. Their order must be no signal to a model or a metric.
        grades: per passage 0 (not relevant) to 3; whole or, as the mean of several judges, between.
        teacher: per passage the score of a teacher, higher is better, on the teacher's own scale; None without one.
        source: where the list comes from, for reports and for mixing sources.
        weight: how much the list counts in a loss; more than 0.

    Raises:
        InputError: the query is blank, the columns differ in length, or a number is not finite or out of range.
    """

    query: str
    passages: tuple[Passage, ...]
    grades: tuple[float, ...]
    teacher: tuple[float, ...] | None = None
    source: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.query, str) or is_blank(self.query):
            raise InputError(f"The query of a training list is a text that is not blank, got {self.query!r:.80}")
        columns = {"grades": self.grades} if self.teacher is None else {"grades": self.grades, "teacher": self.teacher}
        for name, column in columns.items():
            if len(column) != len(self.passages):
                raise InputError(
                    f"A training list has one entry of {name} per passage: got {len(column)} for "
                    f"{len(self.passages)} passages (query {self.query!r:.80})"
                )
            if not all(is_number(value) and math.isfinite(value) for value in column):
                raise InputError(f"{name} are finite numbers, got {column!r:.80} (query {self.query!r:.80})")
        if any(grade < 0 for grade in self.grades):
            raise InputError(f"A grade is at least 0 (not relevant), got {min(self.grades)} (query {self.query!r:.80})")
        if not (is_number(self.weight) and 0 < self.weight < math.inf):
            raise InputError(f"The weight of a list is more than 0, got {self.weight!r} (query {self.query!r:.80})")

    @property
    def relevant(self) -> tuple[Passage, ...]:
        """The passages with a grade above 0."""
        return tuple(passage for passage, grade in zip(self.passages, self.grades, strict=True) if grade > 0)


def read_lists(
    source: str | os.PathLike[str],
    *,
    corpus: str | Path | Corpus | None = None,
    split: str = "train",
    count: int | None = None,
    seed: int = 0,
    depth: int = 100,
    run: str | None = None,
    position_bias: PositionBias = 1.0,
    tell: Callable[[str], None] | None = None,
) -> list[TrainingList]:
    """Training lists of a file or folder; its layout is told by what is in it.

    Blank passages are dropped, passages of one list with the same title and text are one (with the best grade). A list
    without a relevant passage teaches nothing and is left out, unless it carries a teacher's scores. Passages with
    first-stage scores keep their order; the others follow in an order that says nothing of relevance (by a hash).

    Args:
        source: a test collection (see :func:`~rerankit.evaluation.datasets.open_dataset`), a jsonl file, or a sqlite
            file of feedback.
        corpus: passages for files that name them by id: jsonl, or a function that gives them.
        split: of a collection with several.
        count: most lists; drawn at random, kept in order.
        seed: of the draw.
        depth: most first-stage results of a collection per list; judged passages come on top.
        run: which first-stage results of a collection; the first by default. Unjudged ones count as not relevant.
        position_bias: of clicks; see :mod:`rerankit.training.clicks`. 0 weighs all clicks alike.
        tell: is given what was left out, one sentence each; by default it is logged as a warning.

    Raises:
        InputError: a line cannot be read (the message names file and line), or no list is left.
        StoreError: a file of feedback cannot be opened.
    """
    check_whole(0, seed=seed)
    check_whole(1, depth=depth)
    check_whole(1, or_none=True, count=count)
    tell = tell or logger.warning
    found = drafts_of(source, corpus=corpus, split=split, depth=depth, run=run, position_bias=position_bias, tell=tell)
    made = [_finished(draft) for draft in found]
    lists = [item for item in made if item is not None]
    if not lists:
        raise InputError(f"{source} has no list with a relevant passage: {len(made)} were read")
    if left_out := len(made) - len(lists):
        tell(f"{source}: {left_out} of {len(made)} lists have no relevant passage and are left out")
    if count is None or count >= len(lists):
        return lists
    return [lists[i] for i in sorted(np.random.default_rng(seed).permutation(len(lists))[:count])]


def split_lists(
    lists: Sequence[TrainingList], share: float = 0.1, seed: int = 0
) -> tuple[list[TrainingList], list[TrainingList]]:
    """Lists for training, and lists to choose the best checkpoint by.

    The queries with the lowest hashes are held out, so lists of one query stay together (letter case and white space
    aside), the order of the lists does not matter, and few queries change sides when others are added.

    Args:
        lists: in any order, which both sides keep.
        share: of the different queries that goes to the second side, between 0 and 1; rounded, and at least one query
            on each side.
        seed: another one gives another split.

    Raises:
        InputError: there are not two different queries, or ``share`` is out of range.
    """
    if not (is_number(share) and 0.0 < share < 1.0):
        raise InputError(f"share lies between 0 and 1, got {share!r}")
    places = [_place(item.query, seed) for item in lists]
    ordered = sorted(set(places))
    if len(ordered) < 2:
        raise InputError(f"A split needs lists of two different queries; all {len(lists)} lists have the same one")
    count = min(max(round(share * len(ordered)), 1), len(ordered) - 1)
    last = ordered[count - 1]
    train = [item for item, place in zip(lists, places, strict=True) if place > last]
    return train, [item for item, place in zip(lists, places, strict=True) if place <= last]


def write_lists(lists: Iterable[TrainingList], path: str | os.PathLike[str]) -> int:
    """Write lists as jsonl that :func:`read_lists` reads; returns how many. Metadata and vectors are not kept.

    Raises:
        StoreError: the file cannot be written.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            written = sum(file.write(_line(item)) > 0 for item in lists)
        part.replace(target)
    except OSError as error:
        raise StoreError(f"Cannot write {target}: {error.strerror or error}") from error
    return written


def _finished(draft: Draft) -> TrainingList | None:
    """A list of what is left when blanks and copies are gone; None if nothing can be learned from it."""
    best: dict[tuple[str, str], Judged] = {}
    for judged in draft.judged:
        passage = judged.passage
        if isinstance(passage, str) or is_blank(passage.text):
            continue
        key = passage.title.strip(), passage.text.strip()
        if key not in best or judged.grade > best[key].grade:
            best[key] = judged
    kept = [(judged.passage, judged) for judged in best.values() if isinstance(judged.passage, Passage)]
    kept.sort(key=lambda row: "" if row[0].score is not None else _digest(row[0].text).hex())
    teacher = tuple(judged.teacher for _, judged in kept if judged.teacher is not None)
    taught = bool(kept) and len(teacher) == len(kept)
    if not taught and not any(judged.grade > 0 for _, judged in kept):
        return None
    passages, grades = tuple(passage for passage, _ in kept), tuple(judged.grade for _, judged in kept)
    return TrainingList(draft.query, passages, grades, teacher if taught else None, draft.source, draft.weight)


def _place(query: str, seed: int) -> float:
    """Where in [0, 1) the query's hash lies."""
    return int.from_bytes(_digest(f"{seed}\n{query_key(query)}")[:8], "big") / 2**64


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _line(item: TrainingList) -> str:
    row = {"query": item.query, "passages": list(_rows(item)), "source": item.source, "weight": item.weight}
    return json.dumps(row, ensure_ascii=True) + "\n"


def _rows(item: TrainingList) -> Iterator[dict[str, object]]:
    for place, (passage, grade) in enumerate(zip(item.passages, item.grades, strict=True)):
        row: dict[str, object] = {"id": passage.id, "title": passage.title, "text": passage.text, "grade": float(grade)}
        if passage.score is not None:
            row["score"] = passage.score
        if item.teacher is not None:
            row["teacher"] = float(item.teacher[place])
        yield row
