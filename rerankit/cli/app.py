"""The commands put together, and the way into them.

Exit status: 0 done (an abstaining answer too), 1 an error, told in one line, 2 wrong usage,
3 a gate of ``compare`` that did not hold, 130 interrupted.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

import rerankit
from rerankit.cli import (
    ask,
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    index,
    label,
    mcp,
    models,
    questions,
    rank,
    serve,
    train,
)
from rerankit.cli.output import reporting, show_log

app = typer.Typer(
    name="rerankit",
    help="The reranking layer of RAG: order what retrieval found, say how sure, answer with citations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ask")(ask.ask)
app.command("index")(index.index)
app.command("rank")(rank.rank)
app.command("compare")(compare.compare)
app.command("explain")(explain.explain)
app.command("eval")(evaluate.evaluate)
app.command("questions")(questions.questions)
app.command("label")(label.label)
app.command("serve")(serve.serve)
app.command("mcp")(mcp.mcp)
app.command("demo")(demo.demo)
app.add_typer(train.app, name="train")
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rerankit {rerankit.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what rerankit logs, on stderr.")] = False,
) -> None:
    """Options that stand before the command."""
    show_log(verbose=verbose)


def main() -> None:
    """The entry point ``rerankit``."""
    if sys.stdout is None:  # closed: the next file that is opened would get its number, and what is printed
        sys.exit("Error: The standard output is closed; nothing can be shown")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII only shows ? and does not fail
    try:
        with reporting(as_json=False):  # of what goes wrong outside commands, such as help into a full disk
            app()
    except typer.Exit as end:
        sys.exit(end.exit_code)
