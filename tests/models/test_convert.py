"""Conversion: once, atomic, checked, and without torch afterwards."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import warnings

import numpy as np
import pytest
from tiny_models import TOKENIZERS, save_cross_encoder

from rerankit.errors import StoreError
from rerankit.models import convert
from rerankit.models.backends import ConversionError
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.encoder import PairEncoder

PAIRS = [("how deep", "sow maize in soil"), ("cow", "water " * 9), ("how deep", "rust")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_cross_encoder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


SCRIPT = """
import json, sys
from rerankit.models.encoder import PairEncoder
encoder = PairEncoder(sys.argv[1], backend=sys.argv[2], device="cpu", dtype="float32")
print(json.dumps([encoder.score([tuple(pair) for pair in json.loads(sys.argv[3])]).tolist(), "torch" in sys.modules,
                  "transformers" in sys.modules]))
"""


def start(folder, backend):
    command = [sys.executable, "-c", SCRIPT, str(folder), backend, json.dumps(PAIRS)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_two_processes_at_once_convert_safely_and_a_third_needs_no_torch(folder, fresh_cache, backend):
    both = [start(folder, backend) for _ in range(2)]
    answers = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    third = start(folder, backend)
    output, errors = third.communicate(timeout=200)
    assert third.returncode == 0, errors
    scores, torch, transformers = json.loads(output)
    assert not torch
    assert not transformers
    for output, errors in answers:
        np.testing.assert_allclose(json.loads(output)[0], scores, atol=1e-6)
        assert errors == ""
    assert len([path for path in fresh_cache.iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_damaged_conversion_is_made_again(folder, fresh_cache, backend, caplog):
    expected = PairEncoder(folder, backend=backend, dtype="float32").score(PAIRS)
    (target,) = (path for path in fresh_cache.iterdir() if path.is_dir())
    for path in target.iterdir():
        path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    np.testing.assert_allclose(PairEncoder(folder, backend=backend, dtype="float32").score(PAIRS), expected, atol=1e-6)
    assert "is damaged; making it again" in caplog.text


def test_a_failed_conversion_leaves_nothing_behind(folder, fresh_cache):
    def fail(scratch):
        (scratch / "half").write_text("x", "utf-8")
        raise OSError("disk full")

    with pytest.raises(StoreError, match="disk full"):
        convert.converted(find_checkpoint(folder), "logits", "test", fail)
    assert [path.suffix for path in fresh_cache.iterdir()] == [".lock"]


@pytest.mark.skipif(os.name != "posix", reason="modes of folders")
def test_others_may_read_a_conversion_where_they_may_read_the_cache(folder, fresh_cache):
    checkpoint = find_checkpoint(folder)
    made = convert.converted(checkpoint, "logits", "test", lambda scratch: None)
    assert stat.S_IMODE(made.stat().st_mode) == stat.S_IMODE(fresh_cache.stat().st_mode)


def test_a_read_only_cache_folder_is_worked_around(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder", "utf-8")
    monkeypatch.setenv("RERANKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert len(PairEncoder(folder, backend="openvino", dtype="float32").score(PAIRS)) == len(PAIRS)


def test_other_weights_are_another_conversion(folder, tmp_path, fresh_cache):
    other = save_cross_encoder(tmp_path / "tiny", seed=1)
    first = PairEncoder(folder, backend="openvino", dtype="float32").score(PAIRS)
    second = PairEncoder(other, backend="openvino", dtype="float32").score(PAIRS)
    assert np.abs(first - second).min() > 1e-4


@pytest.mark.parametrize("backend", ["torch", "openvino", "onnxruntime"])
@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "deberta", "modernbert"])
def test_other_architectures_score_the_same_everywhere(kind, backend, tmp_path, recwarn):
    folder = save_architecture(kind, tmp_path / kind)
    encoder = PairEncoder(folder, backend=backend, device="cpu", dtype="float32")
    together = encoder.score(PAIRS)
    np.testing.assert_allclose(together, plain_scores(folder, PAIRS), atol=2e-5)


def test_a_model_that_cannot_be_traced_runs_in_torch_under_auto(folder, fresh_cache, monkeypatch, caplog):
    def refuse(*arguments, **options):
        raise ConversionError("cannot be converted")

    monkeypatch.setattr("rerankit.models.openvino_graph.build", refuse)
    encoder = PairEncoder(folder, device="cpu", dtype="float32")
    assert encoder.engine.choice.backend == "torch"
    assert "running it with torch instead" in caplog.text
    with pytest.raises(ConversionError):
        PairEncoder(folder, backend="openvino", dtype="float32")


def test_a_graph_that_computes_something_else_is_refused(folder, tmp_path):
    from rerankit.models.backend_torch import load_module

    checkpoint = find_checkpoint(folder)
    module = load_module(checkpoint, "logits", "float32")
    with pytest.raises(ConversionError, match="other numbers"):
        convert.check_same(checkpoint, module, lambda batch: np.full((len(batch.ids), 1), 0.5, np.float32))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_graph_with_something_frozen_is_refused_in_every_precision(folder, fresh_cache, monkeypatch, backend, dtype):
    import torch

    from rerankit.models import backend_torch

    real = backend_torch.inference_module

    class Frozen(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, input_ids, attention_mask, token_type_ids):
            scores = self.module(input_ids, attention_mask, token_type_ids)
            return scores * int(input_ids.shape[1])  # tracing makes a constant of it

    monkeypatch.setattr(backend_torch, "inference_module", lambda *a: Frozen(real(*a)).eval())
    with pytest.raises(ConversionError, match="other numbers"):
        PairEncoder(folder, backend=backend, dtype=dtype)


def save_architecture(kind, folder):
    import torch
    import transformers

    from rerankit.models.backend_torch import quiet

    tokenizer = TOKENIZERS[kind]()
    common = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 90,
        "initializer_range": 0.3,
        "num_labels": 1,
        "pad_token_id": 1 if "roberta" in kind else 0,
    }
    extra = {
        "roberta": {"type_vocab_size": 1},
        "xlm-roberta": {"type_vocab_size": 1},
        "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
        "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 0, "sep_token_id": 2},
    }[kind]
    name = {"roberta": "Roberta", "xlm-roberta": "XLMRoberta", "deberta": "DebertaV2", "modernbert": "ModernBert"}[kind]
    torch.manual_seed(0)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(transformers, f"{name}Config")(**common, **extra)
        getattr(transformers, f"{name}ForSequenceClassification")(config).eval().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def plain_scores(folder, pairs):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for pair in pairs:
        ids = torch.tensor([tokenizer.encode(*pair).ids])
        with torch.inference_mode():
            scores.append(model(ids, attention_mask=torch.ones_like(ids)).logits.item())
    return scores


def test_a_finished_conversion_needs_no_writable_cache(folder, fresh_cache, monkeypatch):
    expected = PairEncoder(folder, backend="openvino", dtype="float32").score(PAIRS)
    monkeypatch.setattr(convert, "cache_folder", lambda name: pytest.fail("asked for a folder to write to"))
    np.testing.assert_array_equal(PairEncoder(folder, backend="openvino", dtype="float32").score(PAIRS), expected)
