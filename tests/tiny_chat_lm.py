"""A tiny chat model with random weights that begins its replies with "A" or "B": as a folder for transformers and as
a GGUF file for llama.cpp, made on the spot in a second.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "Leaf rust shows as orange pustules on wheat leaves. Is passage A or passage B more relevant to the query?",
    "Sheep are shorn in spring, before the heat comes. Yes or No: does the passage answer the question?",
    "user assistant system query passage relevant answer soil water maize seed season field farm",
]
CONTEXT = 512


def tiny_chat_lm(folder: Path, likely: tuple[str, ...] = ("A", "B")) -> Path:
    """A Llama of some thousand parameters with a byte-level tokenizer; the ``likely`` tokens begin its replies."""
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    _make_likely(model, tokenizer, likely)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    core.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=SPECIAL[2], pad_token=SPECIAL[0])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _make_likely(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, likely: tuple[str, ...]) -> None:
    """Raise the ``likely`` tokens where replies begin, and the end of the reply after one of them."""
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for text in SENTENCES
    ]
    first = _last_states(model, tokenizer, chats)
    second = _last_states(model, tokenizer, [chat + token for chat in chats for token in likely])
    apart = second - (second @ first) / (first @ first) * first
    with torch.no_grad():
        for token in likely:
            model.lm_head.weight[tokenizer.encode(token)[0]] += 14.0 * first / (first @ first)
        model.lm_head.weight[tokenizer.eos_token_id] += 20.0 * apart / (apart @ second)


def _last_states(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """What the states behind the last tokens have in common."""
    with torch.no_grad():
        states = [model.model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0, -1] for text in texts]
    return torch.stack(states).mean(0)


def write_gguf(folder: Path, path: Path) -> Path:
    """The model of ``folder`` in llama.cpp's format."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()))
    for name, weights in load_file(folder / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name), _gguf_layout(name, weights.astype(np.float32), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, data) -> None:
    import gguf

    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in data["model"]["merges"]])
    writer.add_eos_token_id(tokens.index(SPECIAL[2]))
    writer.add_pad_token_id(tokens.index(SPECIAL[0]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def _gguf_name(name: str) -> str:
    for old, new in _NAMES.items():
        name = name.replace(old, new)
    return name


def _gguf_layout(name: str, weights: np.ndarray, config) -> np.ndarray:
    """Llama.cpp rotates neighbouring dimensions of queries and keys, transformers the two halves."""
    if "q_proj" not in name and "k_proj" not in name:
        return weights
    heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
    rows, columns = weights.shape
    return np.ascontiguousarray(weights.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, -1))
