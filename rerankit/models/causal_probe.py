"""How a causal model may be run: a trial of batches at loading, and where its rotary factors change."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rerankit.models.causal_batches import Limits
from rerankit.models.work import Work

if TYPE_CHECKING:
    from rerankit.models.causal_engine import CausalEngine

__all__ = ["batches_exactly", "rope_switch"]

_SHARED, _OWN = 17, (1, 3, 6, 9)
"""Tokens of the trial's prompts: what all share, long enough to be lent, and what each has of its own."""

_CLOSE, _CLOSE_HALF = 1e-3, 0.25
"""Root mean square of the differences between logits, as a share of their spread, that counts as the same."""


def batches_exactly(engine: CausalEngine) -> bool:
    """Whether prompts that are padded, and read behind a lent beginning, get the logits that they get alone.

    Some classes number positions by the place in the tensor, or from ``pad_token_id + 1``, or carry padding along in a
    recurrent state. No configuration tells, so a few tokens are tried.
    """
    import torch

    rows, model = engine.rows, engine.model
    usable = [token for token in range(min(rows, 64)) if token != engine.pad_id] or [0]
    start = [usable[(5 * i + 3) % len(usable)] for i in range(_SHARED)]
    prompts = [start + [usable[(7 * i + n) % len(usable)] for i in range(n)] for n in _OWN]
    close = _CLOSE if model.dtype == torch.float32 else _CLOSE_HALF
    parameters = inspect.signature(model.forward).parameters
    plain = {"use_cache": False} if "use_cache" in parameters else {}
    limits, engine.limits = engine.limits, Limits(None, 2)
    try:
        for output in engine.run(prompts, Work()):
            for row, found in zip(output.rows, output.logits, strict=True):
                ids = torch.tensor([prompts[row]], device=engine.device)
                with engine.lock, torch.inference_mode():
                    alone = model(input_ids=ids, **plain).logits[0, -1].float()
                if not float((found[-1].float() - alone).square().mean().sqrt()) <= close * float(alone.std()):
                    return False
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError):
        return False
    finally:
        engine.limits = limits
    return True


def rope_switch(config: Any) -> int | None:
    """The longest pass with the short rotary factors of LongRoPE; one token more, and all positions get the long ones.

    Ding et al., "LongRoPE" (arXiv:2402.13753). None for models whose factors do not depend on the length.
    """
    switches = [
        int(one.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        for one in _ropes(getattr(config, "rope_parameters", None))
        if one.get("rope_type") == "longrope"
    ]
    return min(switches, default=None)


def _ropes(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """The parameters, or those of each kind of layer."""
    if isinstance(parameters, Mapping):
        yield parameters
        for one in parameters.values():
            yield from _ropes(one)
