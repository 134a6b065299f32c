"""Training lists from what users did and said: a feedback log of live tests, or the assistant's memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from rerankit.errors import InputError, StoreError
from rerankit.evaluation.feedback import FeedbackLog, Impression
from rerankit.rag.feedback_prior import grades
from rerankit.rag.memory import Memory
from rerankit.rerankers.prepare import is_blank
from rerankit.training.clicks import PositionBias, Shown, graded
from rerankit.training.lists_files import Draft, Judged, grouped

__all__ = ["from_sqlite", "is_sqlite"]

_MAGIC = b"SQLite format 3\x00"
_WINDOW_S = 1800.0  # clicks that come later than half an hour are not about this list; as in live tests


def is_sqlite(path: Path) -> bool:
    """Whether the file is a sqlite database.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror or error}") from error


def from_sqlite(path: Path, position_bias: PositionBias, tell: Callable[[str], None]) -> list[Draft]:
    """Lists of a :class:`~rerankit.evaluation.feedback.FeedbackLog` or a :class:`~rerankit.rag.memory.Memory`.

    Of a log, the clicks on impressions whose query was stored; thumbs are about whole answers and say nothing about a
    passage. Of a memory, what was said about passages: a thumb is about those that the answer cites, a correction
    names those that it should have cited.

    Raises:
        InputError: the file is neither.
        StoreError: it cannot be opened.
    """
    tables = _tables(path)
    if "impressions" in tables:
        return _clicked(path, position_bias, tell)
    if "votes" in tables and "turns" in tables:
        return list(_voted(path))
    raise InputError(f"{path} is neither a feedback log nor an assistant's memory; its tables are {sorted(tables)}")


def _tables(path: Path) -> set[str]:
    """Looked up without writing: opening it as the wrong kind would add that kind's tables."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read as a sqlite file: {error}") from error


def _clicked(path: Path, position_bias: PositionBias, tell: Callable[[str], None]) -> list[Draft]:
    with FeedbackLog(path) as log:
        seen = [item for name in log.experiments() for item in log.impressions(name, window_s=_WINDOW_S)]
    usable = [_shown(item, path) for item in seen if not is_blank(item.query)]
    if silent := len(seen) - len(usable):
        tell(f"{path}: {silent} of {len(seen)} impressions were logged without their query and are left out")
    return graded(usable, path.name, position_bias)


def _shown(item: Impression, path: Path) -> Shown:
    clicked = frozenset(position for position in item.clicked if position < len(item.shown))
    return Shown(item.query, item.shown, clicked, f"{path}, impression {item.id}")


def _voted(path: Path) -> Iterator[Draft]:
    with Memory(path) as memory:
        votes = [vote for vote in memory.votes() if not is_blank(vote.question)]
    rows = (
        (vote.question, str(path), [Judged(name, float(grade)) for name, grade in grades(vote).items()])
        for vote in votes
    )
    return grouped(rows, path.name)
