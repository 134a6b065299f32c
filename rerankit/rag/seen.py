"""Ids that were met, on disk, so that millions of them cost no memory."""

from __future__ import annotations

import sqlite3

__all__ = ["Seen"]


class Seen:
    """Ids, each with a note of where or what it was when it was first met. A context manager."""

    def __enter__(self) -> Seen:
        # A private file that SQLite deletes itself. A generator that holds it may be continued by another thread.
        self._rows = sqlite3.connect("", check_same_thread=False)
        self._rows.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, note TEXT) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def add(self, key: str, note: str) -> str | None:
        """None if ``key`` is new; else the note it was first met with, which stays."""
        if self._rows.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, note)).rowcount:
            return None
        (before,) = self._rows.execute("SELECT note FROM seen WHERE id = ?", (key,)).fetchone()
        return str(before)

    def __contains__(self, key: str) -> bool:
        return self._rows.execute("SELECT 1 FROM seen WHERE id = ?", (key,)).fetchone() is not None
