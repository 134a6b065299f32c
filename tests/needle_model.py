"""A causal model whose weights are set by hand: two of its heads copy-match, the others look anywhere.

Layer 0, head 0 looks at the token before (its logits depend on distance alone) and writes what it was into the
residual stream. In layer 1 the heads 0 and 2 compare the token at hand with the token *before* each position: they look
at what followed an earlier occurrence, as induction heads do (Olsson et al., arXiv:2209.11895). The heads 1 and 3 of
both layers have random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

COMMON = [f"common{i}" for i in range(150)]
RARE = [f"rare{i}" for i in range(60)]
PROMPT = """here are some paragraphs please answer the following question based on information in
above query""".split()  # noqa: SIM905 (one line per word would be no easier to read)
INDUCTION = [(1, 0), (1, 2)]
OTHERS = [(0, 1), (0, 3), (1, 1), (1, 3)]

CODE = 64
"""Numbers that spell a token: random signs, so that two tokens agree in half of them."""

HEAD = 128
THETA = 1e10
"""So large a base that half of the rotary frequencies stand still over any prompt."""


def needle_tokenizer() -> Tokenizer:
    words = ["[UNK]", *PROMPT, *COMMON, *RARE, *"[].,:/", *map(str, range(100)), "N", "A"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def save_needle_model(folder: Path, seed: int = 0) -> Path:
    """A Llama-shaped model of two layers and four heads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from rerankit.models.backend_torch import quiet

    tokenizer = needle_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=2 * CODE, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=HEAD, intermediate_size=8, max_position_embeddings=8192, attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": THETA}, tie_word_embeddings=False, pad_token_id=None,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        _set_weights(model)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return folder


def _set_weights(model) -> None:
    import torch

    embedding = model.model.embed_tokens.weight
    embedding.zero_()
    embedding[:, :CODE] = torch.randint(0, 2, embedding[:, :CODE].shape) * 2.0 - 1.0
    first, second = (layer.self_attn for layer in model.model.layers)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.zero_()
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            projection.weight.normal_(0, 0.05)
            projection.bias.zero_()
        layer.self_attn.o_proj.weight.zero_()
        layer.self_attn.o_proj.bias.zero_()
    _look_one_back(first)
    for _, head in INDUCTION:
        _match(second, head)


def _look_one_back(attention) -> None:
    """Head 0: constant queries and keys, turned so that they agree best at distance 1; passes the code on."""
    import torch

    moving = HEAD // 4
    frequencies = THETA ** (-torch.arange(moving, dtype=torch.float32) * 2 / HEAD)
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:HEAD].zero_()
    attention.k_proj.bias[:moving] = 1.0
    strength = 12.0
    attention.q_proj.bias[:moving] = strength * frequencies.cos()
    attention.q_proj.bias[HEAD // 2 : HEAD // 2 + moving] = -strength * frequencies.sin()
    attention.v_proj.weight[:CODE, :CODE] = torch.eye(CODE)
    attention.o_proj.weight[CODE:, :CODE] = torch.eye(CODE)


def _match(attention, head: int) -> None:
    """Query: the token at hand; key: the token before. Both in the dimensions that rotary embedding leaves alone."""
    import torch

    still = np.r_[HEAD // 4 : HEAD // 2, HEAD // 2 + HEAD // 4 : HEAD] + head * HEAD
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[head * HEAD : (head + 1) * HEAD].zero_()
    attention.q_proj.weight[still, :CODE] = 2.0 * torch.eye(CODE)
    attention.k_proj.weight[still, CODE:] = 2.0 * torch.eye(CODE)


def needle_list(random: np.random.Generator, passages: int = 12) -> tuple[str, list[str], int]:
    """A query of rare and common words, passages of common words, and the position of the one with the rare words."""
    texts = [list(random.choice(COMMON, int(random.integers(15, 40)))) for _ in range(passages)]
    rare = [str(word) for word in random.choice(RARE, 3, replace=False)]
    needle = int(random.integers(passages))
    for word in rare:
        texts[needle].insert(int(random.integers(len(texts[needle]))), word)
    query = [*rare, *map(str, random.choice(COMMON, 4))]
    random.shuffle(query)
    return " ".join(query), [" ".join(map(str, words)) for words in texts], needle
