"""``rerankit train compressed``: a ResRank-style model over one vector per passage."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.output import JsonOption, emit, messages, printable, reporting, results
from rerankit.cli.training_progress import training_progress

if TYPE_CHECKING:
    from rerankit.training.task import Report

_LOSSES = "Repeatable: [STAGE:]NAME=WEIGHT[@TEMPERATURE], instead of the stages' own; a wrong NAME lists them."


def compressed(
    data: Annotated[
        list[str], typer.Option(metavar="DIR|FILE", help="Test collections or jsonl of lists, clicks, ratings; repeat.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the model goes.")],
    dev: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR|FILE", help="The same, of other domains; repeat. Default: a tenth of the data."),
    ] = None,
    corpus: Annotated[Path | None, typer.Option(metavar="FILE", help="Passages, where files name their ids.")] = None,
    teacher: Annotated[str, typer.Option(metavar="SPEC", help="Reranker to learn from, or none.")] = "default",
    stages: Annotated[str, typer.Option(help="In order: one (labels), two (hard lists, teacher), joint.")] = "one,two",
    loss: Annotated[list[str] | None, typer.Option(metavar="LOSS", help=_LOSSES)] = None,
    encoder: Annotated[str | None, typer.Option(metavar="MODEL", help="Default: the embedded MiniLM.")] = None,
    lora_rank: Annotated[int, typer.Option(min=0, help="Of the encoder's adapter; 0 leaves the encoder alone.")] = 0,
    start: Annotated[Path | None, typer.Option(metavar="DIR", help="A model to go on from.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Most lists per source.")] = None,
    dev_count: Annotated[int, typer.Option(min=1, help="The same of the dev data.")] = 200,
    depth: Annotated[int, typer.Option(min=1, help="First-stage passages per list of a collection.")] = 100,
    retrieve: Annotated[
        bool, typer.Option(help="Search collections with the encoder; else their recorded runs.")
    ] = False,
    first: Annotated[int | None, typer.Option(min=1, help="Of a larger corpus, search so many passages.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Collections of which nothing may be trained on; repeat.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Of the model.")] = 256,
    layers: Annotated[int, typer.Option(min=1, help="Of the model.")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads per layer.")] = 4,
    dropout: Annotated[float, typer.Option(help="In training.")] = 0.0,
    residual: Annotated[bool, typer.Option(help="Add to the encoder's vectors, or (ablation) replace them.")] = True,
    score_residual: Annotated[bool, typer.Option(help="Learn a number per passage beside its cosine.")] = False,
    words: Annotated[bool, typer.Option(help="Read word matches (BM25) beside the vectors.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Lists per step.")] = 16,
    max_passages: Annotated[int, typer.Option(min=2, help="Most passages of a list in a step.")] = 64,
    min_passages: Annotated[int, typer.Option(min=2, help="Lists are cut to random lengths from this.")] = 16,
    sharpness: Annotated[float, typer.Option(help="Of the teacher's scores.")] = 2.0,
    curriculum: Annotated[float, typer.Option(help="Share of the run in which hard lists weigh less.")] = 0.0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data, per stage.")] = 4,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="The highest.")] = 5e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.01,
    evaluate_every: Annotated[int | None, typer.Option(min=1, help="Steps; default once per epoch.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Evaluations without a new best; then stop.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps the encoder's vectors. Default: the user's cache.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 (mixed), float16 (mixed, CUDA).")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from an earlier run, or begin anew.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Train a reranker over one vector per passage, for 'compressed:DIR'.

    It begins as plain cosine retrieval. A run that was broken off goes on where it stopped.
    """
    with reporting(as_json):
        from rerankit.training.compressed import CompressedOptions
        from rerankit.training.compressed_run import CompressedRun, train_compressed
        from rerankit.training.task import Settings

        settings = Settings(
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            evaluate_every=evaluate_every,
            checkpoint_every=evaluate_every,
            patience=patience,
            dtype=dtype,
            device=device,
            seed=seed,
        )
        shape: dict[str, Any] = {"width": width, "layers": layers, "heads": heads, "dropout": dropout}
        run = CompressedRun(
            data=data,
            dev=dev or (),
            corpus=corpus,
            count=count,
            dev_count=dev_count,
            depth=depth,
            retrieve=retrieve,
            first=first,
            exclude=exclude or (),
            teacher=teacher,
            stages=[stage.strip() for stage in stages.split(",")],
            losses=loss or (),
            encoder=encoder,
            lora_rank=lora_rank,
            start=start,
            shape={**shape, "residual": residual, "score_residual": score_residual, "words": words},
            options=CompressedOptions(batch, max_passages, min_passages, sharpness, curriculum),
            vectors=vectors or True,
            command=f"rerankit {shlex.join(sys.argv[1:])}",
        )
        with training_progress() as progress:
            reports = train_compressed(run, settings, out, resume=resume, progress=progress, tell=_tell)
        _show(reports, out, as_json)


def _tell(text: str) -> None:
    messages().print(printable(text), soft_wrap=True)


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
