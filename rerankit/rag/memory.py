"""Memory: conversations and what people thought of the answers, in one sqlite file that many processes may share."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rerankit.errors import InputError, StoreError
from rerankit.models.database import connect

__all__ = ["Kind", "Memory", "Remembered", "Vote"]

Kind = Literal["answer", "abstention", "question"]
"""What a turn ended in: an answer, the admission that there is none, or a question back."""

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS turns (
    id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL, conversation TEXT NOT NULL, time REAL NOT NULL,
    question TEXT NOT NULL, standalone TEXT NOT NULL, kind TEXT NOT NULL, answer TEXT NOT NULL, topic TEXT NOT NULL,
    shown TEXT NOT NULL, cited TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_conversation ON turns (user, conversation, id);
CREATE TABLE IF NOT EXISTS votes (
    turn INTEGER PRIMARY KEY REFERENCES turns (id) ON DELETE CASCADE, helpful INTEGER, correction TEXT NOT NULL,
    passages TEXT NOT NULL, time REAL NOT NULL);
"""
_LONGEST_NAME, _LONGEST_TEXT = 200, 20_000


@dataclass(frozen=True, slots=True)
class Remembered:
    """One turn of a conversation.

    Attributes:
        id: for feedback about it.
        question: as it was asked.
        standalone: as it was understood.
        kind: what it ended in.
        answer: what was said.
        topic: title of the passage that it rests on most; may be empty.
        time: seconds since 1970.
    """

    id: int
    question: str
    standalone: str
    kind: Kind
    answer: str
    topic: str
    time: float


@dataclass(frozen=True, slots=True)
class Vote:
    """Feedback about one turn.

    Attributes:
        user: who gave it.
        question: standalone.
        shown, cited: passage ids of the context, and those that the answer cites.
        helpful: thumb up or down; None if only a correction was given.
        correction: what the answer should have been; may be empty.
        passages: ids that should have been cited.
        time: seconds since 1970.
    """

    user: str
    question: str
    shown: tuple[str, ...]
    cited: tuple[str, ...]
    helpful: bool | None
    correction: str
    passages: tuple[str, ...]
    time: float


class Memory:
    """A sqlite file of conversations and feedback; safe between threads and processes (write-ahead logging).

    Users and conversations are told apart by names, which are data and never paths. A user's oldest turns, with their
    feedback, are forgotten when there are more than ``max_turns``. Texts are cut at 20,000 characters.

    Args:
        path: the file, created with its folder when absent; ``":memory:"`` lives as long as the object.
        max_turns: turns that are kept per user.

    Raises:
        InputError: ``max_turns`` is less than 1.
        StoreError: the file cannot be opened, is no such memory, or was written by another version.
    """

    def __init__(self, path: str | Path = ":memory:", *, max_turns: int = 1000) -> None:
        if max_turns < 1:
            raise InputError(f"max_turns must be at least 1, got {max_turns}")
        self.path, self.max_turns = str(path), max_turns
        self._lock = threading.Lock()
        self._owner = 0
        self._connection: sqlite3.Connection | None = None
        self._run("SELECT 1")

    def add(
        self,
        user: str,
        conversation: str,
        question: str,
        standalone: str,
        kind: Kind,
        answer: str,
        *,
        topic: str = "",
        shown: Sequence[str] = (),
        cited: Sequence[str] = (),
    ) -> int:
        """Keep a turn; returns its id.

        Raises:
            InputError: a name is no string of at most 200 characters.
            StoreError: the file cannot be written.
        """
        texts = [text[:_LONGEST_TEXT] for text in (question, standalone, kind, answer, topic)]
        values = (_name(user), _name(conversation), time.time(), *texts, json.dumps([*shown]), json.dumps([*cited]))
        columns = "user, conversation, time, question, standalone, kind, answer, topic, shown, cited"
        sql = f"INSERT INTO turns ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"  # noqa: S608 (constant)
        number = int(self._run(sql, values)[0][0])
        self._run(
            "DELETE FROM turns WHERE user = ? AND id <= "
            "(SELECT id FROM turns WHERE user = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (user, user, self.max_turns),
        )
        return number

    def history(self, user: str, conversation: str, *, limit: int = 6) -> list[Remembered]:
        """The last turns of a conversation, oldest first.

        Raises:
            InputError: a name is no string of at most 200 characters.
        """
        columns = "id, question, standalone, kind, answer, topic, time"
        sql = f"SELECT {columns} FROM turns WHERE user = ? AND conversation = ? ORDER BY id DESC LIMIT ?"  # noqa: S608
        return [Remembered(*row) for row in reversed(self._run(sql, (_name(user), _name(conversation), limit)))]

    def conversations(self, user: str) -> list[str]:
        """The names of a user's conversations, the latest first."""
        sql = "SELECT conversation FROM turns WHERE user = ? GROUP BY conversation ORDER BY max(id) DESC"
        return [row[0] for row in self._run(sql, (_name(user),))]

    def forget(self, user: str, conversation: str | None = None) -> int:
        """Delete one conversation, or all of a user's, feedback included; returns how many turns that were.

        The texts are overwritten in the file, and its write-ahead log is emptied unless another process is in the
        midst of reading it.

        Raises:
            InputError: a name is no string of at most 200 characters.
            StoreError: the file cannot be written.
        """
        sql, values = "DELETE FROM turns WHERE user = ?", [_name(user)]
        if conversation is not None:
            sql, values = f"{sql} AND conversation = ?", [*values, _name(conversation)]
        count = len(self._run(f"{sql} RETURNING id", values))
        self._run("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    def vote(
        self,
        turn: int,
        user: str,
        *,
        helpful: bool | None = None,
        correction: str = "",
        passages: Sequence[str] = (),
    ) -> None:
        """Keep feedback about a turn; what is given replaces what was said before, the rest stays.

        Args:
            turn: its id.
            user: whose turn it is; nobody else may judge it.
            helpful: thumb up or down.
            correction: what the answer should have been.
            passages: ids that should have been cited.

        Raises:
            InputError: nothing is said, something is of the wrong type or holds lone surrogates, or this user has no
                such turn.
        """
        _check_feedback(helpful, correction, passages)
        if helpful is None and not correction.strip() and not passages:
            raise InputError("Feedback is a thumb (helpful), a correction, or the passages that answer; got none")
        known = isinstance(turn, int) and abs(turn) < 2**63
        if not known or not self._run("SELECT 1 FROM turns WHERE id = ? AND user = ?", (turn, _name(user))):
            raise InputError(f"There is no turn {turn!r:.40} of this user; it may have been forgotten")
        thumb = None if helpful is None else int(helpful)
        values = (turn, thumb, correction[:_LONGEST_TEXT], json.dumps([*passages]), time.time())
        self._run(
            "INSERT INTO votes (turn, helpful, correction, passages, time) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (turn) DO UPDATE SET helpful = coalesce(excluded.helpful, helpful), "
            "correction = iif(excluded.correction = '', correction, excluded.correction), "
            "passages = iif(excluded.passages = '[]', passages, excluded.passages), time = excluded.time",
            values,
        )

    def votes(self, *, limit: int = -1) -> Iterator[Vote]:
        """Feedback, oldest first; the latest ``limit`` votes if that is not negative."""
        columns = "user, standalone, shown, cited, helpful, correction, passages, votes.time"
        tables = "votes JOIN turns ON turns.id = votes.turn"
        sql = f"SELECT {columns} FROM {tables} ORDER BY votes.time DESC, turn DESC LIMIT ?"  # noqa: S608 (constant)
        for user, question, shown, cited, helpful, correction, passages, at in reversed(self._run(sql, (limit,))):
            ids = [tuple(json.loads(column)) for column in (shown, cited, passages)]
            thumb = None if helpful is None else bool(helpful)
            yield Vote(user, question, ids[0], ids[1], thumb, correction, ids[2], at)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            try:
                connection = self._open()
                with connection:
                    return connection.execute(sql, values).fetchall()
            except UnicodeEncodeError as error:
                raise InputError(f"The memory stores no lone surrogates, got {error.object!r:.80}") from error
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"The memory {self.path} cannot be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():  # a forked child needs a connection of its own
            if self.path != ":memory:":
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._connection, self._owner = connect(self.path, _SCHEMA, _VERSION, "memory"), os.getpid()
        return self._connection


def _name(value: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME:
        raise InputError(f"A user or conversation is a string of at most {_LONGEST_NAME} characters, got {value!r:.60}")
    return value


def _check_feedback(helpful: object, correction: object, passages: object) -> None:
    if not (helpful is None or isinstance(helpful, bool)):
        raise InputError(f"helpful is True, False or None, got {helpful!r:.60}")
    if not isinstance(correction, str):
        raise InputError(f"The correction is a string, got {correction!r:.60}")
    if isinstance(passages, str) or not isinstance(passages, Sequence):
        raise InputError(f"passages is a list of passage ids, got {passages!r:.60}")
    for passage in passages:
        if not isinstance(passage, str) or not _is_unicode(passage):  # JSON would hide what sqlite refuses
            raise InputError(f"A passage id is a string without lone surrogates, got {passage!r:.60}")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
