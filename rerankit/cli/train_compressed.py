"""``rerankit train compressed``: a ResRank-style model over one vector per passage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli import train_options as opt
from rerankit.cli.output import JsonOption, emit, printable, reporting, results
from rerankit.cli.training_progress import tell, training_progress

if TYPE_CHECKING:
    from rerankit.training.task import Report

_LOSSES = "[STAGE:]NAME=WEIGHT[@TEMPERATURE] in place of a stage's own losses; repeatable. A wrong NAME lists them."


def compressed(
    data: opt.Data,
    out: opt.Out,
    dev: opt.Dev = None,
    corpus: opt.Corpus = None,
    teacher: opt.Teacher = "default",
    stages: Annotated[
        str, typer.Option(help="Stages in order: one (labels), two (hard lists, teacher), joint.")
    ] = "one,two",
    loss: Annotated[list[str] | None, typer.Option(metavar="LOSS", help=_LOSSES)] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--base", "--encoder", metavar="MODEL", help="Encoder of the passages; default the embedded MiniLM."
        ),
    ] = None,
    lora_rank: Annotated[int, typer.Option(min=0, help="Rank of the encoder's LoRA adapter; 0 trains none.")] = 0,
    start: Annotated[Path | None, typer.Option(metavar="DIR", help="Trained model to start from.")] = None,
    count: opt.Count = None,
    dev_count: opt.DevCount = 200,
    depth: opt.Depth = 100,
    retrieve: opt.Retrieve = False,
    first: opt.First = None,
    exclude: opt.Exclude = None,
    width: Annotated[int, typer.Option(min=1, help="Width of the model's layers.")] = 256,
    layers: Annotated[int, typer.Option(min=1, help="Number of the model's layers.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads per layer.")] = 4,
    dropout: Annotated[float, typer.Option(help="Dropout rate in training.")] = 0.0,
    residual: Annotated[
        bool, typer.Option(help="Add to the encoder's vectors, or (for ablations) replace them.")
    ] = True,
    score_residual: Annotated[
        bool, typer.Option(help="Learn a score per passage that is added to its cosine.")
    ] = False,
    words: Annotated[bool, typer.Option(help="Read word matches (BM25) besides the vectors.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Lists per step.")] = 16,
    max_passages: Annotated[int, typer.Option(min=2, help="Most passages per list in a step.")] = 64,
    min_passages: Annotated[
        int, typer.Option(min=2, help="Fewest passages per list: lengths are drawn at random from this up.")
    ] = 16,
    sharpness: opt.Sharpness = 2.0,
    curriculum: Annotated[float, typer.Option(help="Share of the run (0 to 1) in which hard lists weigh less.")] = 0.0,
    epochs: opt.Epochs = 4,
    learning_rate: opt.LearningRate = 5e-4,
    weight_decay: opt.WeightDecay = 0.01,
    evaluate_every: opt.EvaluateEvery = None,
    patience: opt.Patience = None,
    vectors: opt.Vectors = None,
    dtype: opt.Dtype = "float32",
    device: opt.Device = "auto",
    seed: opt.Seed = 0,
    resume: opt.Resume = True,
    as_json: JsonOption = False,
) -> None:
    """Train a reranker that reads one vector per passage; use it as 'compressed:DIR'.

    It starts out as plain cosine retrieval. An interrupted run continues where it stopped.
    """
    with reporting(as_json):
        from rerankit.training.compressed import CompressedOptions
        from rerankit.training.compressed_run import CompressedRun, train_compressed

        settings = opt.run_settings(
            epochs, learning_rate, weight_decay, evaluate_every, patience, dtype=dtype, device=device, seed=seed
        )
        shape: dict[str, Any] = {"width": width, "layers": layers, "heads": heads, "dropout": dropout}
        run = CompressedRun(
            data, dev=dev or (), corpus=corpus, count=count, dev_count=dev_count, exclude=exclude or (),
            depth=depth, retrieve=retrieve, first=first, vectors=vectors or True, command=opt.command_line(),
            teacher=teacher, stages=[stage.strip() for stage in stages.split(",")], losses=loss or (),
            encoder=encoder, lora_rank=lora_rank, start=start,
            shape={**shape, "residual": residual, "score_residual": score_residual, "words": words},
            options=CompressedOptions(batch, max_passages, min_passages, sharpness, curriculum),
        )  # fmt: skip
        with training_progress() as progress:
            reports = train_compressed(run, settings, out, resume=resume, progress=progress, tell=tell)
        _show(reports, out, as_json)


def _show(reports: list[Report], out: Path, as_json: bool) -> None:
    last = reports[-1]
    if as_json:
        best = dataclasses.asdict(last.best)
        emit({"output": str(out), "steps": sum(report.steps for report in reports), "best": best})
        return
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in last.best.metrics.items())
    results().print(
        printable(f"{last.parameters:,} numbers trained, written to {out}"),
        printable(f"Dev data: {metrics} (step {last.best.step:,} of the last stage)"),
        printable(f"Use it: rerankit rank -r compressed:{out}"),
        sep="\n",
    )
