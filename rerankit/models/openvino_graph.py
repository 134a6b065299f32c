"""Graphs for OpenVINO: traced from torch, read from ONNX, weights stored as int8.

The front ends are called directly: ``openvino.convert_model`` reports each conversion to its makers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.models.backends import ConversionError, Task
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.convert import INPUTS, example

SMALLEST = 128 * 128
"""Weights with fewer numbers than this are left alone."""


def build(checkpoint: Checkpoint, task: Task) -> tuple[Any, Any]:
    """The exact graph of a checkpoint, and the torch module it came from, None for ONNX weights.

    Raises:
        ConversionError: the model's code cannot be traced.
    """
    import openvino

    if checkpoint.is_onnx:
        return openvino.Core().read_model(checkpoint.weights[0]), None
    from rerankit.models.backend_torch import inference_module

    module = inference_module(checkpoint, task, "float32")
    return _trace(checkpoint, module), module


def _trace(checkpoint: Checkpoint, module: Any) -> Any:
    import torch
    from openvino import PartialShape, Type
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    from rerankit.models.backend_torch import quiet

    inputs = dict(zip(INPUTS, map(torch.from_numpy, example(2, 7)), strict=True))
    try:
        with quiet(), torch.inference_mode():
            decoder = TorchScriptPythonDecoder(module, example_input=inputs)
            frontend = FrontEndManager().load_by_framework("pytorch")
            source = frontend.load(decoder)
            for place in source.get_inputs():
                source.set_element_type(place, Type.i64)
                source.set_partial_shape(place, PartialShape([-1, -1]))
            return frontend.convert(source)
    except Exception as error:  # the tracer raises whatever the model's code raises
        raise ConversionError(f"{checkpoint.name!r} cannot be converted for OpenVINO: {error}") from error


def store_int8(graph: Any) -> None:
    """Matrix weights to int8, one scale per output channel; the runtime quantises activations as they come."""
    from openvino import opset13 as ops

    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        constant, attributes = node.input_value(1).get_node(), node.get_attributes()
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2 or constant.data.size < SMALLEST:
            continue
        weight = constant.data if attributes["transpose_b"] else constant.data.T
        quantised, scale = to_int8(weight.astype(np.float32))
        restored = ops.multiply(ops.convert(ops.constant(quantised), np.float32), ops.constant(scale))
        product = ops.matmul(node.input_value(0), restored, attributes["transpose_a"], True)
        product.set_friendly_name(node.get_friendly_name())
        node.output(0).replace(product.output(0))


def to_int8(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric rounding per row: ``weight`` is about ``int8 [out, in]`` times ``scale [out, 1]``."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)
