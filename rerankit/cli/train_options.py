"""The options that the commands of ``rerankit train`` share, and what is made of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rerankit.training.task import Settings

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where the model goes.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is random.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]

# What is learned from

Data = Annotated[
    list[str], typer.Option(metavar="DIR|FILE", help="Test collections or jsonl of lists, clicks, ratings; repeat.")
]
Dev = Annotated[
    list[str] | None,
    typer.Option(metavar="DIR|FILE", help="The same, of other domains; repeat. Default: a tenth of the data."),
]
Corpus = Annotated[Path | None, typer.Option(metavar="FILE", help="Passages, where files name their ids.")]
Count = Annotated[int | None, typer.Option(min=1, help="Most lists (of a reader: examples) per source.")]
DevCount = Annotated[int, typer.Option(min=1, help="The same of the dev data.")]
Depth = Annotated[int, typer.Option(min=1, help="First-stage passages per list of a collection.")]
Retrieve = Annotated[bool, typer.Option(help="Search collections with the encoder; else their recorded runs.")]
First = Annotated[int | None, typer.Option(min=1, help="Of a larger corpus, search so many passages.")]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="DIR", help="Collections of which nothing may be trained on; repeat.")
]
Vectors = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Keeps the encoder's vectors. Default: the user's cache.")
]
Teacher = Annotated[str, typer.Option(metavar="SPEC", help="Reranker to learn from, or none.")]
Sharpness = Annotated[float, typer.Option(help="Of the teacher's scores.")]

# The run

Epochs = Annotated[int, typer.Option(min=1, help="Passes over the data (per stage).")]
LearningRate = Annotated[float, typer.Option("--learning-rate", "--lr", help="The highest.")]
WeightDecay = Annotated[float, typer.Option(help="Of AdamW.")]
EvaluateEvery = Annotated[int | None, typer.Option(min=1, help="Steps; default once per epoch.")]
Patience = Annotated[int | None, typer.Option(min=1, help="Evaluations without a new best; then stop.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 (mixed), float16 (mixed, CUDA).")]
Resume = Annotated[bool, typer.Option("--resume/--fresh", help="Go on from an earlier run, or begin anew.")]


def run_settings(
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    evaluate_every: int | None,
    patience: int | None,
    *,
    dtype: str,
    device: str,
    seed: int,
) -> Settings:
    """The settings of a run that leaves a checkpoint at each evaluation.

    Raises:
        InputError: one is out of its range.
    """
    from rerankit.training.task import Settings

    return Settings(
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


def command_line() -> str:
    """This command as it was typed, for the card."""
    return shlex.join(["rerankit", *sys.argv[1:]])
