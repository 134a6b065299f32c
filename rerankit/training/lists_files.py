"""Training lists in jsonl files: the shapes that a line may have, told apart by their keys."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerankit.checks import is_number
from rerankit.errors import InputError
from rerankit.evaluation.formats import text_field
from rerankit.rerankers.prepare import clean, is_blank
from rerankit.types import Passage

__all__ = ["HIGHEST", "Draft", "Judged", "from_judgements", "from_lists", "from_pairs", "query_key", "query_of"]

HIGHEST = 3.0
"""The highest grade."""

_POSITIVES, _NEGATIVES = ("positives", "positive", "pos"), ("negatives", "negative", "neg")

Row = tuple[str, dict[str, Any]]
"""Where a line stands (``file, line 3``), and what it says."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A passage, or the id under which the corpus has it; what it was judged, and what a teacher makes of it."""

    passage: Passage | str
    grade: float
    teacher: float | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A list whose passages may still have to be looked up."""

    query: str
    judged: tuple[Judged, ...]
    where: str
    source: str
    weight: float = 1.0


def query_key(query: str) -> str:
    """Queries that differ in letter case and white space alone have one key."""
    return " ".join(clean(query).casefold().split())


def query_of(row: Mapping[str, Any], where: str) -> str:
    """The question of a line.

    Raises:
        InputError: it has none, or a blank one.
    """
    query = text_field(row, ("query", "question"), where)
    if is_blank(query):
        raise InputError(f"{where}: the query is blank")
    return query


def from_pairs(rows: Iterable[Row], source: str) -> Iterator[Draft]:
    """``{"query", "positives": [text], "negatives": [text]}``; one positive may be given as ``"positive": text``.

    Raises:
        InputError: a line has neither positives nor negatives, or one of them is no text.
    """
    for where, row in rows:
        _check_shape(row, (*_POSITIVES, *_NEGATIVES), where)
        right = [Judged(_as_passage(text), 1.0) for text in _texts(row, _POSITIVES, where)]
        wrong = [Judged(_as_passage(text), 0.0) for text in _texts(row, _NEGATIVES, where)]
        yield Draft(query_of(row, where), (*right, *wrong), where, source)


def from_lists(rows: Iterable[Row], source: str) -> Iterator[Draft]:
    """``{"query", "passages": [{"id", "text", "title", "grade", "teacher"}], "weight", "source"}``.

    A passage without a grade was not judged and is left out, unless it has a teacher's score: then its grade is 0.
    A passage without a text is looked up by its id.

    Raises:
        InputError: ``passages`` or one of them is not usable, some have a teacher's score and others have none, or no
            passage of any line has either a grade or a teacher's score.
    """
    labelled, bare = False, ""
    for where, row in rows:
        _check_shape(row, ("passages",), where)
        entries = row["passages"]
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise InputError(f"{where}: 'passages' is a list of objects {{id, text, title, grade}}")
        judged = tuple(item for entry in entries if (item := _judged(entry, where)) is not None)
        labelled = labelled or bool(judged)
        if entries and not bare:
            bare = f"{where}: no passage has a 'grade' or a 'teacher'; the first has the keys {sorted(entries[0])}"
        if len({item.teacher is None for item in judged}) == 2:
            raise InputError(f"{where}: some passages have a teacher's score and others have none; give all or none")
        weight = _weight(row.get("weight", 1.0), where)
        yield Draft(query_of(row, where), judged, where, text_field(row, ("source",), where, default=source), weight)
    if bare and not labelled:
        raise InputError(bare)


def from_judgements(rows: Iterable[Row], source: str) -> Iterator[Draft]:
    """``{"query", "id" or "text", "grade"}``: one judgement per line, lines of one query make one list.

    Several judgements of one passage are averaged. Also ``{"query", "grades": {id: grade}}`` and ``{"question",
    "passage_id", "helpful": true}``, which the assistant's feedback is exported as.

    Raises:
        InputError: a line has no passage or no grade.
    """
    return grouped(((query_of(row, where), where, _judgements(row, where)) for where, row in rows), source)


def grouped(judgements: Iterable[tuple[str, str, Sequence[Judged]]], source: str) -> Iterator[Draft]:
    """One list per query, with the mean of the grades that a passage got.

    Args:
        judgements: (query, where it stands, what it says) in any order.
        source: of the lists.
    """
    found: dict[str, tuple[str, str, dict[str, list[Judged]]]] = {}
    for query, where, items in judgements:
        _, _, passages = found.setdefault(query_key(query), (query, where, {}))
        for item in items:
            passages.setdefault(_name(item), []).append(item)
    for query, where, passages in found.values():
        means = (Judged(_longest(items), math.fsum(i.grade for i in items) / len(items)) for items in passages.values())
        yield Draft(query, tuple(means), where, source)


def _name(item: Judged) -> str:
    return item.passage if isinstance(item.passage, str) else item.passage.id


def _longest(items: Sequence[Judged]) -> Passage | str:
    """The passage itself where one of the judgements came with it."""
    return next((item.passage for item in items if isinstance(item.passage, Passage)), items[0].passage)


def _check_shape(row: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """See that a line has one of the keys that the lines before it had."""
    if row.keys().isdisjoint(names):
        expected = " or ".join(map(repr, names))
        raise InputError(f"{where}: has the keys {sorted(row)}; expected {expected}, as in the file's first line")


def _judgements(row: Mapping[str, Any], where: str) -> list[Judged]:
    _check_shape(row, ("grade", "grades", "helpful"), where)
    if "grades" in row:
        if not isinstance(row["grades"], Mapping):
            raise InputError(f"{where}: 'grades' is an object of passage id: grade")
        return [Judged(name, _grade(grade, where)) for name, grade in row["grades"].items()]
    grade = _grade(row["grade"] if "grade" in row else row.get("helpful"), where)
    return [Judged(_passage(row, ("id", "passage_id"), where), grade)]


def _judged(entry: Mapping[str, Any], where: str) -> Judged | None:
    passage = _passage(entry, ("id", "_id"), where)
    teacher, grade = entry.get("teacher"), entry.get("grade")
    if teacher is not None and not (is_number(teacher) and math.isfinite(teacher)):
        raise InputError(f"{where}: a teacher's score is a finite number, got {teacher!r:.40}")
    if grade is None:
        return None if teacher is None else Judged(passage, 0.0, float(teacher))
    return Judged(passage, _grade(grade, where), None if teacher is None else float(teacher))


def _passage(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> Passage | str:
    """The passage that a line holds, or the id that it names."""
    text = row.get("text")
    if text is None:
        return text_field(row, names, where)
    if not isinstance(text, str):
        raise InputError(f"{where}: the text of a passage is a string, got {text!r:.40}")
    title = text_field(row, ("title",), where, default="")
    name = text_field(row, names, where, default=_text_id(title, text))
    score = row.get("score")
    if score is not None and not (is_number(score) and math.isfinite(score)):
        raise InputError(f"{where}: the score of a passage is a finite number, got {score!r:.40}")
    return Passage(name, text, title, score=score)


def _as_passage(text: str) -> Passage:
    return Passage(_text_id("", text), text)


def _text_id(title: str, text: str) -> str:
    """An id for a passage that came without one: the same text has the same id."""
    return "text-" + hashlib.sha256(f"{title}\n{text}".encode("utf-8", "replace")).hexdigest()[:16]


def _texts(row: Mapping[str, Any], names: Sequence[str], where: str) -> list[str]:
    value: Any = next((row[name] for name in names if row.get(name) is not None), [])
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where}: {names[0]!r} is a list of texts")
    return value


def _grade(value: object, where: str) -> float:
    grade = float(value) if isinstance(value, bool) else value
    if not is_number(grade) or not 0 <= grade <= HIGHEST:
        raise InputError(
            f"{where}: a grade is a number from 0 (not relevant) to {HIGHEST:g}, got {value!r:.40}; bring other scales "
            "to this one first"
        )
    return float(grade)


def _weight(value: object, where: str) -> float:
    if not is_number(value) or not 0 < value < math.inf:
        raise InputError(f"{where}: the weight of a list is a number above 0, got {value!r:.40}")
    return float(value)
