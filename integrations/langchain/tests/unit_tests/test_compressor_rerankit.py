"""RerankitCompressor and its runnable: the order is rerankit's, the caller's documents are the caller's."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading

import numpy as np
import pytest
from families import Broken, WordOverlap
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_rerankit import RerankitCompressor, RerankitRunnable
from pydantic import SecretStr, ValidationError

import rerankit
from rerankit import InputError, ModelError, Passage, PointwiseReranker, adapters, spec

TEXTS = ["Sheep are shorn in spring.", "Leaf rust shows as orange pustules on wheat.", "Wheat is sown in autumn."]


def documents(*texts):
    return [Document(text, id=f"d{i}", metadata={"source": i}) for i, text in enumerate(texts or TEXTS)]


def placed(items):
    return [item.metadata["rerankit"]["prior_rank"] - 1 for item in items]


def test_best_first_with_both_scores():
    given_documents = [Document(text, id=f"d{i}", metadata={"cosine": i / 10}) for i, text in enumerate(TEXTS)]
    compressor = RerankitCompressor(reranker="lexical", top_n=2, prior_score_key="cosine")
    results = compressor.compress_documents(given_documents, "wheat rust")
    assert isinstance(compressor, BaseDocumentCompressor)
    assert [item.id for item in results] == ["d1", "d2"]
    record = results[0].metadata["rerankit"]
    assert (record["rank"], record["prior_rank"], record["prior_score"], record["scale"]) == (1, 2, 0.1, "bm25")
    assert type(record["score"]) is float
    assert json.loads(json.dumps(record)) == record


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
metadata = st.dictionaries(
    st.sampled_from(["rerankit", "title", "id"]) | st.text(max_size=6), plain | st.lists(plain, max_size=3), max_size=3
)
candidates = st.lists(
    st.builds(
        Document,
        st.sampled_from(["rust on wheat", "sheep", "", "   ", "\x00\ud800", "wheat " * 400]) | st.text(),
        id=st.none() | st.sampled_from(["a", "b", ""]),
        metadata=metadata,
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=60)
@given(candidates, st.none() | st.integers(1, 10))
def test_laws(items, top_n):
    compressor = RerankitCompressor(reranker="lexical", top_n=top_n, prior_score_key="id")
    before = copy.deepcopy(items)
    results = compressor.compress_documents(items, "wheat rust")
    assert items == before

    places = placed(results)
    assert len(set(places)) == len(places) == min(len(items), top_n or len(items))
    for item, place in zip(results, places, strict=True):
        source, record = items[place], item.metadata["rerankit"]
        assert item is not source
        assert (item.id, item.page_content, item.type) == (source.id, source.page_content, source.type)
        assert {**item.metadata, "rerankit": 0} == {**source.metadata, "rerankit": 0}
        json.dumps(record, allow_nan=False)
    scored = [r["score"] for r in (item.metadata["rerankit"] for item in results) if r["status"] == "scored"]
    assert scored == sorted(scored, reverse=True)


def test_the_order_is_that_of_the_reranker_and_titles_are_read():
    items = [*documents(), Document("Grows upright.", metadata={"title": "Wheat"})]
    passages = [Passage(str(i), item.page_content, item.metadata.get("title", "")) for i, item in enumerate(items)]
    expected = rerankit.load("default").rank("When is wheat sown?", passages)
    results = RerankitCompressor().compress_documents(items, "When is wheat sown?")
    assert placed(results) == [hit.prior_rank - 1 for hit in expected]
    assert [item.metadata["rerankit"]["score"] for item in results] == pytest.approx([hit.score for hit in expected])

    overlap = WordOverlap()
    RerankitCompressor(reranker=overlap, title_key=None).compress_documents(items, "wheat")
    assert all(passage.title == "" for _, passage in overlap.seen)


def test_a_second_step_keeps_the_score_of_the_first():
    pipeline = DocumentCompressorPipeline(
        transformers=[RerankitCompressor(reranker="lexical"), RerankitCompressor(reranker=WordOverlap())]
    )
    once = RerankitCompressor(reranker="lexical").compress_documents(documents(), "wheat rust")
    twice = pipeline.compress_documents(documents(), "wheat rust")
    first = {item.id: item.metadata["rerankit"]["score"] for item in once}
    assert {item.id: item.metadata["rerankit"]["prior_score"] for item in twice} == first


def test_what_it_refuses():
    with pytest.raises(InputError, match="query is empty"):
        RerankitCompressor(reranker="lexical").compress_documents(documents(), " ")
    with pytest.raises(ValidationError, match="did you mean 'lexical'"):
        RerankitCompressor(reranker="lexicl")
    with pytest.raises(ValidationError, match="top_k"):
        RerankitCompressor(reranker="lexical", top_k=3)
    with pytest.raises(ValidationError, match="top_n"):
        RerankitCompressor(reranker="lexical", top_n=0)
    assert RerankitCompressor(reranker="lexical").compress_documents([], "rust") == []


def gone(request, call):
    raise ModelError("gone")


def test_a_failure_raises_or_keeps_the_order():
    with pytest.raises(ModelError, match="gone"):
        RerankitCompressor(reranker=Broken(gone)).compress_documents(documents(), "rust")
    kept = RerankitCompressor(reranker=Broken(gone, on_error="keep_order")).compress_documents(documents(), "rust")
    assert placed(kept) == [0, 1, 2]
    assert kept[0].metadata["rerankit"]["score"] is None
    assert kept[0].metadata["rerankit"]["reason"] == "ModelError: gone"


class Hosted(WordOverlap):
    """A family that takes a key."""

    def __init__(self, *, api_key="", **options):
        super().__init__(**options)
        self.api_key = api_key


def test_keys_are_used_but_never_written(monkeypatch):
    monkeypatch.setitem(spec.families(), "hosted", spec.Family("hosted", f"{__name__}:Hosted", "takes a key"))
    compressor = RerankitCompressor(reranker="hosted", options={"api_key": "sk-1"})
    spelled = RerankitCompressor(reranker="hosted[api_key=sk-1]")
    assert compressor._reranker.api_key == spelled._reranker.api_key == "sk-1"
    for item in (compressor, spelled):
        assert "sk-1" not in item.model_dump_json() + repr(item) + str(item)
        assert json.loads(item.model_dump_json())["reranker"] == "hosted"
    with pytest.raises(ValidationError) as refused:
        RerankitCompressor(reranker="hosted", options={"api_key": "sk-1", "wrong": 1})
    assert "sk-1" not in str(refused.value)


async def test_async_gives_the_same():
    compressor = RerankitCompressor(reranker="lexical", top_n=2)
    now = compressor.compress_documents(documents(), "wheat rust")
    assert await compressor.acompress_documents(documents(), "wheat rust") == now


async def test_concurrent_calls_do_not_mix():
    compressor = RerankitCompressor(reranker="lexical")
    calls = [
        (documents(*(f"{word} number {n}" for n in range(5))), f"{word} {i % 5}") for i, word in enumerate("abcdef")
    ]
    later = await asyncio.gather(*(compressor.acompress_documents(items, query) for items, query in calls))
    assert later == [compressor.compress_documents(items, query) for items, query in calls]


class Waiting(PointwiseReranker):
    """Answers only after the event loop has moved on."""

    model, scale = "waiting", "order"

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def score_pairs(self, pairs, call):
        assert self.go.wait(timeout=30)
        return np.zeros(len(pairs))


async def test_the_event_loop_runs_on_while_the_model_works():
    waiting = Waiting()
    task = asyncio.create_task(RerankitCompressor(reranker=waiting).acompress_documents(documents(), "rust"))
    await asyncio.sleep(0)
    waiting.go.set()
    assert len(await task) == 3


class Fixed(BaseRetriever):
    """Finds the same documents for every question."""

    def _get_relevant_documents(self, query, *, run_manager):
        return documents()


async def test_in_a_contextual_compression_retriever():
    compressor = RerankitCompressor(reranker="lexical", top_n=1)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Fixed())
    assert [item.id for item in retriever.invoke("rust")] == ["d1"]
    assert [item.id for item in await retriever.ainvoke("rust")] == ["d1"]


class Counting(WordOverlap):
    """Remembers how many lists came with each call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def score_lists(self, requests, call):
        self.calls.append(len(requests))
        return super().score_lists(requests, call)


QUESTIONS = ["rust on wheat", "sheep in spring", "sown in autumn"]


async def test_a_batch_is_one_call_of_the_model():
    counting = Counting()
    step = RerankitCompressor(reranker=counting, top_n=1).as_runnable()
    inputs = [{"query": question, "documents": documents()} for question in QUESTIONS]
    one_by_one = [step.invoke(item) for item in inputs]
    counting.calls.clear()
    assert step.batch(inputs) == await step.abatch(inputs) == one_by_one
    assert counting.calls == [3, 3]
    assert [items[0].id for items in one_by_one] == ["d1", "d0", "d2"]
    assert await step.ainvoke(inputs[0]) == one_by_one[0]
    assert step.batch([]) == await step.abatch([]) == []


async def test_one_bad_question_spoils_only_its_own_answer():
    step = RerankitRunnable(compressor=RerankitCompressor(reranker="lexical"))
    inputs = [{"query": question, "documents": documents()} for question in ("rust", " ")] + [{"query": "rust"}]
    for results in (
        step.batch(inputs, return_exceptions=True),
        await step.abatch(inputs, return_exceptions=True),
    ):
        assert [item.id for item in results[0]] == ["d1", "d0", "d2"]
        assert [type(error) for error in results[1:]] == [InputError, InputError]
        assert "'query': 'rust'" in str(results[2])
    with pytest.raises(InputError, match="empty"):
        step.batch(inputs[:2])
    with pytest.raises(InputError, match="documents"):
        step.invoke({"query": "rust"})


async def test_in_a_chain_with_events():
    step = RerankitCompressor(reranker="lexical", top_n=1).as_runnable()
    chain = (
        {"query": RunnablePassthrough(), "documents": Fixed()}
        | RunnablePassthrough.assign(documents=step)
        | RunnableLambda(lambda state: state["documents"][0].id)
    )
    assert chain.invoke("rust") == "d1"
    assert chain.batch(QUESTIONS) == ["d1", "d0", "d2"]
    names = [event["name"] async for event in chain.astream_events("rust") if event["event"] == "on_chain_end"]
    assert "RerankitRunnable" in names


@pytest.mark.parametrize("change", [list.reverse, list.clear])
async def test_what_the_caller_does_to_its_list_meanwhile_changes_nothing(change):
    slow, items = WordOverlap(delay=0.05), documents()
    task = asyncio.create_task(RerankitCompressor(reranker=slow).acompress_documents(items, "leaf rust"))
    while not slow.seen:
        await asyncio.sleep(0)
    change(items)
    results = await task
    assert results[0].page_content == TEXTS[1]
    assert len(results) == 3


def test_lists_and_dictionaries_of_metadata_are_the_results_own():
    lock = threading.Lock()
    item = Document("rust", metadata={"pages": [1, {"of": [2]}], "pair": ([3],), "client": lock})
    item.metadata["self"] = [item.metadata["pages"]]
    (result,) = RerankitCompressor(reranker="lexical").compress_documents([item], "rust")
    result.metadata["pages"][1]["of"].append(9)
    result.metadata["pair"][0].append(9)
    assert (item.metadata["pages"], item.metadata["pair"]) == ([1, {"of": [2]}], ([3],))
    assert result.metadata["client"] is lock


def raising():
    yield documents()[0]
    raise OSError("gone")


@pytest.mark.parametrize(
    ("bad", "error"),
    [(None, InputError), (["str"], InputError), ([Document("rust"), None], InputError), ("rust", InputError),
     (raising(), OSError)],
)  # fmt: skip
async def test_bad_documents_spoil_only_their_own_answer(bad, error):
    step = RerankitCompressor(reranker="lexical").as_runnable()

    def inputs():
        return [
            {"query": "rust", "documents": documents()},
            {"query": "rust", "documents": bad},
            {"query": "wheat", "documents": iter(documents())},
        ]

    results = step.batch(inputs(), return_exceptions=True)
    later = await step.abatch(inputs(), return_exceptions=True)
    assert type(results[1]) is error
    for found in (results, later):
        assert [item.id for item in found[0]] == ["d1", "d0", "d2"]
        assert found[2][0].id in ("d1", "d2")
    with pytest.raises(InputError, match=r"documents\[0\] must be a Document, got str"):
        RerankitCompressor(reranker="lexical").compress_documents(["rust"], "rust")


class Choosy(WordOverlap):
    """Breaks on one word with an error that is not rerankit's."""

    def score_pairs(self, pairs, call):
        if any(query == "boom" for query, _ in pairs):
            raise RuntimeError("no such luck")
        return super().score_pairs(pairs, call)


def test_an_error_of_the_model_spoils_only_its_own_answer():
    step = RerankitCompressor(reranker=Choosy()).as_runnable()
    good, bad = step.batch(
        [{"query": query, "documents": documents()} for query in ("leaf rust", "boom")], return_exceptions=True
    )
    assert good[0].page_content == TEXTS[1]
    assert isinstance(bad, RuntimeError)


def copies(item):
    return copy.deepcopy(item), item.model_copy(deep=True), pickle.loads(pickle.dumps(item))


def test_copies_and_pickles_load_the_model_again(monkeypatch):
    monkeypatch.setitem(spec.families(), "hosted", spec.Family("hosted", f"{__name__}:Hosted", "takes a key"))
    compressor = RerankitCompressor(reranker="hosted[top_k=3]", options={"api_key": "sk-1"}, top_n=1)
    for made in (compressor, compressor.as_runnable()):
        for again in copies(made):
            inner = getattr(again, "compressor", again)
            assert inner._reranker is not compressor._reranker
            assert inner.compress_documents(documents(), "leaf rust") == compressor.compress_documents(
                documents(), "leaf rust"
            )
        assert b"sk-1" not in pickle.dumps(made)
        assert getattr(copy.deepcopy(made), "compressor", copy.deepcopy(made))._reranker.api_key == "sk-1"
    built = RerankitCompressor(reranker=WordOverlap())
    for attempt in (copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match="was built already"):
            attempt(built)
        with pytest.raises(InputError, match="was built already"):
            attempt(built.as_runnable())


async def test_a_model_is_loaded_off_the_event_loop(monkeypatch):
    again, threads = pickle.loads(pickle.dumps(RerankitCompressor(reranker="lexical"))), []
    load = adapters.load
    monkeypatch.setattr(
        adapters, "load", lambda *given, **more: threads.append(threading.get_ident()) or load(*given, **more)
    )
    assert await again.acompress_documents(documents(), "leaf rust")
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_a_wrapped_key_is_opened_and_never_written(monkeypatch):
    monkeypatch.setitem(spec.families(), "hosted", spec.Family("hosted", f"{__name__}:Hosted", "takes a key"))
    compressor = RerankitCompressor(reranker="hosted", options={"api_key": SecretStr("sk-1")})
    assert compressor._reranker.api_key == "sk-1"
    assert "api_key" not in compressor.model_dump_json()
