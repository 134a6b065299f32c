"""What a processor allows: how fast it multiplies matrices, and how many multiplications a pair cannot do without.

Counted are the matrix products of the layers, attention included, a multiplication with its addition as two, over the
pair's own tokens; padding, embeddings, norms, softmax and the head are left out. In the last layer only keys and values
are counted for all tokens: a classifier reads token 0, and no score depends on what else that layer could compute.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

REPEATS = 8
ROWS = 4096


def flop(config: Mapping[str, int], tokens: int) -> int:
    """Floating-point operations that the score of one pair takes.

    Args:
        config: of a BERT classifier: ``hidden_size``, ``intermediate_size``, ``num_hidden_layers``.
        tokens: of the pair, special tokens included.
    """
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    keys_and_values = 4 * hidden * hidden
    others = 4 * hidden * hidden + 4 * hidden * wide + 4 * tokens * hidden
    layers = config["num_hidden_layers"]
    return layers * tokens * keys_and_values + ((layers - 1) * tokens + 1) * others


def matmul_rate(config: Mapping[str, int], dtype: str) -> float:
    """Floating-point operations per second of torch's product ``[ROWS, hidden] x [hidden, intermediate]``."""
    import torch

    hidden, wide = config["hidden_size"], config["intermediate_size"]
    states = torch.randn(ROWS, hidden).to(getattr(torch, dtype))
    weight = torch.randn(hidden, wide).to(states.dtype)
    output = torch.mm(states, weight)
    started = time.perf_counter()
    for _ in range(REPEATS):
        torch.mm(states, weight, out=output)
    return 2 * ROWS * hidden * wide * REPEATS / (time.perf_counter() - started)
