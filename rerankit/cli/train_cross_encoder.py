"""``rerankit train cross-encoder``: a cross-encoder on the user's lists."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankit.cli.output import JsonOption, emit, messages, printable, reporting, results
from rerankit.cli.training_progress import training_progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rerankit.training.cross_encoder_run import CrossEncoderRun
    from rerankit.training.task import Settings

_TRAINERS = "rerankit: an adapter that corrects a ranking. sentence-transformers: a whole model, by their trainer."
_LOSSES = (
    "Repeatable: NAME=WEIGHT[@TEMPERATURE], default list_nce=1; a wrong NAME lists them. Of the other trainer: NAME."
)


def cross_encoder(
    data: Annotated[
        list[str], typer.Option(metavar="DIR|FILE", help="Test collections or jsonl of lists, clicks, ratings; repeat.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the model goes.")],
    trainer: Annotated[str, typer.Option(help=_TRAINERS)] = "rerankit",
    dev: Annotated[
        list[str] | None,
        typer.Option(metavar="DIR|FILE", help="The same, of other domains; repeat. Default: a tenth of the data."),
    ] = None,
    corpus: Annotated[Path | None, typer.Option(metavar="FILE", help="Passages, where files name their ids.")] = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="To start from; default the embedded MiniLM.")
    ] = None,
    residual: Annotated[
        str, typer.Option(help="Ranking to correct, or none; its first passages are the hard negatives.")
    ] = "default",
    weight: Annotated[float, typer.Option(help="Logits that its standard deviation is worth in training.")] = 1.5,
    read: Annotated[int, typer.Option(min=1, help="Its first passages that are read.")] = 30,
    teacher: Annotated[str, typer.Option(metavar="SPEC", help="Reranker to learn from, or none.")] = "none",
    loss: Annotated[list[str] | None, typer.Option(metavar="LOSS", help=_LOSSES)] = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="Of the adapter.")] = 16,
    lora_layers: Annotated[int | None, typer.Option(min=1, help="Only the last so many layers; default all.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Most lists per source.")] = None,
    dev_count: Annotated[int, typer.Option(min=1, help="The same of the dev data.")] = 60,
    depth: Annotated[int, typer.Option(min=1, help="First-stage passages per list of a collection.")] = 100,
    retrieve: Annotated[
        bool, typer.Option(help="Search collections with the embedded encoder; else their recorded runs.")
    ] = False,
    first: Annotated[int | None, typer.Option(min=1, help="Of a larger corpus, search so many passages.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="Collections of which nothing may be trained on; repeat.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=16, help="Length of a pair.")] = 160,
    batch: Annotated[int, typer.Option(min=1, help="Lists per step.")] = 4,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs per list.")] = 8,
    positives: Annotated[int, typer.Option(min=1, help="Most of them that are relevant.")] = 1,
    hard: Annotated[int, typer.Option(min=1, help="The others come from so many first wrong ones.")] = 25,
    sharpness: Annotated[float, typer.Option(help="Of the teacher's scores.")] = 2.0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 1,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr", help="The highest.")] = 5e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.01,
    evaluate_every: Annotated[int | None, typer.Option(min=1, help="Steps; default once per epoch.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Evaluations without a new best; then stop.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps vectors of passages. Default: the user's cache.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Keeps scores. Default: in the output.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 (mixed), float16 (mixed, CUDA).")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of all that is random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on from an earlier run, or begin anew.")] = True,
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
        from rerankit.training.task import Settings

        check_choice("trainer", trainer, ("rerankit", "sentence-transformers"))
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
        run = CrossEncoderRun(
            data=data,
            dev=dev or (),
            corpus=corpus,
            count=count,
            dev_count=dev_count,
            depth=depth,
            retrieve=retrieve,
            first=first,
            exclude=exclude or (),
            base=base,
            residual=residual,
            teacher=teacher,
            losses=loss or (),
            options=CrossEncoderOptions(
                lora_rank, lora_layers, batch, Pairs(pairs, positives, hard), weight, read, sharpness
            ),
            max_tokens=max_tokens,
            vectors=vectors or True,
            cache=cache,
            command=f"rerankit {shlex.join(sys.argv[1:])}",
        )
        train = _by_rerankit if trainer == "rerankit" else _by_sentence_transformers
        found = train(run, settings, out, resume=resume)
        if as_json:
            emit({"output": str(out), **found})
        else:
            _show(found, out)


def _by_rerankit(run: CrossEncoderRun, settings: Settings, out: Path, *, resume: bool) -> dict[str, object]:
    from rerankit.training.cross_encoder_run import train_cross_encoder

    with training_progress() as progress:
        report, metrics = train_cross_encoder(run, settings, out, resume=resume, progress=progress, tell=_tell)
    return {"steps": report.steps, "best": dataclasses.asdict(report.best), "dev": metrics}


def _by_sentence_transformers(
    run: CrossEncoderRun, settings: Settings, out: Path, *, resume: bool
) -> dict[str, object]:
    from rerankit.training.cross_encoder_st import train_with_sentence_transformers

    steps, metrics = train_with_sentence_transformers(run, settings, out, resume=resume, tell=_tell)
    return {"steps": steps, "dev": metrics}


def _tell(text: str) -> None:
    messages().print(printable(text), soft_wrap=True)


def _show(found: Mapping[str, object], out: Path) -> None:
    dev = found["dev"]
    assert isinstance(dev, dict)  # noqa: S101 - what both trainers give
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in dev.items())
    results().print(
        printable(f"Trained in {found['steps']:,} steps, written to {out}"),
        printable(f"Dev data: {metrics}"),
        printable(f"Use it: rerankit rank -r cross-encoder:{out}"),
        sep="\n",
    )
