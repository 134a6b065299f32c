"""A small farm-question corpus: passages, questions with reference answers, graded judgements.

    >>> from rerankit.samples import farm
    >>> farm.passages()[0].id
    'wheat-sowing-depth'

Written for this project (see README.md beside this file); it illustrates retrieval and is not farm advice.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rerankit.rag.vocabulary import Vocabulary
from rerankit.types import Passage

__all__ = [
    "Dialogue",
    "Question",
    "dialogues",
    "held_out",
    "passages",
    "qrels",
    "questions",
    "unanswerable",
    "vocabulary",
]


@dataclass(frozen=True, slots=True)
class Question:
    """One question as a farmer would ask it.

    Attributes:
        id: a readable identifier.
        text: the question.
        answer: a reference answer of one or two sentences; empty if the corpus does not hold one.
        key_facts: short strings that a right answer contains, upper or lower case; all occur in the judged passages.
        answerable: whether the corpus answers it. A pipeline should abstain where it does not.
    """

    id: str
    text: str
    answer: str
    key_facts: tuple[str, ...]
    answerable: bool


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation that ends in a follow-up.

    Attributes:
        id: a readable identifier.
        turns: what was asked before, in order.
        follow_up: the last message, which needs them (but for a change of topic).
        standalone: one way to put it that does not.
        relevant: ids of passages that answer it.
    """

    id: str
    turns: tuple[str, ...]
    follow_up: str
    standalone: str
    relevant: tuple[str, ...]


def passages() -> list[Passage]:
    """All passages, in file order; ``metadata`` holds ``topic``, ``subject`` and ``region``."""
    return [Passage.from_dict(row) for row in _rows("corpus.jsonl")]


def questions() -> list[Question]:
    """All questions, in file order, the unanswerable ones last."""
    return [Question(**{**row, "key_facts": tuple(row["key_facts"])}) for row in _rows("questions.jsonl")]


def unanswerable() -> list[Question]:
    """Forty more questions that the corpus does not answer; each has near-misses, named in the file."""
    return [Question(row["id"], row["text"], "", (), False) for row in _rows("unanswerable.jsonl")]


def held_out() -> list[Question]:
    """A hundred and forty harder questions; those that are answerable have no reference answer here."""
    return [Question(row["id"], row["text"], "", (), row["answerable"]) for row in _rows("held_out.jsonl")]


def vocabulary() -> Vocabulary:
    """The names of crops, animals, pests and the like, those that the corpus is silent on included."""
    return Vocabulary.from_dict(json.loads(_text("vocabulary.json")))


def dialogues() -> list[Dialogue]:
    """Dialogues with a follow-up, in file order."""
    rows = _rows("dialogues.jsonl")
    return [Dialogue(**{**row, "turns": tuple(row["turns"]), "relevant": tuple(row["relevant"])}) for row in rows]


def qrels() -> dict[str, dict[str, int]]:
    """Judgements as ``{question id: {passage id: grade}}``.

    Grade 2 answers the question, 1 is partly right or background, 0 is a near-miss that shares words or subject but
    answers something else. A pair that is not listed was not judged and counts as 0.
    """
    graded: dict[str, dict[str, int]] = {}
    for row in csv.DictReader(_text("qrels.tsv").splitlines(), delimiter="\t"):
        graded.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return graded


def _rows(name: str) -> Iterator[dict[str, Any]]:
    return map(json.loads, _text(name).splitlines())


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
