"""Tiny ResRank-style models: as made (plain cosine), or with random weights everywhere."""

from __future__ import annotations

import torch

from rerankit.models.resrank import ResRank
from rerankit.models.resrank_files import ResRankConfig, save_resrank

SHAPE = {"width": 16, "layers": 2, "heads": 2}


def made(encoder="tiny@0", dim=32, *, trained=False, seed=0, **config):
    torch.manual_seed(seed)
    module = ResRank(ResRankConfig(encoder, dim, **(SHAPE | config)))
    if trained:
        with torch.no_grad():
            for name, weight in module.named_parameters():
                if "norm" not in name:
                    weight.normal_(0.0, 0.3)
    return module.eval()


def saved(folder, encoder, *, trained=True, **config):
    return save_resrank(made(encoder.model_id, encoder.dim, trained=trained, **config), folder, note="made by a test")
