"""What the reader must know of a model's layers: how many, how many heads, and whether their attention sees all."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from rerankit.errors import ModelError

__all__ = ["Head", "Shape", "check_layers", "model_shape", "name_of", "window"]

_ADVICE = "use a model with full attention (Llama, Qwen3, Mistral, Phi, Granite)"

Head = tuple[int, int]
"""Layer and head, both from 0."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How many layers a model has, and heads in each."""

    layers: int
    heads: int

    def all_heads(self) -> list[Head]:
        """Every head, layer by layer."""
        return [(layer, head) for layer in range(self.layers) for head in range(self.heads)]


def model_shape(model: Any) -> Shape:
    """Layers and heads as the model's configuration has them.

    Raises:
        ModelError: it has none.
    """
    config = model.config.get_text_config()
    layers, heads = (getattr(config, name, None) for name in ("num_hidden_layers", "num_attention_heads"))
    if not isinstance(layers, int) or not isinstance(heads, int):
        raise ModelError(f"{name_of(model)} has no attention heads to read; {_ADVICE}")
    return Shape(layers, heads)


def check_layers(model: Any, depth: int) -> None:
    """See that the layers that are run are plain causal attention, all of the prompt in view.

    Raises:
        ModelError: they are not.
    """
    config = model.config.get_text_config()
    taken = inspect.signature(model.base_model.forward).parameters.keys()
    readable = getattr(model, "_supports_attention_backend", False) and {"position_ids", "past_key_values"} <= taken
    if not readable or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{name_of(model)} is not a causal language model whose attention transformers lets one read")
    for number, kind in enumerate(_kinds(config)[:depth]):
        if kind not in ("full_attention", "attention", "sliding_attention"):
            raise ModelError(
                f"Layer {number} of {name_of(model)} is of the kind {kind!r}: hybrid and linear models hide passages "
                f"from attention, so it cannot be read; {_ADVICE}"
            )
    if getattr(config, "attn_logit_softcapping", None):
        raise ModelError(f"{name_of(model)} caps its attention logits, which the reader does not; use another model")


def _kinds(config: Any) -> list[str]:
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None)
    if kinds:
        return list(kinds)
    return ["sliding_attention" if _sliding(config) else "full_attention"] * int(config.num_hidden_layers)


def _sliding(config: Any) -> int | None:
    window = getattr(config, "sliding_window", None)
    return int(window) if window and getattr(config, "use_sliding_window", True) else None


def window(config: Any, depth: int) -> int | None:
    """The shortest view of the layers that are run, in tokens; None if all see everything."""
    return _sliding(config) if "sliding_attention" in _kinds(config)[:depth] else None


def name_of(model: Any) -> str:
    """How messages call a model: its checkpoint, else its class."""
    return f"The model {getattr(model.config, 'name_or_path', '') or type(model).__name__}"
