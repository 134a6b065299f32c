"""Line formats of test collections, read one line at a time: jsonl, qrels, runs, topics.

Every reader names file and line of what it cannot read. Files ending in ``.gz`` are opened as such.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rerankit.errors import InputError

Qrels = dict[str, dict[str, int]]
"""Per query id, the grade of each judged passage id."""

Run = dict[str, dict[str, float]]
"""Per query id, the score of each retrieved passage id."""


def open_text(path: Path) -> TextIO:
    """Open a text file, gzipped or not; a byte order mark, which Windows' editors write, is left out.

    Raises:
        InputError: it is not there or cannot be read.
    """
    try:
        if path.suffix == ".gz":
            return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig")
        return path.open(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}") from error


def lines(path: Path, *, most_bytes: int | None = None) -> Iterator[tuple[int, str]]:
    """Numbered lines that hold anything, from 1.

    Args:
        path: a text file, gzipped or not.
        most_bytes: how many may be read of it, unpacked; None for all that are there.

    Raises:
        InputError: the file is not UTF-8 text, its compression is damaged, or it holds more than ``most_bytes``.
    """
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file if most_bytes is None else _within(file, most_bytes, path), 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: not readable as UTF-8 text ({error})") from error


def _within(file: TextIO, most_bytes: int, path: Path) -> Iterator[str]:
    """The lines of a file, of which never much more is read than allowed: a line without an end is not waited for."""
    left = most_bytes
    while line := file.readline(left + 1):
        left -= len(line.encode())
        if left < 0:
            raise InputError(f"{path} holds more than {most_bytes:,} bytes of text (unpacked), the most that is read")
        yield line


def read_jsonl(path: Path, *, most_bytes: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered JSON objects, one per line.

    Raises:
        InputError: a line is not a JSON object, or see :func:`lines`.
    """
    for number, line in lines(path, most_bytes=most_bytes):
        try:
            value = json.loads(line)
        except RecursionError as error:
            raise InputError(f"{path}, line {number}: nested too deeply to be read") from error
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number}: expected an object {{...}}, found {type(value).__name__}")
        yield number, value


def text_field(row: Mapping[str, Any], names: tuple[str, ...], where: str, *, default: str | None = None) -> str:
    """The first of ``names`` that the row has, as text.

    Raises:
        InputError: none is there and no default is given, or it is neither text nor a number.
    """
    value = next((row[name] for name in names if row.get(name) is not None), default)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        problem = "has no" if value is None else "has an unusable"
        raise InputError(f"{where}: {problem} {' or '.join(map(repr, names))}; keys: {sorted(row)}")
    return str(value)


def read_qrels(path: Path) -> Qrels:
    """Judgements: TREC (``query 0 passage grade``) or tab-separated ``query-id corpus-id score`` with a header.

    Raises:
        InputError: a line has other columns, a grade is not a whole number, or a pair is judged twice differently.
    """
    qrels: Qrels = {}
    for number, line in lines(path):
        parts = line.split("\t") if "\t" in line else line.split()
        if number == 1 and parts[-1].strip().lower() in ("score", "relevance", "rel", "grade"):
            continue
        query, passage, grade = _qrel(parts, f"{path}, line {number}")
        judged = qrels.setdefault(query, {})
        if judged.setdefault(passage, grade) != grade:
            raise InputError(
                f"{path}, line {number}: passage {passage!r} of query {query!r} was judged {judged[passage]} before, "
                f"now {grade}"
            )
    return qrels


def _qrel(parts: list[str], where: str) -> tuple[str, str, int]:
    parts = [part.strip() for part in parts]
    if len(parts) not in (3, 4):
        raise InputError(f"{where}: a judgement has 3 or 4 columns, found {len(parts)}")
    try:
        return parts[0], parts[-2], int(parts[-1])
    except ValueError:
        raise InputError(f"{where}: the grade {parts[-1]!r} is not a whole number") from None


def read_run(path: Path) -> Run:
    """First-stage results: TREC (``query Q0 passage rank score tag``) or ``query-id corpus-id score`` with a header.

    Raises:
        InputError: a line has other columns, a score is not a number, or a passage occurs twice for a query.
    """
    run: Run = {}
    for number, line in lines(path):
        parts = line.split()
        where = f"{path}, line {number}"
        if number == 1 and parts[-1].lower() == "score":
            continue
        if len(parts) not in (3, 6):
            raise InputError(f"{where}: a run line has 3 or 6 columns, found {len(parts)}")
        query, passage, score = (parts[0], parts[2], parts[4]) if len(parts) == 6 else parts
        results = run.setdefault(query, {})
        if passage in results:
            raise InputError(f"{where}: passage {passage!r} occurs twice for query {query!r}")
        results[passage] = _score(score, where)
    return run


def _score(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: the score {text!r} is not a number") from None


def write_run(run: Mapping[str, Mapping[str, float]], path: Path, tag: str) -> None:
    """Write a run in TREC format, best first; equal scores keep their order."""
    with path.open("w", encoding="utf-8") as file:
        for query, results in run.items():
            ranked = sorted(results.items(), key=lambda item: -item[1])
            for rank, (passage, score) in enumerate(ranked, 1):
                file.write(f"{query} Q0 {passage} {rank} {score:.9g} {tag}\n")
