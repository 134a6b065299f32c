"""What all commands share: where results, messages and errors go, and in which form.

Results go to stdout, everything else to stderr. With ``--json`` a command writes exactly one JSON object to stdout:
its result, or ``{"error": {"type": ..., "message": ...}}``, which has its line on stderr too.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rerankit.errors import RerankitError

if TYPE_CHECKING:
    from rich.console import Console

ERROR = 1
GATE = 3

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout and nothing else.")]


def _deadline(seconds: float | None) -> float | None:
    if seconds is not None and not 0 < seconds < math.inf:
        raise typer.BadParameter("must be a number of seconds above zero")
    return seconds


DeadlineOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", callback=_deadline, help="Time limit per query; then the best order so far is used."
    ),
]

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

    stream = sys.stderr if stderr else sys.stdout
    plain: dict[str, Any] = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    if stream is not None and stream.isatty():
        return Console(**plain)
    # FORCE_COLOR asks for colours, but rich would take it for a terminal and animate in a file or pipe.
    return Console(**plain, force_terminal=False, color_system="standard" if os.environ.get("FORCE_COLOR") else None)


def results() -> Console:
    """The console on stdout."""
    return _console(stderr=False)


def messages() -> Console:
    """The console on stderr."""
    return _console(stderr=True)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while things are done; gives the function that is told how many more are."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages(), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn an error into one line on stderr, under ``--json`` an object on stdout too, and exit status 1."""
    try:
        yield
        sys.stdout.flush()  # a full disk is this command's error, not that of the interpreter's end
    except (BrokenPipeError, typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except (RerankitError, OSError) as error:
        _fail(error, printable(str(error)), as_json)
    except Exception as error:  # whatever else it is, who reads the JSON must be told
        name = f"{type(error).__name__}: {printable(str(error))}"
        _fail(error, f"Unexpected {name} (rerankit --verbose shows where; please report it)", as_json)


def _fail(error: Exception, line: str, as_json: bool) -> NoReturn:
    if as_json:
        with suppress(OSError):
            emit({"error": {"type": type(error).__name__, "message": printable(str(error))}})
    if logging.getLogger("rerankit").isEnabledFor(logging.DEBUG):
        for part in "".join(traceback.format_exception(error)).splitlines():
            typer.echo(printable(part), err=True)
    typer.echo(f"Error: {line}", err=True)
    try:
        sys.stdout.flush()
    except OSError:  # what it still holds must not fail again at the interpreter's end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
