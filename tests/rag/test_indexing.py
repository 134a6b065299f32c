from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import chromadb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit import ChromaRetriever, InputError, ModelError, Passage, StoreError
from rerankit.rag.store import Store
from rerankit.rerankers.prepare import clean


class HashEmbedder:
    """Words hashed into a bag: the same text always gives the same vector."""

    def __init__(self, dim: int = 32, model_id: str = "hash@1") -> None:
        self.dim, self.model_id, self.texts = dim, model_id, []

    def encode(self, texts, *, kind="passage"):
        if kind == "passage":
            self.texts += texts
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split() or ["-"]:
                vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dim] += 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make(store="memory", **options):
    options.setdefault("collection", f"c-{uuid.uuid4().hex}")
    options.setdefault("embedder", HashEmbedder())
    return ChromaRetriever(store, **options)


def passages(count, text="Passage number {}"):
    return [Passage(f"p{n}", text.format(n), metadata={"n": n}) for n in range(count)]


def counts(report):
    return report.added, report.updated, report.unchanged, report.deleted, report.skipped


class TestIdempotence:
    def test_the_second_run_embeds_nothing(self):
        retriever = make()
        assert counts(retriever.index(passages(10))) == (10, 0, 0, 0, 0)
        assert counts(retriever.index(passages(10))) == (0, 0, 10, 0, 0)
        assert len(retriever.embedder.texts) == 10

    def test_only_what_changed_is_embedded_and_updated(self):
        retriever = make()
        retriever.index(passages(5))
        changed = [*passages(4), Passage("p4", "Another text"), Passage("p5", "New")]
        assert counts(retriever.index(changed)) == (1, 1, 4, 0, 0)
        assert retriever.embedder.texts[5:] == ["Another text", "New"]
        assert retriever.get(["p4"])[0].text == "Another text"

    def test_metadata_that_are_gone_are_gone(self):
        retriever = make()
        retriever.index([Passage("a", "text", metadata={"old": 1, "kept": 1})])
        retriever.index([Passage("a", "text", metadata={"kept": 2})])
        assert retriever.get(["a"])[0].metadata == {"kept": 2}

    @pytest.mark.parametrize("change", [{"title": "T"}, {"metadata": {"n": 1}}, {"embedding": np.eye(32)[0]}])
    def test_title_metadata_and_vector_count_as_content(self, change):
        retriever = make()
        retriever.index([Passage("a", "text")])
        assert retriever.index([Passage("a", "text").replace(**change)]).updated == 1

    def test_prune_deletes_what_is_not_there_any_more(self):
        retriever = make()
        retriever.index(passages(10))
        assert counts(retriever.index(passages(3), prune=True)) == (0, 0, 3, 7, 0)
        assert retriever.count() == 3

    def test_prune_of_many_pages(self, monkeypatch):
        retriever = make()
        retriever.index(passages(50))
        monkeypatch.setattr(Store, "max_batch", 7)
        assert retriever.index(passages(50)[::3], prune=True).deleted == 33
        assert retriever.count() == 17

    def test_prune_with_nothing_is_refused(self):
        retriever = make()
        retriever.index(passages(2))
        with pytest.raises(InputError, match="whole collection"):
            retriever.index([], prune=True)
        assert retriever.count() == 2

    def test_without_prune_nothing_is_deleted(self):
        retriever = make()
        retriever.index(passages(5))
        assert retriever.index(passages(2)).deleted == 0
        assert retriever.count() == 5


class TestInput:
    def test_a_repeated_passage_is_skipped_and_a_different_one_with_its_id_is_named(self):
        retriever = make()
        assert counts(retriever.index([*passages(3), *passages(2)], batch=2)) == (3, 0, 0, 0, 2)
        with pytest.raises(InputError, match="'p1'"):
            retriever.index([*passages(3), Passage("p1", "Something else")], batch=2)

    def test_empty_passages_are_skipped(self):
        retriever = make()
        assert counts(retriever.index([Passage("a", ""), Passage("b", " \n"), Passage("c", "x")])) == (1, 0, 0, 0, 2)

    @pytest.mark.parametrize("prune", [False, True])
    def test_a_passage_that_has_become_empty_is_deleted(self, prune):
        retriever = make(hybrid=True)
        retriever.index([Passage("a", "secret old text"), Passage("b", "b")])
        assert "a" in [p.id for p in retriever.retrieve("secret")]
        report = retriever.index([Passage("a", " "), Passage("b", "b")], prune=prune)
        assert counts(report) == (0, 0, 1, 1, 1)
        assert retriever.get(["a"]) == []
        assert [p.id for p in retriever.retrieve("secret")] == ["b"]

    def test_prune_with_nothing_but_empty_passages_is_refused(self):
        retriever = make()
        retriever.index(passages(3))
        with pytest.raises(InputError, match="whole collection"):
            retriever.index([Passage("p0", "")], prune=True)
        assert retriever.count() == 2

    @pytest.mark.parametrize("key", ["", "a\x00", "\ud800"])
    def test_an_unusable_id_is_refused(self, key):
        with pytest.raises(InputError, match="id"):
            make().index([Passage(key, "x")])

    def test_strings_are_refused_since_they_have_no_id(self):
        with pytest.raises(InputError, match="ids"):
            make().index(["text"])

    def test_surrogates_and_control_characters_are_cleaned_one_for_one(self):
        retriever = make()
        retriever.index([Passage("a", "Lime\ud800 it\x00", title="T\ud800", metadata={"k\x00": "v\ud800"})])
        (found,) = retriever.get(["a"])
        assert (found.text, found.title, found.metadata) == ("Lime\ufffd it ", "T\ufffd", {"k ": "v\ufffd"})

    def test_a_stream_is_read_in_batches(self):
        drawn, retriever = [], make()

        def stream():
            for passage in passages(10):
                drawn.append(passage.id)
                yield passage

        seen = []
        retriever.index(stream(), batch=4, progress=lambda count: seen.append((count, len(drawn))))
        assert seen == [(4, 4), (4, 8), (2, 10)]

    @pytest.mark.parametrize("error", [ValueError("mine"), OSError("mine"), KeyError("mine")])
    def test_an_error_of_the_callers_own_stream_passes_unchanged_and_keeps_what_was_written(self, error):
        retriever = make()

        def stream():
            yield from passages(4)
            raise error

        with pytest.raises(type(error), match="mine"):
            retriever.index(stream(), batch=2)
        assert retriever.count() == 4

    def test_the_progress_bar_goes_to_standard_error(self, capsys):
        make().index(passages(3), progress=True)
        out, err = capsys.readouterr()
        assert out == ""
        assert "3/3" in err

    @given(
        st.dictionaries(
            st.text(max_size=8),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                max_leaves=4,
            ),
            max_size=4,
        ),
        st.text(st.characters(codec="utf-8", categories=["L", "N"]), max_size=5),
    )
    @settings(max_examples=40, deadline=None)
    def test_any_json_metadata_and_title_come_back(self, metadata, title):
        metadata = {key: value for key, value in metadata.items() if not key.startswith("rerankit:")}
        retriever = make()
        try:
            retriever.index([Passage("a", "text", title=title, metadata=metadata)])
            (found,) = retriever.get(["a"])
        finally:
            retriever.drop()
        assert found.title == title
        assert stored_form(found.metadata) == stored_form({clean(k): v for k, v in metadata.items()})

    @pytest.mark.parametrize(("mine", "title"), [("other", "T"), ("T", "T"), ("other", ""), (5, "T")])
    def test_a_title_in_the_metadata_is_kept_apart(self, mine, title):
        retriever = make()
        retriever.index([Passage("a", "text", title=title, metadata={"title": mine})])
        (found,) = retriever.get(["a"])
        assert (found.title, found.metadata) == (title, {"title": mine})

    def test_lists_of_a_deleted_collection_do_not_reappear(self):
        client, name = chromadb.EphemeralClient(), f"c-{uuid.uuid4().hex}"
        collection = client.create_collection(name, embedding_function=None)
        ids = [f"g{n}" for n in range(50)]
        collection.add(ids=ids, embeddings=np.ones((50, 2)), metadatas=[{"ghost": ["x"]}] * 50)
        client.delete_collection(name)
        retriever = make(client)
        retriever.index([passage.replace(metadata={"mine": [1]}) for passage in passages(50)])
        assert all(found.metadata == {"mine": [1]} for found in retriever.get([f"p{n}" for n in range(50)]))

    @pytest.mark.parametrize(
        "metadata",
        [
            {f"k{n}": n for n in range(7000)},
            {"words": ["w"] * 7000},
            {f"numbers{n}": list(range(1000)) for n in range(10)},
        ],
        ids=["keys", "list", "lists"],
    )
    def test_masses_of_metadata_come_back_and_leave_the_store_whole(self, tmp_path, metadata):
        wide = Passage("wide", "text", metadata={"source": "a.csv", **metadata})
        with make(tmp_path / "store", collection="passages") as retriever:
            retriever.index([wide])
            retriever.index([wide.replace(text="other text"), Passage("next", "next")])
        with make(tmp_path / "store", collection="passages") as reopened:
            (found,) = reopened.get(["wide"])
            assert (found.text, found.metadata) == ("other text", wide.metadata)
            assert [p.id for p in reopened.retrieve("text", where={"source": "a.csv"})] == ["wide"]
            assert reopened.index([wide.replace(text="other text")]).unchanged == 1

    @pytest.mark.parametrize("kind", [list, dict])
    def test_metadata_nested_too_deeply_name_their_passage(self, kind):
        retriever, nested = make(), kind()
        for _ in range(900):
            nested = [nested] if kind is list else {"k": nested}
        with pytest.raises(InputError, match=r"'deep'.*'m'.*nested too deeply"):
            retriever.index([Passage("deep", "text", metadata={"m": nested})])

    def test_metadata_are_copied_not_changed(self):
        metadata = {"list": [1, 2], "nested": {"a": None}}
        passage = Passage("a", "text", metadata=metadata)
        make().index([passage])
        assert passage.metadata == {"list": [1, 2], "nested": {"a": None}}


def stored_form(value):
    """Equal for values that a store cannot tell apart after cleaning."""
    if isinstance(value, dict):
        return {clean(str(key)): stored_form(item) for key, item in value.items()}
    if isinstance(value, list):
        return [stored_form(item) for item in value]
    if isinstance(value, str):
        return clean(value)
    return float(f"{value:.12g}") if isinstance(value, float) else value  # Chroma may change a float's last bit


class TestVectors:
    def test_given_vectors_are_used_as_they_are(self):
        vectors = np.random.default_rng(0).normal(size=(4, 32))
        retriever = make()
        retriever.index([Passage(f"p{n}", "x", embedding=vector) for n, vector in enumerate(vectors)])
        assert retriever.embedder.texts == []
        found = retriever.get(["p2"])[0]
        np.testing.assert_allclose(found.embedding, vectors[2], rtol=1e-6)
        assert found.embedding.dtype == np.float32
        assert found.embedding_model == "hash@1"

    @pytest.mark.parametrize(
        "vector", [np.full(32, np.nan), np.full(32, np.inf), np.zeros(32), np.ones((2, 32)), np.ones(0)]
    )
    def test_unusable_vectors_are_named(self, vector):
        with pytest.raises(InputError, match="'bad'"):
            make().index([Passage("bad", "x", embedding=vector)])

    def test_a_wrong_dimension_says_which_and_what_to_do(self):
        retriever = make()
        retriever.index(passages(2))
        with pytest.raises(StoreError, match=r"dimension 8.*dimension 32.*collection=") as caught:
            retriever.index([Passage("x", "x", embedding=np.ones(8))])
        assert "'x'" in str(caught.value)

    def test_vectors_of_another_embedder_are_refused(self):
        with pytest.raises(InputError, match="other@1"):
            make().index([Passage("x", "x", embedding=np.ones(32), embedding_model="other@1")])

    def test_without_an_embedder_the_vectors_name_it(self):
        retriever = ChromaRetriever("memory", collection=f"c-{uuid.uuid4().hex}")
        retriever.index([Passage("x", "x", embedding=np.ones(5), embedding_model="other@1")])
        with pytest.raises(StoreError, match=r"indexed with embedder 'other@1', not 'more@2'"):
            retriever.index([Passage("y", "y", embedding=np.ones(5), embedding_model="more@2")])

    def test_a_changed_embedder_is_refused_with_the_fix(self):
        retriever = make()
        retriever.index(passages(2))
        other = make(collection=retriever._name, embedder=HashEmbedder(model_id="hash@2"))
        for use in (lambda: other.index(passages(2)), lambda: other.retrieve("passage")):
            with pytest.raises(StoreError, match=r"indexed with embedder 'hash@1', not 'hash@2'.*collection="):
                use()

    @pytest.mark.parametrize("broken", [np.full((2, 32), np.nan), np.ones((1, 32)), np.ones((2, 3))])
    def test_nonsense_from_the_embedder_is_a_model_error(self, broken):
        embedder = HashEmbedder()
        embedder.encode = lambda texts, kind="passage": broken
        with pytest.raises(ModelError, match="hash@1"):
            make(embedder=embedder).index(passages(2))


class TestForeignCollections:
    def test_a_fitting_collection_may_be_added_to_and_keeps_its_own_metadata(self):
        embedder = HashEmbedder()
        collection = chromadb.EphemeralClient().create_collection(
            f"c-{uuid.uuid4().hex}", metadata={"hnsw:space": "cosine", "owner": "me"}, embedding_function=None
        )
        collection.add(ids=["old"], documents=["old text"], embeddings=embedder.encode(["old text"]))
        assert make(collection, embedder=embedder).index([Passage("new", "new text")]).added == 1
        assert collection.count() == 2
        assert collection.metadata["owner"] == "me"

    def test_one_made_with_another_model_is_not(self):
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        collection.add(ids=["old"], documents=["old text"], embeddings=np.eye(32)[:1] - 0.5)
        with pytest.raises(StoreError, match="another embedder"):
            make(collection).index([Passage("new", "new text")])
        assert collection.count() == 1

    def test_one_without_documents_is_not_added_to(self):
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        collection.add(ids=["old"], embeddings=np.eye(32)[:1])
        with pytest.raises(StoreError, match="no documents"):
            make(collection).index([Passage("new", "new text")])
        assert collection.count() == 1


class TestKilled:
    CHILD = """
        import sys
        from test_indexing import HashEmbedder
        from rerankit import ChromaRetriever, Passage

        def advance(count):
            print(count, flush=True)

        retriever = ChromaRetriever(sys.argv[1], embedder=HashEmbedder())
        stream = (Passage(f"p{n}", f"Passage number {n}", metadata={"n": n}) for n in range(2000))
        retriever.index(stream, batch=100, progress=advance)
    """

    def test_killed_in_the_middle_and_run_again_nothing_is_lost_and_nothing_is_twice(self, tmp_path):
        store = tmp_path / "store"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.getcwd()])}
        command = [sys.executable, "-c", textwrap.dedent(self.CHILD), str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            for _ in range(3):
                assert child.stdout.readline() == "100\n"
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        with ChromaRetriever(store, embedder=HashEmbedder()) as retriever:
            before = retriever.count()
            assert 300 <= before < 2000
            report = retriever.index(passages(2000))
            assert counts(report) == (2000 - before, 0, before, 0, 0)
            assert retriever.count() == 2000
            assert {p.metadata["n"] for p in retriever.get([f"p{n}" for n in range(2000)])} == set(range(2000))
            assert all(retriever.retrieve(f"Passage number {n}", k=1)[0].score > 0.999 for n in (0, 350, 1999))
