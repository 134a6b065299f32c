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

_TRAINERS = "rerankit (an adapter that corrects a ranking) or sentence-transformers (a whole model, by its trainer)."
_LOSSES = (
    "NAME=WEIGHT[@TEMPERATURE] (sentence-transformers: NAME), default list_nce=1, with a teacher kl=1 too; a wrong "
    "NAME lists them."
)


def cross_encoder(
    data: opt.Data,
    out: opt.Out,
    trainer: Annotated[str, typer.Option(help=_TRAINERS)] = "rerankit",
    dev: opt.Dev = None,
    corpus: opt.Corpus = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model to start from; default the embedded MiniLM.")
    ] = None,
    residual: Annotated[
        str, typer.Option(help="Reranker to correct, or none; hard negatives are among its first passages.")
    ] = "default",
    weight: Annotated[
        float, typer.Option(help="Weight of that reranker in training: logits per standard deviation of its scores.")
    ] = 1.5,
    read: Annotated[int, typer.Option(min=1, help="How many of its first passages are read.")] = 30,
    teacher: opt.Teacher = "none",
    loss: Annotated[list[str] | None, typer.Option(metavar="LOSS", help=_LOSSES)] = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA adapter.")] = 16,
    lora_layers: Annotated[int | None, typer.Option(min=1, help="Adapt only the last N layers; default all.")] = None,
    count: opt.Count = None,
    dev_count: opt.DevCount = 60,
    depth: opt.Depth = 100,
    retrieve: opt.Retrieve = False,
    first: opt.First = None,
    exclude: opt.Exclude = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest pair of question and passage, in tokens.")] = 160,
    batch: Annotated[int, typer.Option(min=1, help="Lists per step.")] = 4,
    lists: Annotated[
        int | None, typer.Option(min=1, help="Lists per epoch, drawn anew for each. Default: all.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs of question and passage per list and step.")] = 8,
    positives: Annotated[int, typer.Option(min=1, help="How many of these pairs are relevant, at most.")] = 1,
    hard: Annotated[int, typer.Option(min=1, help="Draw the others from the first N irrelevant passages.")] = 25,
    sharpness: opt.Sharpness = 2.0,
    epochs: opt.Epochs = 1,
    learning_rate: opt.LearningRate = 5e-4,
    weight_decay: opt.WeightDecay = 0.01,
    evaluate_every: opt.EvaluateEvery = None,
    patience: opt.Patience = None,
    vectors: opt.Vectors = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Cache of scores. Default: in --out.")] = None,
    dtype: opt.Dtype = "float32",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    resume: opt.Resume = True,
    as_json: JsonOption = False,
) -> None:
    """Train a cross-encoder; use it as 'cross-encoder:DIR'.

    By default this is an adapter that learns what the default ranking gets wrong. An interrupted run continues where
    it stopped.
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
