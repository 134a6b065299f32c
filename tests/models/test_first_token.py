"""The last layer for token 0 only: the same scores with less work, for models that are known to read token 0."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import bert_tokenizer, save_cross_encoder

from rerankit.models.backend_torch import inference_module, load_module, quiet
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.encoder import PairEncoder
from rerankit.models.first_token import READERS, FirstTokenAttention, keep_first_token

SHAPE = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
OWN = {"Electra": {"embedding_size": 16}, "ModernBert": {"cls_token_id": 2, "sep_token_id": 3}}
"""What an architecture needs besides; ELECTRA's projection of narrower embeddings."""


def tiny(kind, seed=0, **options):
    import torch
    import transformers

    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **OWN.get(kind, {}), **options)
    with quiet():
        model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    head = model.classifier
    torch.nn.init.normal_(getattr(head, "out_proj", head).weight)
    return model


def last_attention(model):
    return model.base_model.encoder.layer[-1].attention


@pytest.fixture(scope="module", params=sorted(name.removesuffix("ForSequenceClassification") for name in READERS))
def twins(request):
    """A classifier as transformers computes it, and the same reduced, in both ways of computing attention."""
    found = []
    for attention in ("sdpa", "eager"):
        plain = tiny(request.param, num_labels=2, type_vocab_size=2)
        plain.set_attn_implementation(attention)
        reduced = copy.deepcopy(plain)
        assert keep_first_token(reduced)
        found.append((plain, reduced))
    return found


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(2, 50), min_size=1, max_size=5),
    spare=st.integers(0, 8),
    types=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_logits_stay_the_same(twins, lengths, spare, types, seed):
    import torch

    rng, width = np.random.default_rng(seed), max(lengths) + spare
    ids = torch.from_numpy(rng.integers(5, 200, (len(lengths), width)))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    segments = torch.from_numpy(rng.integers(0, 2, ids.shape)) if types else None
    for plain, reduced in twins:
        with torch.inference_mode():
            expected, found = (
                model(ids, attention_mask=mask, token_type_ids=segments).logits.numpy() for model in (plain, reduced)
            )
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_only_the_last_layer_reads_one_token(twins):
    import torch

    widths = []
    for _, reduced in twins:
        hooks = [
            layer.intermediate.register_forward_hook(lambda _, inputs, output: widths.append(inputs[0].shape[1]))
            for layer in reduced.base_model.encoder.layer
        ]
        with torch.inference_mode():
            reduced(torch.full((2, 9), 7))
        for hook in hooks:
            hook.remove()
    assert widths == [9, 9, 1] * 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Bert", {"is_decoder": True}),
        ("Bert", {"position_embedding_type": "relative_key"}),
        ("MegatronBert", {}),
        ("ModernBert", {}),
        ("DebertaV2", {}),
    ],
)
def test_what_is_not_known_to_be_the_same_is_left_alone(kind, options):
    model = tiny(kind, **options)
    before = str(model)
    assert not keep_first_token(model)
    assert str(model) == before


@pytest.fixture(scope="module")
def electra(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-electra"
    tiny("Electra", num_labels=1).save_pretrained(folder)
    bert_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 64}), "utf-8")
    return folder


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_every_back_end_scores_like_the_plain_model(electra, backend):
    import torch

    pairs = [("how deep", "sow maize in soil"), ("cow", "water " * 30), ("how deep to sow", "rust")]
    tokenizer, module = bert_tokenizer(), load_module(find_checkpoint(electra), "logits", "float32")
    encodings = [tokenizer.encode(*pair) for pair in pairs]
    with torch.inference_mode():
        rows = [torch.tensor([[one.ids], [one.attention_mask], [one.type_ids]]) for one in encodings]
        expected = [module(*row).item() for row in rows]
    found = PairEncoder(electra, backend=backend, device="cpu", dtype="float32").score(pairs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found) > 0.01


def test_back_ends_get_the_reduced_model_and_training_the_plain_one(tmp_path):
    checkpoint = find_checkpoint(save_cross_encoder(tmp_path / "model"))
    assert isinstance(last_attention(inference_module(checkpoint, "logits", "float32").model), FirstTokenAttention)
    plain = load_module(checkpoint, "logits", "float32")
    assert not any(isinstance(part, FirstTokenAttention) for part in plain.modules())
    states = inference_module(checkpoint, "states", "float32")
    assert not any(isinstance(part, FirstTokenAttention) for part in states.modules())
