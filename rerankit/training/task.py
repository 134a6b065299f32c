"""What is trained and how: the task, the settings of a run, and what a run tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rerankit.checks import check_choice, check_whole, is_number
from rerankit.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["Best", "Identified", "Moment", "Progress", "Report", "SavesItself", "Settings", "Task"]

DTYPES = ("float32", "bfloat16", "float16")


class Task(Protocol):
    """A model, its data and its loss. :func:`rerankit.training.loop.fit` does the rest.

    All randomness has to come from the ``generator`` of :meth:`batches` and, in :meth:`loss`, from the global
    generators of torch, numpy and Python. What changes during training has to be a parameter or a persistent buffer of
    ``module``. Then a run that was broken off ends where an unbroken one ends.
    """

    @property
    def module(self) -> torch.nn.Module:
        """The model. Its parameters with ``requires_grad`` are trained and saved, with its persistent buffers."""

    def batches(self, epoch: int, generator: np.random.Generator) -> Sequence[Any]:
        """The batches of an epoch (from 0), in order; at least one. May make each when it is asked for.

        Args:
            epoch: which one.
            generator: depends on the seed and the epoch alone.
        """

    def loss(self, batch: Any, progress: float) -> Mapping[str, torch.Tensor]:
        """The loss of a batch: ``{"loss": scalar to minimise, ...}``; the other scalars are its parts, for the record.

        Runs under autocast, with ``module`` in training mode and on the device of the run.

        Args:
            batch: from :meth:`batches`.
            progress: share of the run that is done, 0 to 1.
        """

    def evaluate(self) -> Mapping[str, float]:
        """Metrics on the dev data; the first is maximised. ``module`` is in evaluation mode, gradients are off."""


@runtime_checkable
class Identified(Protocol):
    """A task that can tell its data from others: a checkpoint made with other data is refused."""

    @property
    def fingerprint(self) -> str:
        """Names data, frozen weights and recipe, all that :class:`Settings` does not hold; a digest, say."""


@runtime_checkable
class SavesItself(Protocol):
    """A task that writes its own model files, instead of ``model.safetensors`` of what was trained."""

    def save(self, folder: Path) -> None:
        """Write the model as ``module`` is now: the best weights of the run."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a run.

    Attributes:
        epochs: passes over the data.
        learning_rate: the highest; it grows linearly to that and falls to zero along half a cosine.
        weight_decay: of AdamW, decoupled; not on biases, norms and gates.
        warmup: share of the run in which the rate grows, 0 to below 1.
        clip: largest norm of the gradient.
        dtype: ``float32``, or mixed precision in ``bfloat16`` (CPU, GPU) or ``float16`` (CUDA).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        seed: of the order of batches and of all else that is random.
        evaluate_every: steps between evaluations; None for one per epoch. There is one before the first step and one
            after the last anyway.
        patience: evaluations without a new best after which the run ends; None for never.
        checkpoint_every: steps between checkpoints; None for one per epoch. There is one at the end anyway.

    Raises:
        InputError: one is out of its range.
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    dtype: str = "float32"
    device: str = "auto"
    seed: int = 0
    evaluate_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = 200

    def __post_init__(self) -> None:
        check_whole(1, epochs=self.epochs)
        check_whole(0, seed=self.seed)
        check_whole(1, or_none=True, evaluate_every=self.evaluate_every, patience=self.patience)
        check_whole(1, or_none=True, checkpoint_every=self.checkpoint_every)
        check_choice("dtype", self.dtype, DTYPES)
        _check_range("learning_rate", self.learning_rate, above=0.0)
        _check_range("clip", self.clip, above=0.0)
        _check_range("weight_decay", self.weight_decay, least=0.0)
        _check_range("warmup", self.warmup, least=0.0, below=1.0)


def _check_range(
    name: str, value: object, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> None:
    if not is_number(value) or not (above < float(value) < below and float(value) >= least):
        low = f"above {above:g}" if above > -math.inf else f"of at least {least:g}"
        high = f" and below {below:g}" if below < math.inf else ""
        raise InputError(f"{name} must be a finite number {low}{high}, got {value!r:.80}")


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far.

    Attributes:
        metric: name of the metric that counts.
        value: its value.
        step: after how many steps; 0 is the untrained model.
        metrics: all of that evaluation.
    """

    metric: str
    value: float
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Moment:
    """What the ``progress`` callback is told after every step and every evaluation.

    Attributes:
        step: steps done.
        steps: steps of the whole run, as far as it can be known.
        epoch: of the next batch, from 0.
        losses: of the step just done; empty before the first.
        metrics: of an evaluation just done; empty after a step.
        best: the best evaluation so far.
    """

    step: int
    steps: int
    epoch: int
    losses: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Best | None = None


Progress = Callable[[Moment], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did.

    Attributes:
        folder: holds the model, ``history.jsonl``, ``curves.png`` and the checkpoint.
        settings: of the run.
        steps: done.
        parameters: numbers that were trained.
        device: that it ran on.
        history: the rows of ``history.jsonl``: ``{"step", "epoch", "loss": {...}, "lr", "norm", "seconds"}`` per step
            and ``{"step", "epoch", "metrics": {...}, "seconds"}`` per evaluation.
        best: the evaluation whose weights were kept.
        seconds: of the run, those before it was resumed included.
        ending: ``finished``, or ``patience``.
    """

    folder: Path
    settings: Settings
    steps: int
    parameters: int
    device: str
    history: tuple[Mapping[str, Any], ...]
    best: Best
    seconds: float
    ending: str
