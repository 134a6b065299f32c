"""The ResRank-style model: plain cosine as made, blind to order and padding, and files that are checked."""

from __future__ import annotations

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_resrank import made, saved
from torch.nn import functional

from rerankit.errors import InputError, ModelError
from rerankit.models.resrank_files import FORMAT, ResRankConfig, is_resrank, load_resrank, read_config, save_resrank

DIM = 32
TOLERANCE = 1e-5

KINDS = [{}, {"score_residual": True}, {"residual": False}, {"layers": 1, "heads": 1}, {"query_dim": 8}]


def inputs(seed, batch, queries, passages, query_dim=DIM):
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape):
        return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    tokens, query, found = unit(batch, queries, query_dim), unit(batch, DIM), unit(batch, passages, DIM)
    return tokens, torch.ones(batch, queries).bool(), query, found, torch.ones(batch, passages).bool()


sizes = st.tuples(st.integers(0, 99), st.integers(1, 3), st.integers(1, 7), st.integers(1, 12))


@pytest.mark.parametrize("kind", [{}, {"score_residual": True}, {"query_dim": 8}])
@given(sizes)
@settings(max_examples=15)
def test_untrained_it_is_the_cosine(kind, size):
    given = inputs(*size, query_dim=kind.get("query_dim", DIM))
    cosines = (given[3] * given[2][:, None]).sum(-1)
    torch.testing.assert_close(made(**kind)(*given), cosines, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@given(sizes, st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_the_order_of_passages_and_of_query_tokens_does_not_matter(kind, size, random):
    module = made(trained=True, **kind)
    tokens, token_mask, query, passages, mask = inputs(*size, query_dim=kind.get("query_dim", DIM))
    order = random.sample(range(passages.shape[1]), passages.shape[1])
    turned = module(tokens.flip(1), token_mask, query, passages[:, order], mask)
    torch.testing.assert_close(
        turned, module(tokens, token_mask, query, passages, mask)[:, order], atol=TOLERANCE, rtol=0
    )


@pytest.mark.parametrize("kind", KINDS)
@given(sizes, st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=15)
def test_padding_does_not_matter(kind, size, more_tokens, more_passages):
    module = made(trained=True, **kind)
    given = inputs(*size, query_dim=kind.get("query_dim", DIM))
    tokens, token_mask, query, passages, mask = given
    padded = (
        functional.pad(tokens, (0, 0, 0, more_tokens), value=7.0),
        functional.pad(token_mask, (0, more_tokens)),
        query,
        functional.pad(passages, (0, 0, 0, more_passages), value=-3.0),
        functional.pad(mask, (0, more_passages)),
    )
    scores = module(*padded)
    torch.testing.assert_close(scores[:, : mask.shape[1]], module(*given), atol=TOLERANCE, rtol=0)
    assert (scores[:, mask.shape[1] :] == 0).all()


def test_trained_it_is_another_thing_and_passages_see_each_other():
    module = made(trained=True)
    tokens, token_mask, query, passages, mask = inputs(0, 1, 4, 6)
    scores = module(tokens, token_mask, query, passages, mask)
    assert (scores - (passages * query[:, None]).sum(-1)).abs().max() > 0.01
    assert scores.abs().max() <= 1 + 1e-6
    fewer = module(tokens, token_mask, query, passages[:, :3], mask[:, :3])
    assert (fewer - scores[:, :3]).abs().max() > 1e-4
    other = module(tokens.roll(1, dims=2), token_mask, query, passages, mask)
    assert (other - scores).abs().max() > 1e-4


def test_every_weight_learns():
    """Zero-started projections learn in the first step, all the rest from the second on."""
    module = made(score_residual=True).train()
    given = inputs(0, 4, 4, 6)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(module(*given), torch.zeros(4, dtype=torch.long)).backward()
        optimizer.step()
    still = [name for name, weight in module.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert still == []


def test_mixed_precision_keeps_the_cosines_of_an_untrained_model():
    given = inputs(1, 2, 5, 9)
    with torch.autocast("cpu", torch.bfloat16):
        scores = made()(*given)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, (given[3] * given[2][:, None]).sum(-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_scores_the_same(tmp_path, kind):
    module = made(trained=True, **kind)
    save_resrank(module, tmp_path / "model", data="farm", steps=3)
    loaded = load_resrank(tmp_path / "model")
    given = inputs(3, 2, 5, 9, query_dim=kind.get("query_dim", DIM))
    assert torch.equal(loaded(*given), module(*given))
    assert not loaded.training
    assert loaded.config.trained == {"data": "farm", "steps": 3}
    assert is_resrank(tmp_path / "model")


def test_half_precision_halves_the_file(tmp_path):
    module = made(trained=True)
    full, half = save_resrank(module, tmp_path / "full"), save_resrank(module, tmp_path / "half", dtype="float16")
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    given = inputs(3, 2, 5, 9)
    torch.testing.assert_close(load_resrank(half)(*given), module(*given), atol=0.01, rtol=0)


def test_weights_that_are_not_those_of_the_training_are_refused(tmp_path):
    folder = save_resrank(made(trained=True), tmp_path / "model")
    weights, config = folder / "model.safetensors", folder / "config.json"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1  # a small change of one number, which nothing else notices
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.safetensors is not the file that the training wrote.*train it anew"):
        load_resrank(folder)
    settings = json.loads(config.read_text())
    del settings["weights_sha256"]
    config.write_text(json.dumps(settings))
    load_resrank(folder)  # it was written before there was such an entry


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_the_umask_says_who_may_read_the_weights(tmp_path):
    folder = save_resrank(made(), tmp_path / "model")
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


class Encoder:
    model_id, dim = "tiny@0", DIM


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["to_query.weight"].fill_(float("nan")), r"'to_query.weight'.*NaN.*download"),
        (lambda w: w.pop("types"), r"'types' has shape None, expected \(3, 16\).*download"),
        (lambda w: w.update(types=torch.zeros(3, 8)), r"'types' has shape \(3, 8\), expected \(3, 16\)"),
        (lambda w: w.update(more=torch.zeros(1)), r"'more' has shape \(1,\), expected None"),
        (lambda w: w.update({"layers.2.more": torch.zeros(1)}), "do not have the 2 layers"),
    ],
)
def test_weights_that_cannot_be_right_are_refused(tmp_path, change, message):
    folder = saved(tmp_path / "model", Encoder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelError, match=message):
        load_resrank(folder)


def test_nan_is_not_saved(tmp_path):
    module = made()
    torch.nn.init.constant_(module.to_query.weight, float("inf"))
    with pytest.raises(ModelError, match="to_query"):
        save_resrank(module, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format 'other'"),
        ({"width": 17}, "heads must divide the width"),
        ({"layers": "two"}, "layers must be a whole number"),
        ({"surprise": 1}, "surprise"),
        ({"dropout": 1.5}, "dropout"),
        ({"encoder": 5}, "encoder"),
        ({"residual": "no"}, "residual"),
        ({"trained": 5}, "trained"),
        ({"layers": 10**9}, "do not have the 1000000000 layers"),
        ({"width": 10**5, "heads": 1}, "has shape"),
        ({"width": 10**9, "heads": 1}, "describes no model"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(tmp_path, change, message):
    folder = saved(tmp_path / "model", Encoder)
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == FORMAT
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=message):
        load_resrank(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert not is_resrank(tmp_path)
    with pytest.raises(ModelError, match=r"no config\.json"):
        read_config(tmp_path)
    folder = saved(tmp_path / "model", Encoder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ModelError, match="damaged"):
        load_resrank(folder)
    weights.unlink()
    (folder / "model.pt").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="pickle"):
        load_resrank(folder)


def test_a_shape_that_makes_no_model_is_refused():
    with pytest.raises(InputError, match="heads must divide"):
        ResRankConfig("tiny@0", 32, width=10, heads=4)
