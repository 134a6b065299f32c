"""An adapter and its base: merged once, exactly, and only if they belong together."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny_adapter import adapter_tensors, save_adapter
from tiny_models import save_cross_encoder, save_embedder

from rerankit.errors import ModelError
from rerankit.models.adapter import classifier_net, head_names, is_adapter, merged, read_adapter
from rerankit.models.backend_torch import quiet
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.files import sha256_of
from rerankit.models.pair_encoder import PairEncoder

PAIRS = [("how deep to sow maize", "sow the seed deep in dry soil"), ("rust", "cow water"), ("dry season", "rust")]
HEAD = "base_model.model.classifier.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


def test_the_merged_checkpoint_scores_as_peft_does(tmp_path):
    peft = pytest.importorskip("peft")
    place, base = save_adapter(tmp_path)
    found = PairEncoder(merged(place, base), backend="torch", dtype="float32", device="cpu").score(PAIRS)

    net, random = classifier_net(find_checkpoint(base))
    assert [name for name in random if "classifier" in name] == random
    names = sorted({name.split(".lora_")[0][17:] for name in adapter_tensors() if "lora" in name})
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=names, modules_to_save=head_names(net))
    with quiet():
        model = peft.get_peft_model(net, config).eval()
        lost = peft.set_peft_model_state_dict(model, adapter_tensors())
    assert not lost.unexpected_keys
    encoder = PairEncoder(merged(place, base), backend="torch", dtype="float32", device="cpu")
    for pair, score in zip(PAIRS, found, strict=True):
        (entry,) = encoder.entries([pair])
        ids = np.concatenate([entry.head.ids, entry.body, entry.tail.ids])
        types = np.concatenate([entry.head.types, np.full(len(entry.body), entry.body_type), entry.tail.types])
        with torch.no_grad():
            logit = model(
                input_ids=torch.from_numpy(ids)[None].long(), token_type_ids=torch.from_numpy(types)[None].long()
            ).logits
        assert float(logit) == pytest.approx(score, abs=1e-5)


def test_it_is_merged_once_by_two_at_a_time_and_again_when_damaged(tmp_path, cache):
    place, base = save_adapter(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: merged(place, base), range(2))
    assert one == two
    assert [path for path in cache.iterdir() if path.is_dir()] == [one]
    written = (one / "model.safetensors").stat().st_mtime_ns
    assert merged(place, base) == one
    assert (one / "model.safetensors").stat().st_mtime_ns == written
    whole = (one / "model.safetensors").read_bytes()
    (one / "model.safetensors").write_bytes(whole[:-4] + b"evil")
    assert (merged(place, base) / "model.safetensors").read_bytes() == whole


def test_another_adapter_is_another_checkpoint(tmp_path):
    place, base = save_adapter(tmp_path)
    before = merged(place, base)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "scale": 1.0}))
    assert merged(place, base) != before


def test_another_base_is_refused_with_the_fix(tmp_path):
    place, _ = save_adapter(tmp_path, base_name="all-farm-v1")
    other = save_embedder(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"all-farm-v1.*encoder=.*rerankit train cross-encoder"):
        merged(place, other)
    with pytest.raises(ModelError, match=r"all-MiniLM-L6-v2@53aa51172d14 are others"):
        merged(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(HEAD), "lacks the head's weights"),
        (lambda t: t.update({HEAD: t[HEAD] * float("nan")}), "not finite"),
        (lambda t: t.update({HEAD: torch.zeros(2, 32)}), "made for another model"),
        (lambda t: t.update({"base_model.model.bert.embeddings.word_embeddings.weight": torch.zeros(3)}), "neither"),
        (lambda t: t.pop(next(name for name in t if "lora_B" in name)), "incomplete"),
    ],
)
def test_tensors_that_make_no_adapter_are_refused(tmp_path, cache, change, message):
    tensors = adapter_tensors()
    change(tensors)
    place, base = save_adapter(tmp_path, tensors=tensors)
    with pytest.raises(ModelError, match=message):
        merged(place, base)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_file_cut_short_is_refused(tmp_path):
    place, base = save_adapter(tmp_path)
    weights = place / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        merged(place, base)


def test_weights_that_are_not_those_of_the_training_are_refused(tmp_path):
    place, base = save_adapter(tmp_path)
    weights, config = place / "model.safetensors", place / "config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "weights_sha256": sha256_of(weights)}))
    assert (merged(place, base) / "model.safetensors").stat().st_mode == (base / "config.json").stat().st_mode
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"not the file that the training wrote.*train it anew"):
        merged(place, base)
    config.write_text(json.dumps(settings))
    merged(place, base)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("residual", "remote:http://evil.example"),
        ("residual", ["default"]),
        ("weight", 0),
        ("weight", "much"),
        ("depth", -1),
        ("max_tokens", 1.5),
        ("scale", None),
        ("base", None),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(tmp_path, name, value):
    place, _ = save_adapter(tmp_path, **{name: value})
    with pytest.raises(ModelError, match=rf"config\.json is damaged: {name}"):
        read_adapter(place)


def test_only_adapters_are_taken_for_adapters(tmp_path):
    place, base = save_adapter(tmp_path)
    assert is_adapter(place)
    assert not is_adapter(base)
    assert not is_adapter("org/name")
    with pytest.raises(ModelError, match="holds no adapter"):
        read_adapter(base)


def test_a_classifier_of_one_label_keeps_its_head_and_others_lose_it(tmp_path):
    single = find_checkpoint(save_cross_encoder(tmp_path / "one"))
    assert classifier_net(single)[1] == []
    net, random = classifier_net(find_checkpoint(save_cross_encoder(tmp_path / "two", labels=2)), seed=3)
    assert random == ["classifier.bias", "classifier.weight"]
    assert net.classifier.out_features == 1
    again, _ = classifier_net(find_checkpoint(tmp_path / "two"), seed=3)
    assert torch.equal(net.classifier.weight, again.classifier.weight)
