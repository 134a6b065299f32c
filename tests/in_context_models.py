"""The models that in-context reranking is tested on: the reference's, and small ones of every supported class."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

FIXTURES = Path(__file__).parent / "fixtures" / "icr"

WEIGHTS = "5ad07e80d7226401776c90ac34dbf916f79a30d44d1141401c6dbb240e47f2be"
"""sha256 over the reference model's weights, by name."""


def reference_cases() -> list[dict]:
    return json.loads((FIXTURES / "reference_scores.json").read_text("utf-8"))


def save_reference_model(folder: Path) -> Path:
    """The reference's model; its name makes the Llama-3 template the default."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rerankit.models.backend_torch import quiet

    target = folder / "llama-3-tiny"
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(FIXTURES)).eval()
    assert digest(model) == WEIGHTS, "this torch or transformers draws other weights from the seed"
    with quiet():
        model.save_pretrained(target)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(FIXTURES / name, target)
    return target


def digest(model) -> str:
    weights = model.state_dict()
    content = b"".join(weights[name].numpy().tobytes() for name in sorted(weights))
    return hashlib.sha256(content).hexdigest()


SHAPE = {
    "vocab_size": 97, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

KINDS = {
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
    "Phi": {},
    "Phi3": {"sliding_window": None},
    "Granite": {"attention_multiplier": 0.3},
}


def tiny(kind: str, attention: str = "sdpa", **settings):
    """A model of a class with random weights, always the same ones."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **KINDS.get(kind, {}), **settings})
    model_class = getattr(transformers, f"{kind}ForCausalLM")
    return model_class._from_config(config, attn_implementation=attention).eval()


def holding(model) -> SimpleNamespace:
    """What an attention reader needs of a language model."""
    return SimpleNamespace(model=model, lock=threading.RLock())
