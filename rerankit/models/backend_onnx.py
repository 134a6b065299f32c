"""Run an encoder with onnxruntime: light to install, no torch at run time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError, require
from rerankit.models.backends import Choice, ConversionError, Task
from rerankit.models.batching import Batch
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.convert import INPUTS, check_same, converted, example


class OnnxBackend:
    """See :class:`rerankit.models.backends.Backend`."""

    streams = 1
    budget = 2048

    def __init__(self, path: Path) -> None:
        runtime = require("onnxruntime", extra="onnx", purpose=f"Running {path.name}")
        options = runtime.SessionOptions()
        options.enable_cpu_mem_arena = False  # the arena keeps the largest batch's memory for good
        options.log_severity_level = 3
        if threads := os.environ.get("OMP_NUM_THREADS"):
            options.intra_op_num_threads = int(threads)
        self.session: Any = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = {port.name for port in self.session.get_inputs()}
        self._failure = runtime.capi.onnxruntime_pybind11_state.RuntimeException

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """One forward pass."""
        feed = {name: part for name, part in zip(INPUTS, batch, strict=True) if name in self._inputs}
        try:
            output: NDArray[np.float32] = self.session.run(None, feed)[0]
        except self._failure as error:
            if "allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            raise ModelError(f"onnxruntime failed on a batch of shape {batch.ids.shape}: {error}") from error
        return output

    def close(self) -> None:
        """Free the model."""
        self.session = None


def load(checkpoint: Checkpoint, task: Task, choice: Choice) -> OnnxBackend:
    """Open the checkpoint's own graph, or the converted one."""
    form = "onnx-int8" if choice.dtype == "int8" else "onnx"
    if checkpoint.is_onnx and form == "onnx":
        return OnnxBackend(checkpoint.weights[0])
    folder = converted(checkpoint, task, form, lambda scratch: _build(checkpoint, task, form, scratch))
    return OnnxBackend(folder / "model.onnx")


def _build(checkpoint: Checkpoint, task: Task, form: str, scratch: Path) -> None:
    plain = checkpoint.weights[0] if checkpoint.is_onnx else _export(checkpoint, task, scratch / "model.onnx")
    if form == "onnx-int8":
        _quantize(plain, scratch / "model.onnx")


def _export(checkpoint: Checkpoint, task: Task, path: Path) -> Path:
    require("onnx", extra="onnx", purpose=f"Converting {checkpoint.name!r} for onnxruntime")
    import torch

    from rerankit.models.backend_torch import inference_module, quiet

    module = inference_module(checkpoint, task, "float32")
    free = {0: "batch", 1: "tokens"}
    try:
        with quiet(), torch.inference_mode():
            torch.onnx.export(
                module,
                tuple(map(torch.from_numpy, example(2, 7))),
                str(path),
                input_names=list(INPUTS),
                output_names=[task],
                dynamic_axes=dict.fromkeys(INPUTS, free) | {task: free if task == "states" else {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
    except Exception as error:  # the tracer raises whatever the model's code raises
        raise ConversionError(f"{checkpoint.name!r} cannot be converted for onnxruntime: {error}") from error
    check_same(checkpoint, module, OnnxBackend(path))
    return path


def _quantize(source: Path, target: Path) -> None:
    """Weights of all matrix products to int8 per output channel; activations are quantised as they come."""
    quantization = require("onnxruntime.quantization", extra="onnx", purpose="Quantising to int8")
    quantization.quantize_dynamic(
        source, target, per_channel=True, weight_type=quantization.QuantType.QInt8, op_types_to_quantize=["MatMul"]
    )
