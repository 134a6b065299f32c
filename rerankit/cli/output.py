"""What all commands share: where results, messages and errors go, and in which form.

Results go to stdout, everything else to stderr. With ``--json`` a command writes exactly one JSON object to stdout:
its result, or ``{"error": {"type": ..., "message": ...}}``.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.errors import RerankitError

if TYPE_CHECKING:
    from rich.console import Console

ERROR = 1
GATE = 3
INTERRUPTED = 130

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]

_HOSTILE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, direction overrides and lone surrogates: what a terminal could obey or choke on."""


def printable(text: str) -> str:
    """``text`` with every character that a terminal might obey replaced by a space, so that offsets stay right."""
    return _HOSTILE.sub(" ", text)


def to_json(value: Any) -> str:
    """Strict JSON on one line, readable where the output is UTF-8 and safe to show on a terminal."""
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    text = json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, default=str)
    return _HOSTILE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def emit(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout."""
    typer.echo(to_json(value))


@functools.cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def results() -> Console:
    """The console on stdout."""
    return _console(stderr=False)


def messages() -> Console:
    """The console on stderr."""
    return _console(stderr=True)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn an expected error into one line on stderr, under ``--json`` an object on stdout too, and exit status 1."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (RerankitError, OSError) as error:
        message = printable(str(error))
        if as_json:
            emit({"error": {"type": type(error).__name__, "message": message}})
        typer.echo(f"Error: {message}", err=True)
        raise typer.Exit(ERROR) from error


class _Warnings(logging.Handler):
    """Log records of the library as lines on whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(f"{record.levelname.capitalize()}: {printable(record.getMessage())}", err=True)


def show_log(*, verbose: bool) -> None:
    """Send the library's warnings, with ``verbose`` all its messages, to stderr."""
    logger = logging.getLogger("rerankit")
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    if not any(isinstance(handler, _Warnings) for handler in logger.handlers):
        logger.addHandler(_Warnings())
