"""Weights inside the package: the published files or none."""

from __future__ import annotations

import json

import pytest

from rerankit.errors import ModelError
from rerankit.models import shipped


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"numbers")
    (tmp_path / "tiny" / "config.json").write_text("{}")
    return tmp_path


def test_sealed_weights_are_found(weights):
    shipped.seal("tiny")
    assert shipped.folder("tiny") == weights / "tiny"
    assert set(json.loads((weights / "hashes.json").read_text())["tiny"]) == {"model.safetensors", "config.json"}


def test_sealing_one_keeps_the_others(weights):
    shipped.seal("tiny")
    (weights / "other").mkdir()
    (weights / "other" / "config.json").write_text("{}")
    shipped.seal("other")
    assert shipped.folder("tiny").is_dir()
    assert shipped.folder("other").is_dir()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_file_is_refused_with_both_digests_and_the_way_out(weights, file):
    shipped.seal("tiny")
    (weights / "tiny" / file).write_bytes(b"other")
    with pytest.raises(ModelError, match=rf"{file}.*expected sha256 \w+, found d9298a10.*pip install"):
        shipped.folder("tiny")


def test_a_missing_file_is_refused(weights):
    shipped.seal("tiny")
    (weights / "tiny" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing.*pip install"):
        shipped.folder("tiny")


def test_what_is_not_shipped_is_said_with_what_is(weights):
    with pytest.raises(ModelError, match=r"it ships none.*rerankit train tiny"):
        shipped.folder("tiny")
    shipped.seal("tiny")
    with pytest.raises(ModelError, match=r"no weights 'reader'.*it ships tiny"):
        shipped.folder("reader")
    with pytest.raises(ModelError, match="nothing to publish"):
        shipped.seal("reader")
