"""``rerankit train reader``: an extractive reader on the user's questions."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankit.cli.output import JsonOption, emit, messages, printable, reporting, results

if TYPE_CHECKING:
    from rerankit.rerankers.calibration_fit import Quality
    from rerankit.training.reader_run import ReaderRun
    from rerankit.training.task import Report, Settings


def reader(
    data: Annotated[
        list[str],
        typer.Option(metavar="DIR|FILE", help="Test collections, or jsonl of question, context, answers; repeatable."),
    ],
    dev: Annotated[list[str], typer.Option(metavar="DIR|FILE", help="The same, of other domains; repeatable.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the reader goes.")],
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Collections that must not be trained on; repeatable.")
    ] = None,
    corpus: Annotated[Path | None, typer.Option(metavar="FILE", help="Passages, where files hold questions.")] = None,
    base: Annotated[str | None, typer.Option(metavar="MODEL", help="Encoder; default the embedded MiniLM.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Answerable examples per source, at most.")] = None,
    dev_count: Annotated[int, typer.Option(min=1, help="The same of the dev data.")] = 60,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of a window.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step.")] = 16,
    unanswerable: Annotated[float, typer.Option(help="Unanswerable examples per answerable one.")] = 0.7,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="The highest.")] = 5e-4,
    evaluate_every: Annotated[int | None, typer.Option(min=1, help="Steps; default once per epoch.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Evaluations without a new best; then stop.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 (mixed), float16 (mixed, CUDA).")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    fresh: Annotated[bool, typer.Option(help="Throw away the checkpoint of an earlier run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train an extractive reader: answer spans and abstention, for SpanReader and ExtractiveGenerator.

    A low-rank adapter on an encoder. A run that was broken off goes on where it stopped.
    """
    with reporting(as_json):
        from rerankit.training.reader import ReaderOptions
        from rerankit.training.reader_run import ReaderRun
        from rerankit.training.task import Settings

        settings = Settings(
            epochs=epochs,
            learning_rate=learning_rate,
            evaluate_every=evaluate_every,
            patience=patience,
            checkpoint_every=evaluate_every,
            dtype=dtype,
            device=device,
            seed=seed,
        )
        run = ReaderRun(
            data,
            dev,
            tuple(exclude or ()),
            corpus,
            base,
            count,
            dev_count,
            ReaderOptions(rank, 2 * rank, max_tokens, batch, unanswerable),
            _command(),
        )
        report, fitted = _trained(run, settings, out, resume=not fresh)
        if as_json:
            best = dataclasses.asdict(report.best)
            emit(
                {"output": str(out), "steps": report.steps, "seconds": report.seconds, "best": best, "ece": fitted.ece}
            )
        else:
            results().print(*map(printable, _lines(report, out)), sep="\n")


def _command() -> str:
    """This command as it was typed."""
    return shlex.join(["rerankit", *sys.argv[1:]])


def _trained(run: ReaderRun, settings: Settings, out: Path, *, resume: bool) -> tuple[Report, Quality]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from rerankit.training.reader_run import train_reader
    from rerankit.training.task import Moment

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages(), transient=True) as bar:
        task = bar.add_task("preparing", total=None)

        def show(moment: Moment) -> None:
            best = f", best {moment.best.value:.3f}" if moment.best else ""
            loss = f"loss {moment.losses['loss']:.3f}" if moment.losses else "evaluated"
            said = f"step {moment.step} of {moment.steps}: {loss}{best}"
            bar.update(task, completed=moment.step, total=moment.steps, description=said)

        return train_reader(run, settings, out, resume=resume, progress=show)


def _lines(report: Report, out: Path) -> list[str]:
    best = ", ".join(f"{name} {value:.3f}" for name, value in report.best.metrics.items() if " " not in name)
    return [
        f"A reader of {report.parameters:,} trained numbers after {report.steps:,} steps, written to {out}",
        f"Best at step {report.best.step:,} on the dev data: {best}",
        f"Use it: rerankit.models.span_reader.SpanReader({str(out)!r})",
    ]
