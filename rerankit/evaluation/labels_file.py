"""The file of labels: one line per query and call, appended, so that a killed call loses nothing that was written.

A line is ``{"labeller": "llm", "query_id", "query", "passages": [{"id", "title", "text", "grade", "reason"?}],
"failed": [{"id", "error"}], "model", "template"}``. A later call for the same query (deeper, or for what failed) adds a
line; :func:`read_labels` brings them together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rerankit.errors import InputError
from rerankit.evaluation.formats import Qrels, read_jsonl
from rerankit.evaluation.labels_templates import GRADES
from rerankit.evaluation.rowfile import append_row, whole_lines
from rerankit.types import Passage

__all__ = ["LabelFile", "Pool", "Verdict", "qrels_of", "read_labels", "write_qrels"]

_HEAD = b'{"labeller": "llm", '
"""How every line begins: what is cut off as half a line must begin so too."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A query and the passages that are to be labelled for it."""

    query_id: str
    query: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model said of one passage.

    Attributes:
        grade: 0, 1 or 2, or None if no reply could be used.
        reason: why, in the model's words; empty where it was not asked.
        error: why there is no grade.
    """

    grade: int | None
    reason: str = ""
    error: str = ""


class LabelFile:
    """Appends what one model said by one template; knows what the file holds of that already.

    Args:
        path: the file; half a line left by a killed process is cut off. Other models' labels may be in it too.
        model: the labeller's id.
        template: fingerprint of what it is told.

    Raises:
        InputError: the file holds something else; it is left as it is.
        StoreError: the file cannot be read or mended.
    """

    def __init__(self, path: str | Path, model: str, template: str) -> None:
        self.path, self.model, self.template = Path(path), model, template
        self._known: set[bytes] = set()
        self._claimed: set[bytes] = set()
        self._failed: set[bytes] = set()
        if self.path.is_file():
            for number, line in whole_lines(self.path, _HEAD):
                self._remember(_row(line, f"{self.path}, line {number}"))

    @property
    def count(self) -> int:
        """Labels of this model and template in the file."""
        return len(self._known)

    def claim(self, pool: Pool) -> list[Passage]:
        """The pool's passages without a label, each only once, however often it is in this pool or another."""
        found = {_key(pool.query_id, pool.query, p.id, p.title, p.text): p for p in pool.passages}
        free = {key: passage for key, passage in found.items() if key not in self._known and key not in self._claimed}
        self._claimed.update(free)
        return list(free.values())

    def add(self, pool: Pool, verdicts: Sequence[tuple[Passage, Verdict]]) -> None:
        """Append one line with what was said of some of the pool's passages; none if all of it failed before too.

        Raises:
            StoreError: the disk is full or the file cannot be written.
        """
        row = {
            "labeller": "llm",
            "query_id": pool.query_id,
            "query": pool.query,
            "passages": [_labelled(passage, verdict) for passage, verdict in verdicts if verdict.grade is not None],
            "failed": [{"id": p.id, "error": verdict.error} for p, verdict in verdicts if verdict.grade is None],
            "model": self.model,
            "template": self.template,
        }
        marks = {_key(pool.query_id, pool.query, p.id) for p, _ in verdicts}
        if row["passages"] or not marks <= self._failed:
            append_row(self.path, row)
            self._remember(row)

    def _remember(self, row: Mapping[str, Any]) -> None:
        if (row["model"], row["template"]) == (self.model, self.template):
            query = row["query_id"], row["query"]
            self._known.update(_key(*query, p["id"], p["title"], p["text"]) for p in row["passages"])
            self._failed.update(_key(*query, f["id"]) for f in row["failed"])


def read_labels(path: str | Path, *, model: str | None = None, template: str | None = None) -> list[dict[str, Any]]:
    """The file's rows, one per query, model and template: what several calls found, brought together.

    Args:
        path: the file.
        model: only this labeller's.
        template: only those made by this template's fingerprint.

    Returns:
        Rows as the file has them. Of a passage that was labelled twice the last label counts, and ``failed`` names
        only passages that no call got a label for.

    Raises:
        InputError: a line is no row of labels.
    """
    merged: dict[tuple[str, ...], dict[str, Any]] = {}
    for number, found in read_jsonl(Path(path)):
        row = _checked(found, f"{path}, line {number}")
        if (model or row["model"], template or row["template"]) != (row["model"], row["template"]):
            continue
        known = merged.setdefault(tuple(row[name] for name in ("query_id", "query", "model", "template")), row)
        passages = {p["id"]: p for p in [*known["passages"], *row["passages"]]}
        failed = {f["id"]: f for f in [*known["failed"], *row["failed"]] if f["id"] not in passages}
        known |= {"passages": list(passages.values()), "failed": list(failed.values())}
    return list(merged.values())


def qrels_of(rows: Sequence[Mapping[str, Any]]) -> Qrels:
    """Labels as judgements, by query id and passage id."""
    qrels: Qrels = {}
    for row in rows:
        if row["passages"]:
            qrels.setdefault(row["query_id"], {}).update({p["id"]: p["grade"] for p in row["passages"]})
    return qrels


def write_qrels(qrels: Qrels, file: TextIO) -> None:
    """Judgements in TREC format: ``query-id 0 passage-id grade``.

    Raises:
        InputError: an id is empty or has white space, which the format cannot carry.
    """
    check_ids(qrels)
    for query, grades in qrels.items():
        file.writelines(f"{query} 0 {passage} {grade}\n" for passage, grade in grades.items())


def check_ids(judged: Mapping[str, Sequence[str] | Mapping[str, int]]) -> None:
    """Whether ids of queries and of their passages fit into TREC's columns.

    Raises:
        InputError: one does not.
    """
    for name in (name for query, passages in judged.items() for name in (query, *passages)):
        if not name or any(character.isspace() for character in name):
            raise InputError(f"TREC judgements cannot hold the id {name!r}: it is empty or has white space")


def _labelled(passage: Passage, verdict: Verdict) -> dict[str, Any]:
    row: dict[str, Any] = {"id": passage.id, "title": passage.title, "text": passage.text, "grade": verdict.grade}
    return {**row, "reason": verdict.reason} if verdict.reason else row


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not a row of labels ({error}); write to another file") from error
    return _checked(row, where)


_TEXTS = ("query_id", "query", "model", "template")


def _checked(row: Any, where: str) -> dict[str, Any]:
    """A row that is what :meth:`LabelFile.add` writes."""
    fits = (
        isinstance(row, dict)
        and row.get("labeller") == "llm"
        and all(isinstance(row.get(name), str) for name in _TEXTS)
        and all(isinstance(row.get(name), list) for name in ("passages", "failed"))
        and all(map(_is_label, row["passages"]))
        and all(isinstance(item, dict) and isinstance(item.get("id"), str) for item in row["failed"])
    )
    if not fits:
        raise InputError(f"{where}: not a row that rerankit label wrote; write to another file")
    return dict(row)


def _is_label(item: Any) -> bool:
    texts = isinstance(item, dict) and all(isinstance(item.get(name), str) for name in ("id", "title", "text"))
    return texts and type(item.get("grade")) is int and item["grade"] in GRADES


def _key(*parts: str) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()
