"""Files of JSON rows that grow by a line at a time, so that a killed process loses nothing that was written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rerankit.errors import InputError, StoreError

__all__ = ["append_row", "whole_lines"]


def whole_lines(path: Path, head: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """Numbered lines of such a file that hold anything; the end is mended once all of them have been taken.

    Half a line, which a killed process leaves, is cut off. A last line that lacks only its end, which an editor leaves,
    is given and ended. A caller that stops at a line it refuses leaves the file as it is.

    Args:
        path: the file.
        head: how every line begins that is written here; what is cut off must begin so too.

    Raises:
        InputError: the last line is neither whole nor the beginning of such a one; it is left as it is.
        StoreError: the file cannot be read or mended.
    """
    size, line = 0, b"\n"
    try:
        with path.open("rb+") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and not _is_json(line):
                    if not (line.startswith(head) or head.startswith(line)):
                        raise InputError(f"{path}, line {number}: neither whole nor what a stopped call left; mend it, "
                                         "or write to another file")  # fmt: skip
                    file.truncate(size)
                    return
                size += len(line)
                if line.strip():
                    yield number, line
            if not line.endswith(b"\n"):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
    except OSError as error:
        raise StoreError(f"Cannot go on with {path}: {error.strerror or error}") from error


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row.

    Raises:
        StoreError: the disk is full or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(json.dumps(row).encode() + b"\n")
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror or error}. Run again to go on") from error


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
