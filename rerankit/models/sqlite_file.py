"""SqliteFile: a cache file that may lose entries but never fails its user.

Write-ahead logging lets readers and writers of other processes go on side by side. A damaged file is put aside and a
new one begun; where nothing can be written, the data live in memory. A file that is not sqlite's is somebody else's: it
is refused and left as it is.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rerankit.errors import InputError

logger = logging.getLogger(__name__)

_HEADER = b"SQLite format 3\0"

_MISTAKES = sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError
"""A statement or value that no file would take: no reason to put one aside."""


class SqliteFile:
    """One sqlite file, safe between threads and processes.

    Args:
        path: the file; its folder is made on demand.
        schema: a ``CREATE TABLE IF NOT EXISTS`` statement, run at every opening.

    Attributes:
        in_memory: the file could not be used, and memory took its place.

    Raises:
        InputError: the file holds something else.
    """

    def __init__(self, path: str | Path, schema: str) -> None:
        self.path, self.schema = Path(path), schema
        self.in_memory = False
        self._lock = threading.Lock()
        self._owner = 0
        self._connection: sqlite3.Connection | None = None
        _refuse_foreign(self.path)

    def run(self, sql: str, values: Sequence[Any] = (), *, many: bool = False) -> list[Any]:
        """The rows of one statement, in a transaction of its own; with ``many``, one execution per row of values.

        Trouble with the file is logged, the file mended or replaced by memory, and the statement run once more.

        Raises:
            InputError: the file holds something else by now.
            sqlite3.Error: the statement and its values do not fit the table, whatever the file.
        """
        with self._lock:
            for mend in (self._recover, self._use_memory):
                try:
                    return self._execute(sql, values, many=many)
                except _MISTAKES:
                    raise
                except sqlite3.Error as error:
                    mend(error)
            return self._execute(sql, values, many=many)

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            self._disconnect()

    def _execute(self, sql: str, values: Sequence[Any], *, many: bool) -> list[Any]:
        connection = self._open()
        with connection:
            if many:
                connection.executemany(sql, values)
                return []
            return connection.execute(sql, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():  # a forked child needs a connection of its own
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise sqlite3.OperationalError(str(error)) from error
            _refuse_foreign(self.path)
            self._connect(str(self.path))
        assert self._connection is not None  # noqa: S101 (tells the type checker)
        return self._connection

    def _connect(self, target: str) -> None:
        connection = sqlite3.connect(target, timeout=30.0, check_same_thread=False)
        try:
            _patiently(lambda: connection.execute("PRAGMA journal_mode=WAL"))
            connection.execute("PRAGMA synchronous=NORMAL")
            _patiently(lambda: connection.execute(self.schema))
            connection.commit()
        except sqlite3.Error:
            connection.close()
            raise
        self._connection, self._owner = connection, os.getpid()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _recover(self, error: sqlite3.Error) -> None:
        self._disconnect()
        if isinstance(error, sqlite3.OperationalError) or self.in_memory or not self.path.exists():
            self._use_memory(error)
            return
        aside = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
        try:
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        except OSError as held:  # no right to, or another process on Windows has it open
            self._use_memory(held)
            return
        logger.warning("The cache file %s was damaged (%s); it was moved to %s and begun anew", self.path, error, aside)

    def _use_memory(self, error: Exception) -> None:
        logger.warning("The cache file %s cannot be used (%s); caching in memory instead", self.path, error)
        self._disconnect()
        self._connect(":memory:")
        self.in_memory = True


def _refuse_foreign(path: Path) -> None:
    """Let nobody's file be taken for a damaged cache; an empty one is none yet, and a lost disk leaves zeros."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_HEADER))
    except OSError:  # not there, or sqlite will say what is wrong with it
        return
    if start.strip(b"\0") and start != _HEADER:
        raise InputError(
            f"{path} is no sqlite file, so it is left as it is: name another file for the cache, or delete this one if "
            "it was a cache"
        )


def _patiently(act: Callable[[], object], seconds: float = 30.0) -> None:
    """Try again while another process makes the same file: sqlite's own waiting does not cover a change of journal."""
    limit = time.monotonic() + seconds
    while True:
        try:
            act()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > limit:
                raise
            time.sleep(0.02)
