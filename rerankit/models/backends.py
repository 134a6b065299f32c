"""Which machine runs a model: torch, onnxruntime or OpenVINO, on which device, in which precision."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, MissingExtraError, ModelError
from rerankit.models.batching import Batch
from rerankit.models.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

Task = Literal["states", "logits"]
"""What the graph returns: last-layer token vectors ``[b, t, dim]`` or classifier logits ``[b, labels]``."""

DTYPES = ("float32", "bfloat16", "float16", "int8")

_EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx", "torch": "torch"}
_MODULES = {
    "openvino": "rerankit.models.backend_openvino",
    "onnxruntime": "rerankit.models.backend_onnx",
    "torch": "rerankit.models.backend_torch",
}


class Backend(Protocol):
    """A loaded model that runs one padded batch at a time; safe between threads.

    Attributes:
        streams: how many batches it likes to have in flight.
        budget: padded tokens per batch that suit the device.
    """

    streams: int
    budget: int

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """One forward pass. Raises MemoryError when the batch does not fit."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is to run; ``auto`` anywhere means: decide by what is installed and what the processor can do."""

    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.backend not in ("auto", *_EXTRAS):
            raise InputError(f"Unknown backend {self.backend!r}; choose one of auto, {', '.join(_EXTRAS)}")
        if self.dtype not in ("auto", *DTYPES):
            raise InputError(f"Unknown dtype {self.dtype!r}; choose one of auto, {', '.join(DTYPES)}")

    def resolve(self, checkpoint: Checkpoint) -> Choice:
        """The same without ``auto``.

        Raises:
            MissingExtraError: the back end is not installed.
            InputError: the parts do not go together.
        """
        device = _device(self.device, self.backend)
        backend = _backend(self.backend, device, checkpoint)
        if device != "cpu" and device not in (found := devices()):
            raise InputError(f"There is no device {self.device!r} here; torch finds {', '.join(found)}")
        dtype = _dtype(self.dtype, backend, device)
        return Choice(backend, device, dtype)


def load(checkpoint: Checkpoint, task: Task, wanted: Choice) -> tuple[Backend, Choice]:
    """Load a model; under ``backend="auto"`` a graph that cannot be converted falls back to torch.

    Raises:
        ModelError: the model cannot be loaded or converted.
    """
    choice = wanted.resolve(checkpoint)
    try:
        return _load(checkpoint, task, choice), choice
    except ConversionError as error:
        if wanted.backend != "auto" or choice.dtype == "int8" or not _installed("torch"):
            raise
        logger.warning("%s; running it with torch instead", error)
        choice = dataclasses.replace(wanted, backend="torch").resolve(checkpoint)
        return _load(checkpoint, task, choice), choice


class ConversionError(ModelError):
    """A model runs in torch but its graph could not be exported faithfully."""


def _load(checkpoint: Checkpoint, task: Task, choice: Choice) -> Backend:
    backend: Backend = importlib.import_module(_MODULES[choice.backend]).load(checkpoint, task, choice)
    return backend


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _device(device: str, backend: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(device)):
        raise InputError(f"Unknown device {device!r}; choose auto or one of {', '.join(devices())}")
    if device != "auto":
        return device
    if backend in ("auto", "torch") and _gpu_driver_present() and _installed("torch"):
        import torch

        if torch.cuda.is_available():
            return "cuda"
    return "cpu"


def devices() -> list[str]:
    """The devices of this machine that a model can run on."""
    if not _installed("torch"):
        return ["cpu"]
    import torch

    numbered = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    gpus = ["cuda", *numbered] if numbered and torch.cuda.is_available() else []
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def _gpu_driver_present() -> bool:
    """Cheap hint, so that machines without a GPU never import torch just to ask."""
    return any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")) or bool(
        shutil.which("nvidia-smi")
    )


def _backend(backend: str, device: str, checkpoint: Checkpoint) -> str:
    if backend == "auto":
        usable = ["torch"] if device != "cpu" else list(_EXTRAS)
        if checkpoint.is_onnx:
            usable = ["openvino", "onnxruntime"]
        backend = next((name for name in usable if _installed(name)), usable[0])
    if not _installed(backend):
        raise MissingExtraError(backend, _EXTRAS[backend], f"Running {checkpoint.name!r}")
    if checkpoint.is_onnx and backend == "torch":
        raise InputError(f"{checkpoint.name!r} has ONNX weights only; use backend='onnxruntime' or 'openvino'")
    if device != "cpu" and backend != "torch":
        raise InputError(f"device={device!r} needs backend='torch', not {backend!r}")
    return backend


def _dtype(dtype: str, backend: str, device: str) -> str:
    if dtype == "auto":
        if device != "cpu":
            return "float32" if device.startswith("mps") else "float16"
        return "bfloat16" if backend == "openvino" and native_bfloat16() else "float32"
    allowed = {
        "openvino": ("float32", "bfloat16", "int8"),
        "onnxruntime": ("float32", "int8"),
        "torch": ("float32", "bfloat16", "float16"),
    }[backend]
    if dtype not in allowed:
        raise InputError(f"backend={backend!r} runs {', '.join(allowed)}, not dtype={dtype!r}")
    return dtype


def native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself, so that it is a gain."""
    from rerankit.models.openvino_import import import_openvino

    openvino = import_openvino("Asking the processor what it can do")
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
