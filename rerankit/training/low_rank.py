"""Low-rank adapters, by peft: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rerankit.errors import require
from rerankit.models.backend_torch import quiet

__all__ = ["with_adapter"]


def with_adapter(net: Any, layers: Sequence[str], heads: Sequence[str], *, rank: int, alpha: int, seed: int) -> Any:
    """The net with an adapter on some layers; only that and the heads are trained.

    Dropout is off: a low-rank update does not learn by heart, and on a processor it costs more than it gives. So is
    fused attention, whose gradient in bfloat16 is slow there.

    Args:
        net: of transformers.
        layers: names, or ends of names, of linear layers.
        heads: names of what is trained as a whole.
        rank: of the adapter's matrices.
        alpha: the adapter counts ``alpha / rank`` times.
        seed: of its first values.

    Raises:
        MissingExtraError: peft is not installed.
    """
    peft = require("peft", extra="train", purpose="Training a low-rank adapter")
    net.set_attn_implementation("eager")
    for part in net.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(layers), modules_to_save=list(heads))
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        return peft.get_peft_model(net, config)
