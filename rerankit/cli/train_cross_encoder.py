"""``rerankit train cross-encoder``: a cross-encoder on the user's lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankit.cli import train_options as opt
from rerankit.cli.output import JsonOption, emit, printable, reporting, results
from rerankit.cli.training_progress import tell, training_progress

if TYPE_CHECKING:
    from rerankit.training.cross_encoder_run import CrossEncoderRun
    from rerankit.training.task import Settings

_TRAINERS = "rerankit: an adapter that corrects a ranking. sentence-transformers: a whole model, by their trainer."
_LOSSES = (
    "Repeatable: NAME=WEIGHT[@TEMPERATURE], default list_nce=1; a wrong NAME lists them. Of the other trainer: NAME."
)


def cross_encoder(
    data: opt.Data,
    out: opt.Out,
    trainer: Annotated[str, typer.Option(help=_TRAINERS)] = "rerankit",
    dev: opt.Dev = None,
    corpus: opt.Corpus = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="To start from; default the embedded MiniLM.")
    ] = None,
    residual: Annotated[
        str, typer.Option(help="Ranking to correct, or none; its first passages are the hard negatives.")
    ] = "default",
    weight: Annotated[float, typer.Option(help="Logits that its standard deviation is worth in training.")] = 1.5,
    read: Annotated[int, typer.Option(min=1, help="Its first passages that are read.")] = 30,
    teacher: opt.Teacher = "none",
    loss: Annotated[list[str] | None, typer.Option(metavar="LOSS", help=_LOSSES)] = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 16,
    lora_layers: Annotated[int | None, typer.Option(min=1, help="Only the last so many layers; default all.")] = None,
    count: opt.Count = None,
    dev_count: opt.DevCount = 60,
    depth: opt.Depth = 100,
    retrieve: opt.Retrieve = False,
    first: opt.First = None,
    exclude: opt.Exclude = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="Length of a pair.")] = 160,
    batch: Annotated[int, typer.Option(min=1, help="Lists per step.")] = 4,
    lists: Annotated[int | None, typer.Option(min=1, help="Per epoch, drawn anew for each. Default: all.")] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs per list.")] = 8,
    positives: Annotated[int, typer.Option(min=1, help="Most of them that are relevant.")] = 1,
    hard: Annotated[int, typer.Option(min=1, help="The others come from so many first wrong ones.")] = 25,
    sharpness: opt.Sharpness = 2.0,
    epochs: opt.Epochs = 1,
    learning_rate: opt.LearningRate = 5e-4,
    weight_decay: opt.WeightDecay = 0.01,
    evaluate_every: opt.EvaluateEvery = None,
    patience: opt.Patience = None,
    vectors: opt.Vectors = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps scores. Default: in the output.")] = None,
    dtype: opt.Dtype = "float32",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    resume: opt.Resume = True,
    as_json: JsonOption = False,
) -> None:
    """Train a cross-encoder, for 'cross-encoder:DIR'.

    By default an adapter that learns what the default ranking gets wrong. A run that was broken off goes on where it
    stopped.
    """
    with reporting(as_json):
        from rerankit.checks import check_choice
        from rerankit.training.cross_encoder import CrossEncoderOptions
        from rerankit.training.cross_encoder_data import Pairs
        from rerankit.training.cross_encoder_run import CrossEncoderRun

        check_choice("trainer", trainer, ("rerankit", "sentence-transformers"))
        settings = opt.run_settings(
            epochs, learning_rate, weight_decay, evaluate_every, patience, dtype=dtype, device=device, seed=seed
        )
        drawn = Pairs(pairs, positives, hard)
        run = CrossEncoderRun(
            data, dev=dev or (), corpus=corpus, count=count, dev_count=dev_count, exclude=exclude or (),
            depth=depth, retrieve=retrieve, first=first, vectors=vectors or True, command=opt.command_line(),
            cache=cache, base=base, residual=residual, teacher=teacher, losses=loss or (), max_tokens=max_tokens,
            options=CrossEncoderOptions(lora_rank, lora_layers, batch, drawn, weight, read, sharpness, lists),
        )  # fmt: skip
        train = _by_rerankit if trainer == "rerankit" else _by_sentence_transformers
        steps, dev_metrics, more = train(run, settings, out, resume=resume)
        if as_json:
            emit({"output": str(out), "steps": steps, **more, "dev": dev_metrics})
        else:
            _show(steps, dev_metrics, out)


Trained = tuple[int, dict[str, float], dict[str, object]]
"""Steps, dev metrics, and what else there is to say in JSON."""


def _by_rerankit(run: CrossEncoderRun, settings: Settings, out: Path, *, resume: bool) -> Trained:
    from rerankit.training.cross_encoder_run import train_cross_encoder

    with training_progress() as progress:
        report, metrics = train_cross_encoder(run, settings, out, resume=resume, progress=progress, tell=tell)
    return report.steps, metrics, {"best": dataclasses.asdict(report.best)}


def _by_sentence_transformers(run: CrossEncoderRun, settings: Settings, out: Path, *, resume: bool) -> Trained:
    from rerankit.training.cross_encoder_st import train_with_sentence_transformers

    steps, metrics = train_with_sentence_transformers(run, settings, out, resume=resume, tell=tell)
    return steps, metrics, {}


def _show(steps: int, dev: Mapping[str, float], out: Path) -> None:
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in dev.items())
    results().print(
        printable(f"Trained in {steps:,} steps, written to {out}"),
        printable(f"Dev data: {metrics}"),
        printable(f"Use it: rerankit rank -r cross-encoder:{out}"),
        sep="\n",
    )
