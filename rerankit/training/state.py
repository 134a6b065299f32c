"""All that a run has to remember, and its way into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rerankit.errors import InputError
from rerankit.training.checkpoint import (
    check_same_run,
    copied,
    fill,
    read_checkpoint,
    shapes,
    trained,
    write_checkpoint,
)
from rerankit.training.optimizer import adamw, fill_optimizer, optimizer_tensors
from rerankit.training.randomness import RandomState
from rerankit.training.task import Best, Identified, Settings, Task

__all__ = ["Place", "State", "setting_of"]


@dataclass(slots=True)
class Place:
    """Where a run stands.

    Attributes:
        step: steps done.
        epoch: of the next batch.
        position: of the next batch in its epoch.
        batches: of the epoch that the last step was in, 0 before the first.
        evaluated: step of the last evaluation, -1 before the first.
        waited: evaluations since the best.
        seconds: spent.
        best: the best evaluation.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    batches: int = 0
    evaluated: int = -1
    waited: int = 0
    seconds: float = 0.0
    best: Best | None = None

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Place:
        """The inverse of ``asdict``."""
        best = facts["best"]
        return cls(**{**facts, "best": None if best is None else Best(**best)})


class State:
    """Module, optimizer, random generators and place of a run.

    Args:
        task: whose module is trained; it is moved to ``device``.
        settings: of the run.
        device: to train on.

    Attributes:
        parameters: the trained ones, by name.
        best_weights: those of the best evaluation, in main memory; empty before the first.

    Raises:
        InputError: there is nothing to train.
    """

    def __init__(self, task: Task, settings: Settings, device: torch.device) -> None:
        self.device = device
        self.module = task.module.to(device)
        self.parameters = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise InputError("There is nothing to train: no parameter of the module has requires_grad")
        self.optimizer = adamw(self.parameters, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.dtype == "float16")
        self.place = Place()
        self.best_weights: dict[str, Tensor] = {}
        self._run = _identity(task, settings, device)

    def keep_as_best(self, best: Best) -> None:
        """Remember the weights as they are."""
        self.place.best = best
        self.best_weights = copied(trained(self.module))

    def use_best(self) -> None:
        """Put the best weights into the module."""
        fill(self.module, self.best_weights)
        self.module.eval()

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        random = RandomState.now(self.device)
        parts = {
            "weights": trained(self.module),
            "best": self.best_weights,
            "optimizer": optimizer_tensors(self.optimizer, self.parameters),
            "random": random.tensors,
        }
        tensors = {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        rest = {"place": asdict(self.place), "random": random.numbers, "scaler": self.scaler.state_dict()}
        write_checkpoint(path, tensors, {"run": self._run, **rest})

    def restore(self, path: Path) -> None:
        """Be as a checkpoint says, the global random generators too.

        Raises:
            InputError: it is of another run.
            ModelError: it is damaged.
        """
        tensors, facts = read_checkpoint(path)
        check_same_run(facts["run"], self._run, path)
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}, "random": {}}
        for full_name, tensor in tensors.items():
            part, _, name = full_name.partition("/")
            parts[part][name] = tensor
        fill(self.module, parts["weights"])
        fill_optimizer(self.optimizer, self.parameters, parts["optimizer"])
        self.scaler.load_state_dict(facts["scaler"])
        self.place, self.best_weights = Place.from_json(facts["place"]), parts["best"]
        RandomState(parts["random"], facts["random"]).restore(self.device)


def setting_of(settings: Settings) -> dict[str, Any]:
    """The settings that make a run the same run, in JSON's types."""
    chosen = asdict(settings)
    del chosen["checkpoint_every"], chosen["device"]  # the one changes no number, of the other the kind counts
    return chosen


def _identity(task: Task, settings: Settings, device: torch.device) -> dict[str, Any]:
    """What makes a run the same run, in JSON's types."""
    data = task.fingerprint if isinstance(task, Identified) else None
    return {
        "setting": setting_of(settings),
        "data": data,
        "device": device.type,
        "shape of": shapes(trained(task.module)),
    }
