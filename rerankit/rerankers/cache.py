"""ScoreCache: (model, query, passage) -> score, on disk, shared by threads and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rerankit.models.files import cache_folder, content_key
from rerankit.models.sqlite_file import SqliteFile

_SCHEMA = "CREATE TABLE IF NOT EXISTS scores (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, score REAL NOT NULL)"
_BATCH = 500  # below every sqlite build's limit on bound variables


def score_key(fingerprint: str, query: str, title: str, text: str, vector: str = "") -> bytes:
    """The identity of one score: everything it depends on. ``vector`` is for families that read stored vectors."""
    return content_key(fingerprint, query, title, text, vector)


class ScoreCache:
    """A sqlite file of scores.

    Args:
        path: the file; None means the user's cache folder (or ``$RERANKIT_CACHE``).
        max_entries: beyond this the oldest entries go.

    A cache may lose entries but may never lose a ranking: a damaged file is put aside and a new one begun, and where
    nothing can be written, the cache lives in memory.
    """

    def __init__(self, path: str | Path | None = None, *, max_entries: int = 2_000_000) -> None:
        self._file = SqliteFile(path if path is not None else cache_folder("scores") / "scores.sqlite", _SCHEMA)
        self.max_entries = max_entries

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """The scores that are known among ``keys``."""
        found: dict[bytes, float] = {}
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            marks = ",".join("?" * len(part))
            found.update(self._file.run(f"SELECT key, score FROM scores WHERE key IN ({marks})", part))  # noqa: S608 (marks only)
        return {key: score for key, score in found.items() if isinstance(score, float) and math.isfinite(score)}

    def put_many(self, scores: Mapping[bytes, float]) -> None:
        """Remember scores; a known one is replaced, one that is no finite number is left out."""
        rows = [(key, score) for key, score in scores.items() if math.isfinite(score)]
        if not rows:
            return
        self._file.run("INSERT OR REPLACE INTO scores (key, score) VALUES (?, ?)", rows, many=True)
        self._file.run("DELETE FROM scores WHERE id <= (SELECT max(id) FROM scores) - ?", (self.max_entries,))

    def __len__(self) -> int:
        return int(self._file.run("SELECT count(*) FROM scores")[0][0])

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        self._file.close()
