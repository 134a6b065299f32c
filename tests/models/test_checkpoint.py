"""Where weights come from, and which are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rerankit.errors import ModelError
from rerankit.models.catalog import CATALOG, facts
from rerankit.models.checkpoint import find_checkpoint


def make(folder, *files, **config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    for name in files:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def test_safetensors_win_over_pickles_and_onnx(tmp_path):
    folder = make(tmp_path / "m", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx")
    found = find_checkpoint(folder)
    assert [path.name for path in found.weights] == ["model.safetensors"]
    assert not found.is_onnx
    assert found.model_id == f"m@{found.digest[:12]}"


def test_onnx_is_the_second_choice(tmp_path):
    assert find_checkpoint(make(tmp_path / "m", "onnx/model.onnx")).is_onnx


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "model.ckpt"])
def test_pickles_are_refused_by_name(tmp_path, name):
    with pytest.raises(ModelError, match=rf"{name} is a pickle"):
        find_checkpoint(make(tmp_path / "m", name))


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ModelError, match="holds no weights"):
        find_checkpoint(make(tmp_path / "m"))
    (tmp_path / "m" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        find_checkpoint(tmp_path / "m")
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ModelError, match="is a file"):
        find_checkpoint(tmp_path / "file")
    with pytest.raises(ModelError, match="no model folder"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no model folder"):
        find_checkpoint("./nowhere")


def test_shards_are_all_there_or_refused(tmp_path):
    folder = make(tmp_path / "m", "a.safetensors", "b.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}), "utf-8")
    assert [path.name for path in find_checkpoint(folder).weights] == ["a.safetensors", "b.safetensors"]
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "c.safetensors"}}), "utf-8")
    with pytest.raises(ModelError, match=r"not there: \['c\.safetensors'\]"):
        find_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {"x": "../a.safetensors"}}), "utf-8")
    with pytest.raises(ModelError, match="not there"):
        find_checkpoint(folder)


def test_a_hub_model_that_cannot_be_had_says_what_to_do(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"'nobody/nothing' at revision 'v1'.*pass the folder"):
        find_checkpoint("nobody/nothing", "v1")


def test_a_hub_snapshot_in_the_cache_needs_no_network(tmp_path, monkeypatch):
    import huggingface_hub.constants

    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "models--org--name"
    make(repository / "snapshots" / commit, "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, "utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    found = find_checkpoint("org/name")
    assert found.name == "org/name"
    assert found.folder == repository / "snapshots" / commit


def test_the_digest_follows_the_weights_and_trusts_the_hubs_file_names(tmp_path):
    folder = make(tmp_path / "m", "model.safetensors")
    first = find_checkpoint(folder).digest
    (folder / "model.safetensors").write_bytes(b"other")
    assert find_checkpoint(folder).digest != first
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"whatever")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(blob)
    assert find_checkpoint(folder).digest == blob.name


def test_the_digest_of_an_onnx_graph_covers_the_weights_beside_it(tmp_path):
    folder = make(tmp_path / "m", "onnx/model.onnx")
    alone = find_checkpoint(folder).digest
    assert alone == hashlib.sha256(b"onnx/model.onnx").hexdigest()
    digests = {alone}
    for weights in (b"one", b"another"):
        (folder / "onnx" / "model.onnx_data").write_bytes(weights)
        found = find_checkpoint(folder)
        assert found.weights[0].name == "model.onnx"
        digests.add(found.digest)
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("config", "stated", "expected"),
    [
        ({"max_position_embeddings": 512}, None, 512),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}, None, 512),
        ({"max_position_embeddings": 8192}, 512, 512),
        ({"max_position_embeddings": 512}, int(1e30), 512),
        ({"model_type": "x"}, None, 512),
    ],
)
def test_longest_input(tmp_path, config, stated, expected):
    folder = make(tmp_path / "m", "model.safetensors", **config)
    if stated:
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}), "utf-8")
    assert find_checkpoint(folder).longest_input() == expected


def test_catalogue_rows_are_found_by_name():
    assert facts("intfloat/e5-small-v2").query_prompt == "query: "
    assert facts("BAAI/bge-reranker-v2-m3").query_prompt == ""
    assert facts("BAAI/bge-small-en-v1.5").pooling == "cls"
    assert facts("cross-encoder/ms-marco-MiniLM-L6-v2").read_out == "single"
    assert facts("crystina-z/monoELECTRA_LCE_nneg31").read_out == "second"
    assert facts("tomaarsen/Qwen3-Reranker-0.6B-seq-cls").frame is not None
    assert facts(str(Path("/models/unknown"))).pooling is None
    assert len({row.pattern for row in CATALOG}) == len(CATALOG)
