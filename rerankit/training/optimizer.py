"""What moves the weights: AdamW, its rate, and the device it runs on.

AdamW: Loshchilov and Hutter, arXiv:1711.05101; the cosine schedule: arXiv:1608.03983.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rerankit.checks import check_choice
from rerankit.errors import InputError
from rerankit.models.backends import devices
from rerankit.training.task import Settings

__all__ = ["adamw", "fill_optimizer", "learning_rate", "optimizer_tensors", "training_device"]

NOT_DECAYED = frozenset({"gate", "gates"})
"""Parts of the names of parameters that weight decay would pull to zero for no reason."""


def training_device(settings: Settings) -> torch.device:
    """Where to train: ``auto`` is the GPU if there is one.

    Raises:
        InputError: there is no such device here, or it cannot train in float16.
    """
    check_choice("device", settings.device, ["auto", *devices()])
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if settings.device == "auto" else settings.device)
    if settings.dtype == "float16" and device.type != "cuda":
        raise InputError(f"dtype float16 trains on CUDA only, the device is {device}; use bfloat16 or float32")
    return device


def adamw(parameters: Mapping[str, nn.Parameter], settings: Settings) -> torch.optim.AdamW:
    """The optimizer, with weight decay where it means something: on matrices that are no gates."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in parameters.items():
        is_gate = not NOT_DECAYED.isdisjoint(name.split("."))
        (spared if parameter.ndim < 2 or is_gate else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.learning_rate)


def learning_rate(settings: Settings, progress: float) -> float:
    """The rate at a share of the run: linear to ``learning_rate``, then half a cosine down to zero."""
    if progress < settings.warmup:
        return settings.learning_rate * progress / settings.warmup
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - settings.warmup) / (1 - settings.warmup)))


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's moments as ``<parameter>/<moment>``."""
    return {
        f"{name}/{moment}": value
        for name, parameter in parameters.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def fill_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put the moments back; the count of steps stays in main memory, where AdamW wants it."""
    for path, tensor in tensors.items():
        name, _, moment = path.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][moment] = tensor if moment == "step" else tensor.to(parameter.device)
