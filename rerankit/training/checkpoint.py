"""Checkpoints of a training run: one safetensors file, whole or not there at all.

Tensors are named ``weights/<parameter>``, ``best/<parameter>``, ``optimizer/<parameter>/<moment>`` and
``random/<generator>``; all else is JSON in the file's header, with a sha256 over both. A checkpoint that is damaged or
belongs to another run is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rerankit.errors import InputError, ModelError
from rerankit.models.files import write_atomically

__all__ = [
    "check_same_run",
    "copied",
    "fill",
    "read_checkpoint",
    "shapes",
    "trained",
    "write_checkpoint",
    "write_weights",
]

FORMAT = 1
"""Version of the layout; a checkpoint of another version is refused."""

_FIX = "Start anew with resume=False (--fresh)"
_SHOWN = 5  # differences that a message lists


def trained(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters with ``requires_grad`` and persistent buffers, by name; not copied."""
    persistent = module.state_dict(keep_vars=True).keys()
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in persistent}
    return {name: p.data for name, p in module.named_parameters() if p.requires_grad} | buffers


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies in main memory."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put copies of weights back into the module that they are of."""
    with torch.no_grad():
        for name, tensor in trained(module).items():
            tensor.copy_(weights[name])


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Shape and type per tensor, such as ``[384, 64] float32``."""
    return {name: f"{list(tensor.shape)} {str(tensor.dtype)[6:]}" for name, tensor in tensors.items()}


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a checkpoint in place of the last one.

    Args:
        path: of the file.
        tensors: on any device.
        facts: all else, in JSON's types.
    """
    tensors = copied(tensors)
    text = json.dumps(facts)
    header = {"rerankit": str(FORMAT), "facts": text, "sha256": _digest(tensors, text)}
    write_atomically(path, save(tensors, metadata=header))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (in main memory) and facts of a checkpoint.

    Raises:
        ModelError: it is damaged, changed, or no checkpoint of this version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The checkpoint {path} is damaged ({error}). {_FIX}") from error
    if header.get("rerankit") != str(FORMAT):
        raise ModelError(f"{path} is no training checkpoint of this version of rerankit. {_FIX}")
    text = header.get("facts", "")
    if header.get("sha256") != _digest(tensors, text):
        raise ModelError(f"The checkpoint {path} was changed after it was written: its sha256 is another. {_FIX}")
    facts: dict[str, Any] = json.loads(text)
    return tensors, facts


def check_same_run(found: Mapping[str, Any], expected: Mapping[str, Any], path: Path) -> None:
    """Compare what makes a run the same run: settings, data, device, shapes.

    Raises:
        InputError: they differ; it says in what.
    """
    different = list(_differences(found, expected))
    if different:
        more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise InputError(
            f"The checkpoint {path} is of another run: {'; '.join(different[:_SHOWN])}{more}. "
            f"{_FIX}, or train into another folder"
        )


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in [*expected, *(name for name in found if name not in expected)]:
        there, here = found.get(name), expected.get(name)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            yield from _differences(there, here, f"{name} ")
        elif there != here:
            yield f"{prefix}{name} was {there!r:.80}, is {here!r:.80}"


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, shape in sorted(shapes(tensors).items()):
        digest.update(f"\n{name} {shape}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> str:
    """Write a model's weights as safetensors, as other libraries read them; returns the file's sha256."""
    data = save(copied(weights), metadata={"format": "pt"})
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()
