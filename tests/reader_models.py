"""Tiny readers: a random encoder and a random adapter by peft's names, written without peft."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_models import save_embedder

from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.span_reader import FORMAT

LINEAR = {
    "attention.self.query": (32, 32),
    "attention.self.value": (32, 32),
    "attention.output.dense": (32, 32),
    "intermediate.dense": (32, 64),
    "output.dense": (64, 32),
}


def adapter_tensors(*, rank: int = 4, seed: int = 0):
    import torch

    random = torch.Generator().manual_seed(seed)
    tensors = {
        "base_model.model.qa_outputs.weight": torch.randn(2, 32, generator=random),
        "base_model.model.qa_outputs.bias": torch.randn(2, generator=random),
    }
    for layer in range(2):
        for name, (inner, outer) in LINEAR.items():
            path = f"base_model.model.bert.encoder.layer.{layer}.{name}"
            tensors[f"{path}.lora_A.weight"] = torch.randn(rank, inner, generator=random) / 4
            tensors[f"{path}.lora_B.weight"] = torch.randn(outer, rank, generator=random) / 4
    return tensors


def save_reader(
    folder: Path, *, seed: int = 0, tensors=None, calibration=None, **settings: object
) -> tuple[Path, Path]:
    """The adapter's folder, and its encoder's."""
    from safetensors.torch import save_file

    base, reader = folder / "base", folder / "reader"
    if not base.exists():
        save_embedder(base, positions=128)
    reader.mkdir()
    save_file(tensors or adapter_tensors(seed=seed), reader / "model.safetensors")
    config = {"format": FORMAT, "base": find_checkpoint(base).digest, "scale": 2.0, "max_tokens": 112, **settings}
    (reader / "config.json").write_text(json.dumps(config), "utf-8")
    if calibration is not None:
        (reader / "calibration.json").write_text(json.dumps(calibration), "utf-8")
    return reader, base
