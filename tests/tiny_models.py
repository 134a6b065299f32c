"""Tiny real models with random weights, and tokenizers of every common layout, all made on the spot."""

from __future__ import annotations

import json
import string
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = ["maize", "soil", "water", "cow", "rust", "seed", "how", "deep", "to", "sow", "the", "in", "dry", "season"]


def bert_tokenizer() -> Tokenizer:
    """WordPiece, ``[CLS] a [SEP] b [SEP]`` with segments 0 and 1."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + c for c in letters)]
    ids = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=40))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = _template(tokenizer, "[CLS]", "[SEP]", second_type=1)
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def roberta_tokenizer() -> Tokenizer:
    """Byte-level BPE, ``<s>a</s></s>b</s>``."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def xlm_roberta_tokenizer() -> Tokenizer:
    """Unigram with word starts marked, ``<s> a </s> </s> b </s>``."""
    tokenizer = _unigram(["<s>", "<pad>", "</s>", "<unk>"], unk=3)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def deberta_tokenizer() -> Tokenizer:
    """Unigram, ``[CLS] a [SEP] b [SEP]`` with segments 0 and 1."""
    tokenizer = _unigram(["[PAD]", "[CLS]", "[SEP]", "[UNK]"], unk=3)
    tokenizer.post_processor = _template(tokenizer, "[CLS]", "[SEP]", second_type=1)
    return tokenizer


def modernbert_tokenizer() -> Tokenizer:
    """Byte-level BPE, ``[CLS]a[SEP]b[SEP]`` with one segment."""
    tokenizer = _byte_level(["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"])
    tokenizer.post_processor = _template(tokenizer, "[CLS]", "[SEP]", second_type=0)
    return tokenizer


TOKENIZERS = {
    "bert": bert_tokenizer,
    "roberta": roberta_tokenizer,
    "xlm-roberta": xlm_roberta_tokenizer,
    "deberta": deberta_tokenizer,
    "modernbert": modernbert_tokenizer,
}


def _template(tokenizer: Tokenizer, start: str, end: str, second_type: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{start}:0 $A:0 {end}:0",
        pair=f"{start}:0 $A:0 {end}:0 $B:{second_type} {end}:{second_type}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
    )


def _byte_level(special: list[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate([*special, *alphabet, "Ġt", "he", "Ġthe"])}
    tokenizer = Tokenizer(models.BPE(ids, [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _unigram(special: list[str], unk: int) -> Tokenizer:
    pieces = [*(("▁" + word, -2.0) for word in WORDS), ("▁", -4.0), *((c, -5.0) for c in string.ascii_lowercase)]
    tokenizer = Tokenizer(models.Unigram([*((token, 0.0) for token in special), *pieces], unk_id=unk))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def save_cross_encoder(folder: Path, *, labels: int = 1, seed: int = 0, positions: int = 64) -> Path:
    """A BERT with a classifier head."""
    from transformers import BertForSequenceClassification

    return _save(folder, BertForSequenceClassification, seed, positions, num_labels=labels)


def save_embedder(folder: Path, *, pooling: str = "mean", seed: int = 0, positions: int = 64) -> Path:
    """A BERT with the files that sentence-transformers writes."""
    from transformers import BertModel

    _save(folder, BertModel, seed, positions)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_Pooling").mkdir()
    keys = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken", "max": "max_tokens"}
    settings = {f"pooling_mode_{key}": name == pooling for name, key in keys.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def _save(folder: Path, architecture: type, seed: int, positions: int, **settings: int) -> Path:
    import torch
    from transformers import BertConfig

    from rerankit.models.backend_torch import quiet

    torch.manual_seed(seed)
    tokenizer = bert_tokenizer()
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.3,
        **settings,
    )
    with quiet():
        architecture(config).eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": positions}), "utf-8")
    return folder
