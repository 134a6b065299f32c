"""Tiny adapters of cross-encoders: a random encoder and a random adapter by peft's names, written without peft."""

from __future__ import annotations

import json
from pathlib import Path

from reader_models import LINEAR
from tiny_models import save_embedder

from rerankit.models.adapter import FORMAT
from rerankit.models.checkpoint import find_checkpoint


def adapter_tensors(*, rank: int = 4, seed: int = 0):
    import torch

    random = torch.Generator().manual_seed(seed)
    head = {"classifier.weight": (1, 32), "classifier.bias": (1,), "bert.pooler.dense.weight": (32, 32)}
    shapes = {**head, "bert.pooler.dense.bias": (32,)}
    tensors = {f"base_model.model.{name}": torch.randn(shape, generator=random) / 4 for name, shape in shapes.items()}
    for layer in range(2):
        for name, (inner, outer) in LINEAR.items():
            path = f"base_model.model.bert.encoder.layer.{layer}.{name}"
            tensors[f"{path}.lora_A.weight"] = torch.randn(rank, inner, generator=random) / 4
            tensors[f"{path}.lora_B.weight"] = torch.randn(outer, rank, generator=random) / 4
    return tensors


def save_adapter(folder: Path, *, tensors=None, **settings: object) -> tuple[Path, Path]:
    """The adapter's folder, and its encoder's."""
    from safetensors.torch import save_file

    base, place = folder / "base", folder / "adapter"
    if not base.exists():
        save_embedder(base)
    place.mkdir()
    save_file(tensors or adapter_tensors(), place / "model.safetensors")
    config = {"format": FORMAT, "base": find_checkpoint(base).digest, "scale": 2.0, "max_tokens": 48}
    config |= {"residual": "lexical", "weight": 2.0, "depth": 4, **settings}
    (place / "config.json").write_text(json.dumps(config), "utf-8")
    return place, base
