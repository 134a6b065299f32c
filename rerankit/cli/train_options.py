"""The options that the commands of ``rerankit train`` share, and what is made of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rerankit.training.task import Settings

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write the model to.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]

# What is learned from

Data = Annotated[
    list[str],
    typer.Option(metavar="DIR|FILE", help="Test collection, or jsonl of lists, clicks or ratings; repeatable."),
]
Dev = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR|FILE", help="Data to choose the best weights by; repeatable. Default: a tenth of --data."
    ),
]
Corpus = Annotated[Path | None, typer.Option(metavar="FILE", help="Passages (jsonl), if the data name them by id.")]
Count = Annotated[int | None, typer.Option(min=1, help="Use at most N lists (of a reader: examples) per --data.")]
DevCount = Annotated[int, typer.Option(min=1, help="Use at most N per --dev.")]
Depth = Annotated[int, typer.Option(min=1, help="Passages retrieved per question of a collection.")]
Retrieve = Annotated[bool, typer.Option(help="Search collections with the encoder, or read their recorded runs.")]
First = Annotated[int | None, typer.Option(min=1, help="Search only N passages of a larger corpus, evenly spread.")]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="DIR", help="Collection that must not be trained on; repeatable.")
]
Vectors = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Cache of the encoder's vectors. Default: in the user's cache.")
]
Teacher = Annotated[str, typer.Option(metavar="SPEC", help="Reranker whose scores are learned from, or none.")]
Sharpness = Annotated[float, typer.Option(help="Factor on the teacher's scores before the softmax; higher is sharper.")]

# The run

Epochs = Annotated[int, typer.Option(min=1, help="Passes over the data (in each stage).")]
LearningRate = Annotated[float, typer.Option("--learning-rate", "--lr", help="Peak learning rate.")]
WeightDecay = Annotated[float, typer.Option(help="AdamW's weight decay.")]
EvaluateEvery = Annotated[int | None, typer.Option(min=1, help="Evaluate every N steps; default once per epoch.")]
Patience = Annotated[int | None, typer.Option(min=1, help="Stop after N evaluations without a new best.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 (mixed) or float16 (mixed, CUDA only).")]
Resume = Annotated[bool, typer.Option("--resume/--fresh", help="Continue an interrupted run, or start over.")]


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
