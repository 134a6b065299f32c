"""Run an encoder with OpenVINO: the fastest way on most processors."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.models import openvino_graph
from rerankit.models.backends import Choice, Task
from rerankit.models.batching import Batch
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.convert import INPUTS, check_same, converted
from rerankit.models.openvino_import import import_openvino

QUANTIZATION_GROUP = 32
"""Activations that share one scale in int8: the smallest groups are the most exact."""

_FIRST, _BEGUN = threading.Lock(), threading.Event()
"""OpenVINO's bindings set themselves up in a process's first inference. Of two threads that begin at the same time one
may then hold the interpreter and wait for the other's set-up, which waits for the interpreter, for ever."""


class OpenVinoBackend:
    """See :class:`rerankit.models.backends.Backend`."""

    budget = 1024  # enough for full speed; larger batches pad more, and leave one of two streams idle at the end

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self.streams = int(compiled.get_property("NUM_STREAMS"))
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._local = threading.local()

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """One forward pass."""
        if _BEGUN.is_set():
            return self._infer(batch)
        with _FIRST:
            output = self._infer(batch)
            _BEGUN.set()
            return output

    def _infer(self, batch: Batch) -> NDArray[np.float32]:
        feed = {name: part for name, part in zip(INPUTS, batch, strict=True) if name in self._inputs}
        request = self._request()
        try:
            request.infer(feed, share_inputs=True)
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise
        output: NDArray[np.float32] = np.array(request.get_output_tensor(0).data, np.float32)
        return output

    def _request(self) -> Any:
        """One infer request per thread."""
        if not hasattr(self._local, "request"):
            self._local.request = self.compiled.create_infer_request()
        return self._local.request

    def close(self) -> None:
        """Free the model."""
        self.compiled = None
        self._local = threading.local()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return "bad_alloc" in str(error) or "out of memory" in str(error).lower()


def load(checkpoint: Checkpoint, task: Task, choice: Choice) -> OpenVinoBackend:
    """Compile the converted graph for the CPU."""
    openvino = import_openvino(f"Running {checkpoint.name!r}")
    form = "openvino-int8" if choice.dtype == "int8" else "openvino"
    folder = converted(checkpoint, task, form, lambda scratch: _build(checkpoint, task, choice, scratch))
    compiled = openvino.Core().compile_model(folder / "model.xml", "CPU", _properties(choice.dtype))
    return OpenVinoBackend(compiled)


def _properties(dtype: str) -> dict[str, Any]:
    """Two streams with half of the cores each keep the cores busier than one stream with all of them."""
    cores = available_cores()
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": cores,
        "NUM_STREAMS": min(2, cores),
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTIZATION_GROUP if dtype == "int8" else 0,
    }


def available_cores() -> int:
    """Cores this process may use: ``OMP_NUM_THREADS``, else its affinity."""
    if (asked := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _build(checkpoint: Checkpoint, task: Task, choice: Choice, scratch: Path) -> None:
    import openvino

    graph, module = openvino_graph.build(checkpoint, task)
    if module is not None:
        exact = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        check_same(checkpoint, module, OpenVinoBackend(exact))
    if choice.dtype == "int8":
        openvino_graph.store_int8(graph)
    openvino.save_model(graph, scratch / "model.xml", compress_to_fp16=False)
