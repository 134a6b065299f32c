"""Reading what ``rerankit rank`` is given. Every wrong line is named by file and number before anything is ranked."""

from __future__ import annotations

import gzip
import io
import json
import math
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from rerankit.errors import InputError
from rerankit.rerankers.prepare import clean, is_blank
from rerankit.types import Passage

STDIN = "-"
_SHOWN = 5
_PASSAGE_KEYS = ("id", "text", "title", "metadata", "score")


@dataclass(frozen=True, slots=True)
class Job:
    """One list to order, the caller's name for it, and where it came from."""

    id: str | None
    query: str
    passages: tuple[Passage, ...]
    where: str


class _Faults:
    """The wrong lines of one file, told all at once."""

    def __init__(self, source: str) -> None:
        self.source, self.count = source, 0
        self.shown: list[str] = []

    def add(self, number: int, reason: object) -> None:
        self.count += 1
        if self.count <= _SHOWN:
            self.shown.append(f"line {number}: {reason}")

    def check(self) -> None:
        if self.count:
            more = f"; and {self.count - _SHOWN} more" if self.count > _SHOWN else ""
            raise InputError(f"{self.source} has {self.count} wrong line(s), so nothing was ranked. "
                             f"{'; '.join(self.shown)}{more}")  # fmt: skip


def read_jobs(source: str) -> list[Job]:
    """JSON lines ``{"query": ..., "passages": [text or {"id", "text", "title", "metadata", "score"}], "id": ...}``.

    Raises:
        InputError: some lines are wrong; the message names them.
    """
    faults, jobs = _Faults(_shown(source)), []
    for number, line in _lines(source):
        try:
            jobs.append(_job(_object(line), f"line {number}"))
        except InputError as error:
            faults.add(number, error)
    faults.check()
    return jobs


def read_run(source: str, queries: Path, corpus: Path) -> list[Job]:
    """The lists of a TREC run, with the texts from two JSON-lines files.

    Args:
        source: lines ``query-id Q0 passage-id rank score tag``; ordered by score, ties as they stand.
        queries: ``{"_id" or "id": ..., "text": ...}``.
        corpus: the same with an optional ``title``.

    Raises:
        InputError: lines are wrong, or a query or passage of the run has no text.
    """
    run = _run(source)
    topics = _texts(queries, set(run), blank=False)
    texts = _texts(corpus, {name for candidates in run.values() for name in candidates}, blank=True)
    for kind, wanted, known, where in (
        ("query", run, topics, queries),
        ("passage", [name for candidates in run.values() for name in candidates], texts, corpus),
    ):
        if lost := [name for name in wanted if name not in known]:
            raise InputError(f"{len(lost)} {kind} id(s) of {_shown(source)} are not in {where}, first {lost[0]!r}")
    return [
        Job(query_id, topics[query_id].text, tuple(texts[name].replace(score=score) for name, score in scores.items()),
            f"query {query_id!r}")
        for query_id, scores in run.items()
    ]  # fmt: skip


def _run(source: str) -> dict[str, dict[str, float]]:
    """Query id to passage id to score, best first."""
    faults = _Faults(_shown(source))
    run: dict[str, dict[str, float]] = {}
    for number, line in _lines(source):
        fields = line.split()
        try:
            query_id, _, name, _, score, *_ = fields
            candidates = run.setdefault(query_id, {})
            if name in candidates:
                raise InputError(f"passage {name!r} is there twice for query {query_id!r}")
            candidates[name] = _finite(score)
        except InputError as error:
            faults.add(number, error)
        except ValueError:
            faults.add(number, f"not 'query-id Q0 passage-id rank score tag': {line.strip()!r:.80}")
    faults.check()
    return {name: dict(sorted(found.items(), key=lambda item: -item[1])) for name, found in run.items()}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"the score {text!r} is not finite")
    return value


def _texts(path: Path, wanted: set[str], *, blank: bool) -> dict[str, Passage]:
    """The wanted rows of a queries or corpus file; ``blank`` says whether a text may be empty."""
    faults, found = _Faults(str(path)), {}
    for number, line in _lines(str(path)):
        try:
            row = _object(line)
            name = _identifier(row.get("_id", row.get("id")))
            if name in wanted:
                found[name] = Passage(name, row.get("text", ""), row.get("title") or "")
                if not blank and _shows_nothing(found[name].text):
                    raise InputError(f"the text of query {name!r} is empty")
        except InputError as error:
            faults.add(number, error)
    faults.check()
    return found


def _job(row: Mapping[str, Any], where: str) -> Job:
    query, passages = row.get("query"), row.get("passages")
    if not isinstance(query, str) or _shows_nothing(query):
        raise InputError('"query" must be a string that is not empty')
    if not isinstance(passages, list):
        raise InputError('"passages" must be a list of strings or objects with "text"')
    name = _identifier(row["id"]) if "id" in row else None
    return Job(name, query, tuple(_passage(position, item) for position, item in enumerate(passages)), where)


def _passage(position: int, item: Any) -> Passage:
    if isinstance(item, str):
        return Passage(str(position), item)
    if not isinstance(item, dict) or "text" not in item:
        raise InputError(f'passage {position} must be a string or an object with "text"')
    if unknown := sorted(set(item) - set(_PASSAGE_KEYS)):
        raise InputError(f"passage {position} has unknown fields {unknown}; known are {', '.join(_PASSAGE_KEYS)}")
    given = {name: value for name, value in item.items() if value is not None or name in ("id", "text")}
    if not isinstance(given.get("metadata", {}), dict):
        raise InputError(f'passage {position}: "metadata" must be an object, got {given["metadata"]!r:.40}')
    try:
        score = _score(given.pop("score", None))
        return Passage(**{**given, "id": _identifier(item.get("id", position)), "score": score})
    except InputError as error:
        raise InputError(f"passage {position}: {error}") from error


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > sys.float_info.max:
        raise InputError(f'"score" must be a finite number, got {value!r:.40}')
    return float(value)


def _shows_nothing(query: str) -> bool:
    """What rerankers call an empty query."""
    return is_blank(clean(query))


def _identifier(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise InputError(f"an id must be a string or a whole number, got {value!r:.40}")
    return str(value)


def _object(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_no_constant, parse_float=_json_float)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
    return row


def _json_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _lines(source: str) -> Iterator[tuple[int, str]]:
    """The lines that hold anything, numbered from 1."""
    try:
        with _binary(source) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
            for number, line in enumerate(text, 1):
                if line.strip():
                    yield number, line
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{_shown(source)} cannot be read as UTF-8 text ({error})") from error


@contextmanager
def _binary(source: str) -> Iterator[IO[bytes]]:
    if source == STDIN:
        yield io.BytesIO(sys.stdin.buffer.read())
    elif not Path(source).is_file():
        raise InputError(f"There is no file {source!r}")
    elif source.endswith(".gz"):
        with gzip.open(source, "rb") as file:
            yield cast("IO[bytes]", file)
    else:
        with Path(source).open("rb") as file:
            yield file


def _shown(source: str) -> str:
    return "The standard input" if source == STDIN else source
