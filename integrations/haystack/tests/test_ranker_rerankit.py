"""RerankitRanker: the order is rerankit's, the caller's documents are the caller's, pipelines serialise."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading

import numpy as np
import pytest
from families import Broken, WordOverlap
from haystack import Document, Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import ByteStream
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret
from haystack_integrations.components.rankers.rerankit import RerankitRanker
from hypothesis import given, settings
from hypothesis import strategies as st

import rerankit
from rerankit import InputError, ModelError, Passage, PointwiseReranker, SpecError, spec

TEXTS = ["Sheep are shorn in spring.", "Leaf rust shows as orange pustules on wheat.", "Wheat is sown in autumn."]


def documents(*texts):
    return [Document(content=text, id=f"d{i}", score=1.0 - i / 10) for i, text in enumerate(texts or TEXTS)]


def test_best_first_with_both_scores():
    found = RerankitRanker("lexical").run(query="wheat rust", documents=documents(), top_k=2)["documents"]
    assert [item.id for item in found] == ["d1", "d2"]
    record = found[0].meta["rerankit"]
    assert (record["rank"], record["prior_rank"], record["prior_score"], record["scale"]) == (1, 2, 0.9, "bm25")
    assert found[0].score == record["score"]
    assert type(found[0].score) is float
    assert Document.from_dict(json.loads(json.dumps(found[0].to_dict()))) == found[0]


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
candidates = st.lists(
    st.builds(
        Document,
        content=st.none() | st.sampled_from(["rust on wheat", "sheep", "", "  ", "\x00", "wheat " * 400]) | st.text(),
        id=st.sampled_from(["a", "b", "c"]),
        meta=st.dictionaries(st.sampled_from(["rerankit", "title"]) | st.text(max_size=6), plain, max_size=3),
        score=st.none() | st.floats(allow_nan=False),
        embedding=st.none() | st.just([0.0, 1.0]),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(candidates, st.none() | st.integers(1, 10))
def test_laws(items, top_k):
    before = copy.deepcopy(items)
    ranker = RerankitRanker("lexical", top_k=top_k, meta_fields_to_embed=["title"])
    found = ranker.run(query="wheat rust", documents=items)["documents"]
    assert items == before

    places = [item.meta["rerankit"]["prior_rank"] - 1 for item in found]
    assert len(set(places)) == len(places) == min(len(items), top_k or len(items))
    for item, place in zip(found, places, strict=True):
        source, record = items[place], item.meta["rerankit"]
        assert item is not source
        assert (item.id, item.content, item.embedding) == (source.id, source.content, source.embedding)
        assert {**item.meta, "rerankit": 0} == {**source.meta, "rerankit": 0}
        assert record["score"] == item.score
        json.dumps(record, allow_nan=False)
    scored = [item.score for item in found if item.meta["rerankit"]["status"] == "scored"]
    assert scored == sorted(scored, reverse=True)


def test_the_order_is_that_of_the_reranker_and_metadata_are_read():
    items = [*documents(), Document(content="Grows upright.", meta={"crop": "Wheat", "organ": None})]
    passages = [Passage(item.id, item.content, item.meta.get("crop", "")) for item in items]
    expected = rerankit.load("default").rank("When is wheat sown?", passages)
    ranker = RerankitRanker(meta_fields_to_embed=["crop", "organ"])
    found = ranker.run(query="When is wheat sown?", documents=items)["documents"]
    assert [item.id for item in found] == [hit.id for hit in expected]
    assert [item.score for item in found] == pytest.approx([hit.score for hit in expected])


def test_documents_without_text_come_last():
    picture = Document(id="picture", blob=ByteStream(b"\x89PNG"))
    found = RerankitRanker("lexical").run(query="rust", documents=[picture, *documents()])["documents"]
    assert found[-1].id == "picture"
    assert found[-1].blob == picture.blob


def test_what_it_refuses():
    ranker = RerankitRanker("lexical")
    with pytest.raises(InputError, match="query is empty"):
        ranker.run(query=" ", documents=documents())
    with pytest.raises(InputError, match="top_k"):
        ranker.run(query="rust", documents=documents(), top_k=0)
    with pytest.raises(InputError, match="top_k"):
        RerankitRanker("lexical", top_k=0)
    with pytest.raises(SpecError, match="did you mean 'lexical'"):
        RerankitRanker("lexicl").warm_up()
    assert ranker.run(query="rust", documents=[]) == {"documents": []}


def gone(request, call):
    raise ModelError("gone")


def test_a_failure_raises_or_keeps_the_order():
    with pytest.raises(ModelError, match="gone"):
        RerankitRanker(Broken(gone)).run(query="rust", documents=documents())
    kept = RerankitRanker(Broken(gone, on_error="keep_order")).run(query="rust", documents=documents())["documents"]
    assert [(item.id, item.score) for item in kept] == [("d0", None), ("d1", None), ("d2", None)]
    assert kept[0].meta["rerankit"]["reason"] == "ModelError: gone"


class Waiting(PointwiseReranker):
    """Answers only after the event loop has moved on."""

    model, scale = "waiting", "order"

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def score_pairs(self, pairs, call):
        assert self.go.wait(timeout=30)
        return np.zeros(len(pairs))


async def test_async_gives_the_same_and_the_event_loop_runs_on():
    ranker = RerankitRanker("lexical")
    assert await ranker.run_async(query="wheat rust", documents=documents()) == ranker.run("wheat rust", documents())

    waiting = Waiting()
    task = asyncio.create_task(RerankitRanker(waiting).run_async(query="rust", documents=documents()))
    await asyncio.sleep(0)
    waiting.go.set()
    assert len((await task)["documents"]) == 3


def test_serialised_and_back():
    ranker = RerankitRanker(
        "lexical[:2]", top_k=1, options={"on_error": "keep_order"}, deadline_s=5.0, meta_fields_to_embed=["title"]
    )
    data = json.loads(json.dumps(ranker.to_dict()))
    assert data["type"] == "haystack_integrations.components.rankers.rerankit.ranker.RerankitRanker"
    again = RerankitRanker.from_dict(data)
    assert again.to_dict() == ranker.to_dict()
    assert again.run("rust", documents()) == ranker.run("rust", documents())
    with pytest.raises(InputError, match="spec"):
        RerankitRanker(rerankit.load("lexical")).to_dict()


class Hosted(WordOverlap):
    """A family that takes a key."""

    def __init__(self, *, api_key="", **options):
        super().__init__(**options)
        self.api_key = api_key


def test_keys_are_used_but_never_written(monkeypatch):
    monkeypatch.setitem(spec.families(), "hosted", spec.Family("hosted", f"{__name__}:Hosted", "takes a key"))
    for ranker in (RerankitRanker("hosted", options={"api_key": "sk-1"}), RerankitRanker("hosted[api_key=sk-1]")):
        assert ranker._warm().api_key == "sk-1"
        assert "sk-1" not in json.dumps(ranker.to_dict())


@pytest.fixture
def pipeline():
    store = InMemoryDocumentStore()
    store.write_documents([Document(content=text, id=f"d{i}") for i, text in enumerate(TEXTS)])
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=3))
    pipeline.add_component("joiner", DocumentJoiner())
    pipeline.add_component("ranker", RerankitRanker("lexical", top_k=1))
    pipeline.connect("retriever", "joiner")
    pipeline.connect("joiner.documents", "ranker.documents")
    return pipeline


async def test_in_a_pipeline(pipeline):
    asked = {"retriever": {"query": "wheat rust"}, "ranker": {"query": "wheat rust"}}
    assert [item.id for item in pipeline.run(asked)["ranker"]["documents"]] == ["d1"]
    later = await pipeline.run_async(asked)
    assert [item.id for item in later["ranker"]["documents"]] == ["d1"]
    again = Pipeline.loads(pipeline.dumps())
    assert again.get_component("ranker").to_dict() == pipeline.get_component("ranker").to_dict()


@pytest.mark.parametrize("change", [list.reverse, list.clear])
async def test_what_the_caller_does_to_its_list_meanwhile_changes_nothing(change):
    slow, items = WordOverlap(delay=0.05), documents()
    task = asyncio.create_task(RerankitRanker(slow).run_async(query="leaf rust", documents=items))
    while not slow.seen:
        await asyncio.sleep(0)
    change(items)
    found = (await task)["documents"]
    assert (len(found), found[0].content) == (3, TEXTS[1])


def test_lists_and_dictionaries_of_metadata_are_the_results_own():
    item = Document(content="rust", meta={"pages": [1, {"of": [2]}]})
    (found,) = RerankitRanker("lexical").run(query="rust", documents=[item])["documents"]
    found.meta["pages"][1]["of"].append(9)
    assert item.meta == {"pages": [1, {"of": [2]}]}


def test_copies_and_pickles_load_the_model_again(monkeypatch):
    monkeypatch.setitem(spec.families(), "hosted", spec.Family("hosted", f"{__name__}:Hosted", "takes a key"))
    ranker = RerankitRanker("hosted", top_k=1, options={"api_key": "sk-1"}, meta_fields_to_embed=["title"])
    ranker.warm_up()
    for again in (copy.deepcopy(ranker), pickle.loads(pickle.dumps(ranker))):
        assert again.to_dict() == ranker.to_dict()
        assert again.run("leaf rust", documents()) == ranker.run("leaf rust", documents())
    assert copy.deepcopy(ranker)._warm().api_key == "sk-1"
    assert b"sk-1" not in pickle.dumps(ranker)
    for attempt in (copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match="was built already"):
            attempt(RerankitRanker(WordOverlap()))


def test_a_secret_is_resolved_when_the_model_is_loaded(monkeypatch):
    monkeypatch.setitem(spec.families(), "hosted", spec.Family("hosted", f"{__name__}:Hosted", "takes a key"))
    given_token = RerankitRanker("hosted", options={"api_key": Secret.from_token("sk-1")})
    from_variable = RerankitRanker("hosted", options={"api_key": Secret.from_env_var("HOSTED_KEY")})
    monkeypatch.setenv("HOSTED_KEY", "sk-2")
    assert given_token._warm().api_key == "sk-1"
    assert from_variable._warm().api_key == "sk-2"
    assert "api_key" not in json.dumps(given_token.to_dict())


@pytest.mark.parametrize("top_k", ["2", 1.5, [1]])
def test_top_k_must_be_a_whole_number(top_k):
    with pytest.raises(InputError, match="top_k must be a whole number"):
        RerankitRanker("lexical", top_k=top_k)
    with pytest.raises(InputError, match="top_k must be"):
        RerankitRanker("lexical").run("rust", documents(), top_k=top_k)
