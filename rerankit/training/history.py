"""The history of a run: one line of JSON per step and per evaluation, on the disk at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankit.models.files import write_atomically, writing

__all__ = ["History"]


class History:
    """Reads and writes ``history.jsonl``.

    Args:
        path: the file. Without :meth:`resume` it starts empty.

    Attributes:
        rows: all of them, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def resume(self, step: int, evaluated: int) -> None:
        """Keep what was written up to a checkpoint; the rest is done again.

        Args:
            step: the checkpoint's last step.
            evaluated: step of its last evaluation.
        """
        if self.path.is_file():
            rows = filter(None, map(_row, self.path.read_text("utf-8", errors="replace").splitlines()))
            self.rows = [row for row in rows if row["step"] <= (evaluated if "metrics" in row else step)]
        self.begin()

    def begin(self) -> None:
        """Write the rows so far."""
        write_atomically(self.path, "".join(map(_line, self.rows)))

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        self.rows.append(dict(row))
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_line(row))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _row(line: str) -> dict[str, Any] | None:
    """A row, None if the line is torn."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
