"""Opening a sqlite file that holds what users said: kept for good, so never recreated, unlike a cache."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rerankit.errors import StoreError

__all__ = ["connect"]


def connect(path: str | Path, schema: str, version: int, what: str) -> sqlite3.Connection:
    """A connection to the file, made with ``schema`` where it is new; usable from any thread.

    Args:
        path: the file, or ``:memory:``.
        schema: statements that may be run again.
        version: of the schema.
        what: the file's name in messages, such as ``feedback log``.

    Raises:
        StoreError: another version of rerankit wrote the file.
        sqlite3.Error: it cannot be opened, or is no database.
    """
    connection = sqlite3.connect(path, timeout=30.0, check_same_thread=False)
    try:
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, version):
            raise StoreError(
                f"The {what} {path} has version {found}, this rerankit writes version {version}: "
                "use another file or another rerankit"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only unlinked
        connection.executescript(schema)
        connection.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        connection.close()
        raise
    return connection
