"""Where ``rerankit rank`` writes: stdout, or a file that appears only when it is complete."""

from __future__ import annotations

import gzip
import io
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from rerankit.errors import InputError


def check_target(output: Path) -> None:
    """Notice early what would fail at the end.

    Raises:
        InputError: no file can be made there.
    """
    if output.is_dir():
        raise InputError(f"{output} is a folder; name a file to write")
    if not output.absolute().parent.is_dir():
        raise InputError(f"There is no folder {output.parent} to write {output.name} into")


@contextmanager
def sink(output: Path | None) -> Iterator[TextIO]:
    """Stdout, or ``output``, compressed if its name ends in ``.gz``; a failure leaves what was there before."""
    if output is None:
        yield sys.stdout
    elif output.exists() and not output.is_file():  # a device or a pipe: nothing to put in its place
        with output.open("wb") as raw, _text(raw, output) as file:
            yield file
    else:
        target = output.resolve()
        partial = target.with_name(f".rerankit-{uuid.uuid4().hex}.partial")  # of this run alone
        try:
            with partial.open("xb") as raw, _text(raw, output) as file:
                yield file
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _text(raw: BinaryIO, output: Path) -> Iterator[TextIO]:
    if output.suffix != ".gz":
        with io.TextIOWrapper(raw, encoding="utf-8") as file:
            yield file
        return
    # Without a name and a time in it, so that the same rankings make the same file.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(cast("BinaryIO", packed), encoding="utf-8") as file,
    ):
        yield file
