"""The global random generators: torch's, numpy's and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["RandomState", "kept_random"]


@dataclass(frozen=True)
class RandomState:
    """The state of the global random generators.

    Attributes:
        tensors: torch's, per kind of device.
        numbers: Python's and numpy's, in JSON's types.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """As it is at this moment, on the CPU and on ``device``."""
        tensors = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            tensors["cuda"] = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            tensors["mps"] = torch.mps.get_rng_state()
        name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - what a task's loss may use
        numbers = {"python": random.getstate(), "numpy": [name, np.asarray(keys).tolist(), *rest]}
        return cls(tensors, numbers)

    def restore(self, device: torch.device) -> None:
        """Make it the state again."""
        torch.set_rng_state(self.tensors["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(self.tensors["cuda"], device)
        elif device.type == "mps":
            torch.mps.set_rng_state(self.tensors["mps"])
        version, internal, gauss = self.numbers["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = self.numbers["numpy"]
        np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))  # noqa: NPY002 - as above


@contextmanager
def kept_random(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Whatever is drawn inside, or seeded by ``seed``: afterwards the global generators are as they were before."""
    before = RandomState.now(device)
    try:
        if seed is not None:
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
        yield
    finally:
        before.restore(device)
