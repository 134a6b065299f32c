"""ReplyCache: (endpoint, request) -> answer, on disk, shared by threads and processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankit.models.files import cache_folder, content_key
from rerankit.models.sqlite_file import SqliteFile

_SCHEMA = "CREATE TABLE IF NOT EXISTS replies (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, reply TEXT NOT NULL)"


class ReplyCache:
    """A sqlite file of answers.

    Args:
        path: the file; None means the user's cache folder (or ``$RERANKIT_CACHE``).
        max_entries: beyond this the oldest entries go.
        max_characters: a longer answer is not kept.

    A damaged file is put aside and a new one begun; where nothing can be written, the cache lives in memory. An entry
    that cannot be read counts as absent.
    """

    def __init__(
        self, path: str | Path | None = None, *, max_entries: int = 500_000, max_characters: int = 200_000
    ) -> None:
        self._file = SqliteFile(path if path is not None else cache_folder("replies") / "replies.sqlite", _SCHEMA)
        self.max_entries, self.max_characters = max_entries, max_characters

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @staticmethod
    def key(endpoint: str, body: Mapping[str, Any], labels: tuple[str, ...] = ()) -> bytes:
        """The identity of an answer: everything it depends on."""
        return content_key(endpoint, json.dumps(body, sort_keys=True), *labels)

    def get(self, key: bytes) -> dict[str, Any] | None:
        """The answer, if it is known."""
        rows = self._file.run("SELECT reply FROM replies WHERE key = ?", (key,))
        try:
            data = json.loads(rows[0][0]) if rows else None
        except (TypeError, ValueError, RecursionError):
            return None
        return data if isinstance(data, dict) else None

    def put(self, key: bytes, reply: Mapping[str, Any]) -> None:
        """Remember an answer; a known one is replaced."""
        text = json.dumps(reply)
        if len(text) > self.max_characters:
            return
        self._file.run("INSERT OR REPLACE INTO replies (key, reply) VALUES (?, ?)", (key, text))
        self._file.run("DELETE FROM replies WHERE id <= (SELECT max(id) FROM replies) - ?", (self.max_entries,))

    def __len__(self) -> int:
        return int(self._file.run("SELECT count(*) FROM replies")[0][0])

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self._file.close()
