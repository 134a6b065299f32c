"""Tiny causal language models and their tokenizers, made on the fly with random weights; nothing is downloaded."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""ChatML with a reasoning switch, the shape of many current models."""

NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}"
)
"""A template that refuses a system turn and writes the beginning-of-sequence token itself."""

WORDS = """
Given a query "how deep to sow maize", which of the following two passages is more relevant to the query?
Passage A: "Sow maize five centimetres deep in moist soil, and deeper where the soil is dry and the nights are warm."
Passage B: "Goats browse on shrubs and need a dry shelter, clean water and a mineral lick through the whole year."
Output Passage A or Passage B: Yes No yes no true false Query Document Relevant The answer is the the and of to in it
A B C D E F G H 0 1 2 3 4 5 6 7 8 9 10 milk cow calf hen egg wheat rust barley plough harvest irrigation 日本 café
"""

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "gpt2", "gemma2")


@functools.cache
def _trained(kind: str) -> str:
    """A tokenizer trained on a few words, as JSON."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    elif kind == "sentencepiece":  # BPE with spaces as a letter and bytes to fall back on, as in Llama 2
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    else:  # unigram, as in T5
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
        )
    if kind == "sentencepiece":  # merges stay within words
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True, prepend_scheme="never")
    tokenizer.train_from_iterator(WORDS.strip().splitlines() * 4, trainer)
    description = json.loads(tokenizer.to_str())
    if kind == "sentencepiece":
        description["pre_tokenizer"] = None
    description["added_tokens"] = [t for t in description["added_tokens"] if not t["content"].startswith("<0x")]
    return json.dumps(description)


def tokenizer(kind: str = "bytes", *, template: str | None = CHATML, bos: bool = False) -> Any:
    """A tokenizer of transformers: ``bytes``, ``sentencepiece`` or ``unigram``.

    Control tokens of all sorts: special ones, one that is not marked special, one that swallows blanks around it.
    """
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(_trained(kind))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    inner.add_special_tokens([AddedToken("<|blank|>", lstrip=True, rstrip=True, normalized=False)])
    inner.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>", "[INST]", "[/INST]")])
    names = {"bytes": "<|endoftext|>", "sentencepiece": "<s>", "unigram": "<|endoftext|>"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", bos_token=names[kind] if bos else None, pad_token=None
    )
    made.chat_template = template
    return made


def save_lm(folder: Path, architecture: str = "llama", *, seed: int = 0, made: Any = None, **settings: Any) -> Path:
    """A random model of the architecture with its tokenizer; ``settings`` go into the configuration."""
    import torch

    from rerankit.models.backend_torch import quiet

    made = made or tokenizer()
    torch.manual_seed(seed)
    model_class, config = _shape(architecture, len(made), **settings)
    config.eos_token_id, config.bos_token_id, config.pad_token_id = made.eos_token_id, made.bos_token_id, None
    with quiet():
        model_class(config).eval().save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def save_seq2seq(folder: Path, architecture: str = "t5", *, seed: int = 0, **settings: Any) -> Path:
    """A random T5 or BART with its tokenizer, which ends every text with ``</s>``."""
    import torch
    import transformers
    from tokenizers import processors

    from rerankit.models.backend_torch import quiet

    made = tokenizer("unigram", template=None)
    end = made.convert_tokens_to_ids("</s>")
    made.backend_tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", end)])
    made.eos_token, made.pad_token = "</s>", "<pad>"
    if architecture == "t5":
        shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}
        config = transformers.T5Config(vocab_size=len(made), decoder_start_token_id=0, **(shape | settings))
        model_class = transformers.T5ForConditionalGeneration
    else:
        sides = {
            f"{side}_{name}": n
            for side in ("encoder", "decoder")
            for name, n in {"layers": 2, "ffn_dim": 64, "attention_heads": 4}.items()
        }
        shape = {"d_model": 32, "max_position_embeddings": 256, "init_std": 0.3, "forced_eos_token_id": None, **sides}
        ids = {"bos_token_id": 0, "pad_token_id": 0, "eos_token_id": end, "decoder_start_token_id": end}
        config = transformers.BartConfig(vocab_size=len(made), **(shape | ids | settings))
        model_class = transformers.BartForConditionalGeneration
    torch.manual_seed(seed)
    with quiet():
        model_class(config).eval().save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def _shape(architecture: str, vocabulary: int, **settings: Any) -> tuple[type, Any]:
    import transformers

    if architecture == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        config = transformers.GPT2Config(vocab_size=vocabulary, initializer_range=0.3, **(shape | settings))
        return transformers.GPT2LMHeadModel, config
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "phi3": "Phi3"}
    name = (names | {"granite": "Granite", "gemma2": "Gemma2"})[architecture]
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.3,
    }
    if architecture in ("qwen3", "gemma2"):
        shape["head_dim"] = 8
    if architecture == "mistral":
        shape["sliding_window"] = None
    config = getattr(transformers, f"{name}Config")(vocab_size=vocabulary, **(shape | settings))
    return getattr(transformers, f"{name}ForCausalLM"), config
