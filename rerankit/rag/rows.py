"""Reading files of rows (JSON lines, CSV): one row is one passage, and a file may be larger than memory."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.rag.documents import UTF_16_MARKS, Problem, Section
from rerankit.rag.records import is_too_deep
from rerankit.rerankers.prepare import clean

__all__ = ["read_csv", "read_jsonl"]

_IDS = ("id", "_id", "doc_id", "docid", "passage_id")
_TITLES = ("title", "heading")
_TEXTS = ("text", "contents", "content", "passage", "body", "document", "abstract", "description", "answer")
_SAMPLE_ROWS = 50


def read_jsonl(path: Path, source: str, max_bytes: int, text_column: str | None) -> Iterator[Section | Problem]:
    """One JSON object per line: ``id`` or ``_id``, ``title``, ``text`` or ``contents``, ``metadata``.

    Other keys join the metadata. ``text_column`` names another key for the text.
    """
    for number, line in _lines(path, max_bytes):
        if not line.strip():
            continue
        try:
            yield _json_row(line, number, max_bytes, text_column)
        except InputError as error:
            yield Problem(source, str(error), number)


def _lines(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one that is too long only the head, one byte longer than allowed, is kept in memory.

    Raises:
        InputError: the file is UTF-16, whose lines cannot be told apart by bytes.
    """
    with path.open("rb") as file:
        for number in itertools.count(1):
            if not (line := file.readline(max_bytes + 1)):
                return
            if number == 1 and line.startswith(UTF_16_MARKS):
                raise InputError("the file is UTF-16; save it as UTF-8")
            rest = line
            while len(line) > max_bytes and rest and not rest.endswith(b"\n"):
                rest = file.readline(1 << 20)
            yield number, line


def _json_row(line: bytes, number: int, max_bytes: int, text_column: str | None) -> Section:
    if len(line) > max_bytes:
        raise InputError(f"the line is longer than {max_bytes:,} bytes; raise max_bytes to read it")
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"the line is not UTF-8 ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise InputError("the JSON is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"invalid JSON ({error}); each line must be one JSON object") from error
    if not isinstance(row, dict):
        raise InputError(f"a line must hold a JSON object, got {type(row).__name__}")
    if is_too_deep(row):
        raise InputError("the JSON is nested too deeply")
    key = text_column or _first(_TEXTS, row)
    if key not in row:
        raise InputError(f"no text: expected one of the keys {', '.join((text_column,) if text_column else _TEXTS)}")
    return _section(row, key, number)


def _first(names: Sequence[str], row: Mapping[str, Any] | Sequence[str]) -> str:
    """The key of ``row`` that is the first of ``names`` it has, in upper or lower case; or an empty string."""
    keys = {key.lower(): key for key in reversed(list(row))}
    return next((keys[name] for name in names if name in keys), "")


def _section(row: Mapping[str, Any], text_key: str, number: int) -> Section:
    """One row as a section; what is neither id, title nor text becomes metadata."""
    text, key, title_key = row[text_key], _first(_IDS, row), _first(_TITLES, row)
    if not isinstance(text, str):
        raise InputError(f"the text must be a string, got {type(text).__name__}")
    if not text.strip():
        raise InputError("the text is empty")
    title = row[title_key] if title_key else None
    rest = {name: value for name, value in row.items() if name not in {text_key, key, title_key, "metadata"}}
    inner = row.get("metadata")
    rest |= inner if isinstance(inner, dict) else {"metadata": inner} if inner is not None else {}
    name = row[key] if key else None
    return Section(
        text=clean(text),
        title=clean(str(title)).strip() if title is not None else "",
        id=clean(str(name)).strip() if name is not None else "",
        row=number,
        metadata={"line": number} | rest,
    )


def read_csv(path: Path, source: str, max_bytes: int, text_column: str | None) -> Iterator[Section | Problem]:
    """A table with a header row, separated by comma, semicolon, tab or bar.

    The text is the column ``text_column``, else one with a usual name, else the one with the longest values.
    """
    problems: list[Problem] = []
    rows = _records(path, source, max_bytes, problems.append)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    sample = list(itertools.islice(rows, _SAMPLE_ROWS))
    yield from _drain(problems)
    column = _text_column(header, [row for _, row in sample], text_column)
    for number, row in itertools.chain(sample, rows):
        yield from _drain(problems)
        try:
            if len(row) > len(header):
                raise InputError(f"the row has {len(row)} fields, the header {len(header)}")
            yield _section(dict(zip(header, row, strict=False)), column, number)
        except (InputError, KeyError) as error:
            reason = str(error) if isinstance(error, InputError) else f"the row ends before its column {column!r}"
            yield Problem(source, reason, number)
    yield from _drain(problems)


def _drain(problems: list[Problem]) -> Iterator[Problem]:
    while problems:
        yield problems.pop(0)


def _records(
    path: Path, source: str, max_bytes: int, report: Callable[[Problem], None]
) -> Iterator[tuple[int, list[str]]]:
    """Numbered rows. Blank ones are left out; damaged ones are reported."""
    lines, ended = _text_lines(path, source, max_bytes, report), False

    def until_end() -> Iterator[str]:
        nonlocal ended
        yield from lines
        ended = True

    if (first := next(lines, None)) is None:
        return
    delimiter = max(",;\t|", key=first.count)
    reader = csv.reader(itertools.chain([first], until_end()), delimiter=delimiter)
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "; csv.field_size_limit() sets it" if "limit" in str(error) else ""
            report(Problem(source, f"the row cannot be read ({error}{hint})", reader.line_num))
            continue
        if ended:  # the reader asked for more lines: the row was not complete
            report(Problem(source, "a quote in this row is never closed; the rest of the file is lost in it", begin))
            return
        if any(field.strip() for field in row):
            yield reader.line_num, row


def _text_lines(path: Path, source: str, max_bytes: int, report: Callable[[Problem], None]) -> Iterator[str]:
    guessed = False
    for number, line in _lines(path, max_bytes):
        if len(line) > max_bytes:
            report(Problem(source, f"the line is longer than {max_bytes:,} bytes; raise max_bytes to read it", number))
            continue
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").replace("\x00", " ")
        except UnicodeDecodeError:
            if not guessed:
                report(Problem(source, "not UTF-8; read as cp1252", number, skipped=False))
            guessed = True
            yield line.decode("cp1252", errors="replace").replace("\x00", " ")


def _text_column(header: Sequence[str], rows: Sequence[Sequence[str]], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in header:
            raise InputError(f"no column {wanted!r}; the header has {', '.join(header)}")
        return wanted
    if usual := _first(_TEXTS, header):
        return usual
    if not header or not rows:
        raise InputError("the table has no rows below its header")
    lengths = [sum(len(row[at]) for row in rows if at < len(row)) for at in range(len(header))]
    return header[lengths.index(max(lengths))]
