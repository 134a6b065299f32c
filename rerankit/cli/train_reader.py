"""``rerankit train reader``: an extractive reader on the user's questions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankit.cli import train_options as opt
from rerankit.cli.output import JsonOption, emit, printable, reporting, results
from rerankit.cli.training_progress import tell, training_progress

if TYPE_CHECKING:
    from rerankit.training.task import Report


def reader(
    data: Annotated[
        list[str],
        typer.Option(metavar="DIR|FILE", help="Test collection, or jsonl of question, context, answers; repeatable."),
    ],
    dev: Annotated[list[str], typer.Option(metavar="DIR|FILE", help="Data to choose the best weights by; repeatable.")],
    out: opt.Out,
    exclude: opt.Exclude = None,
    corpus: opt.Corpus = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Encoder to start from; default the embedded MiniLM.")
    ] = None,
    count: opt.Count = None,
    dev_count: opt.DevCount = 60,
    rank: Annotated[int, typer.Option("--lora-rank", "--rank", min=1, help="Rank of the LoRA adapter.")] = 16,
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Length of the windows that passages are read in, in tokens.")
    ] = 256,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step.")] = 16,
    unanswerable: Annotated[float, typer.Option(help="Unanswerable examples per answerable one.")] = 0.7,
    epochs: opt.Epochs = 2,
    learning_rate: opt.LearningRate = 5e-4,
    weight_decay: opt.WeightDecay = 0.01,
    evaluate_every: opt.EvaluateEvery = None,
    patience: opt.Patience = None,
    dtype: opt.Dtype = "float32",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    resume: opt.Resume = True,
    as_json: JsonOption = False,
) -> None:
    """Train an extractive reader, which marks the words that answer a question or abstains.

    It is a LoRA adapter on an encoder, for SpanReader and ExtractiveGenerator in Python. An interrupted run continues
    where it stopped.
    """
    with reporting(as_json):
        from rerankit.training.reader import ReaderOptions
        from rerankit.training.reader_run import ReaderRun, train_reader

        settings = opt.run_settings(
            epochs, learning_rate, weight_decay, evaluate_every, patience, dtype=dtype, device=device, seed=seed
        )
        run = ReaderRun(
            data, dev=dev, corpus=corpus, count=count, dev_count=dev_count, exclude=exclude or (),
            command=opt.command_line(), base=base,
            options=ReaderOptions(rank, 2 * rank, max_tokens, batch, unanswerable),
        )  # fmt: skip
        with training_progress() as progress:
            report, fitted = train_reader(run, settings, out, resume=resume, progress=progress, tell=tell)
        if as_json:
            best = dataclasses.asdict(report.best)
            emit(
                {
                    "output": str(out),
                    "steps": report.steps,
                    "seconds": report.seconds,
                    "best": best,
                    "ece": fitted and fitted.ece,
                }
            )
        else:
            results().print(*map(printable, _lines(report, out)), sep="\n")


def _lines(report: Report, out: Path) -> list[str]:
    best = ", ".join(f"{name} {value:.3f}" for name, value in report.best.metrics.items() if " " not in name)
    return [
        f"A reader of {report.parameters:,} trained numbers after {report.steps:,} steps, written to {out}",
        f"Best at step {report.best.step:,} on the dev data: {best}",
        f"Use it: rerankit.models.span_reader.SpanReader({str(out)!r})",
    ]
