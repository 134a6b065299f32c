"""ScoreCache: (model, query, passage) -> score, on disk, shared by threads and processes.

A cache may lose entries but may never lose a ranking: trouble with the file is logged and worked around.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerankit.models.files import cache_folder

logger = logging.getLogger(__name__)

_SCHEMA = "CREATE TABLE IF NOT EXISTS scores (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, score REAL NOT NULL)"
_BATCH = 500  # below every sqlite build's limit on bound variables


def score_key(fingerprint: str, query: str, title: str, text: str) -> bytes:
    """The identity of one score: everything it depends on, each part length-prefixed so that none can pose as two."""
    digest = hashlib.sha256()
    for part in (fingerprint, query, title, text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


class ScoreCache:
    """A sqlite file of scores.

    Args:
        path: the file; None means the user's cache folder (or ``$RERANKIT_CACHE``).
        max_entries: beyond this the oldest entries go.

    The file uses write-ahead logging, so that readers and writers in other processes do not block one another. A
    damaged file is put aside and a new one begun; if nothing can be written, the cache lives in memory.
    """

    def __init__(self, path: str | Path | None = None, *, max_entries: int = 2_000_000) -> None:
        self.path = Path(path) if path is not None else cache_folder("scores") / "scores.sqlite"
        self.max_entries = max_entries
        self._lock = threading.Lock()
        self._owner = 0
        self._connection: sqlite3.Connection | None = None

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """The scores that are known among ``keys``."""
        found: dict[bytes, float] = {}
        with self._lock:
            for start in range(0, len(keys), _BATCH):
                part = keys[start : start + _BATCH]
                marks = ",".join("?" * len(part))
                rows = self._run(f"SELECT key, score FROM scores WHERE key IN ({marks})", part)  # noqa: S608 (marks only)
                found.update(rows)
        return found

    def put_many(self, scores: Mapping[bytes, float]) -> None:
        """Remember scores; existing entries are kept."""
        if not scores:
            return
        with self._lock:
            self._run("INSERT OR IGNORE INTO scores (key, score) VALUES (?, ?)", list(scores.items()), many=True)
            self._run("DELETE FROM scores WHERE id <= (SELECT max(id) FROM scores) - ?", (self.max_entries,))

    def __len__(self) -> int:
        with self._lock:
            return int(self._run("SELECT count(*) FROM scores")[0][0])

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _run(self, sql: str, values: Sequence[Any] = (), *, many: bool = False) -> list[Any]:
        """Execute; on a damaged or unwritable file, mend or replace the connection and try once more."""
        try:
            return self._execute(sql, values, many=many)
        except sqlite3.Error as error:
            self._recover(error)
            return self._execute(sql, values, many=many)

    def _execute(self, sql: str, values: Sequence[Any], *, many: bool) -> list[Any]:
        connection = self._open()
        with connection:
            if many:
                connection.executemany(sql, values)
                return []
            return connection.execute(sql, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():  # a forked child needs a connection of its own
            self._make_folder()
            self._connection = _connect(str(self.path))
            self._owner = os.getpid()
        return self._connection

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error

    def _recover(self, error: sqlite3.Error) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if isinstance(error, sqlite3.OperationalError) or not self.path.exists():
            logger.warning("The score cache %s cannot be used (%s); caching in memory instead", self.path, error)
            self._connection, self._owner = _connect(":memory:"), os.getpid()
            return
        aside = self.path.with_name(f"{self.path.name}.corrupt-{int(time.time())}")
        self.path.replace(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        logger.warning(
            "The score cache %s was damaged (%s); it was moved to %s and begun anew", self.path, error, aside
        )


def _connect(target: str) -> sqlite3.Connection:
    connection = sqlite3.connect(target, timeout=30.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(_SCHEMA)
        connection.commit()
    except sqlite3.Error:
        connection.close()
        raise
    return connection
