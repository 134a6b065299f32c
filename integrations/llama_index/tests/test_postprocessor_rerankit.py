"""RerankitRerank: the order is rerankit's, the caller's nodes are the caller's, nothing secret is written."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import threading

import numpy as np
import pytest
from families import Broken, WordOverlap
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, IndexNode, MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.rerankit import RerankitRerank

import rerankit
from rerankit import InputError, ModelError, Passage, PointwiseReranker, SpecError, adapters, spec

TEXTS = ["Sheep are shorn in spring.", "Leaf rust shows as orange pustules on wheat.", "Wheat is sown in autumn."]


def nodes(*texts, **fields):
    return [
        NodeWithScore(node=TextNode(id_=f"n{i}", text=text, **fields), score=1.0 - i / 10)
        for i, text in enumerate(texts or TEXTS)
    ]


def dumped(items):
    return pickle.dumps([(item.score, item.node.to_dict()) for item in items])


def test_class():
    assert BaseNodePostprocessor.__name__ in [base.__name__ for base in RerankitRerank.__mro__]


def test_best_first_with_both_scores():
    given_nodes = nodes()
    results = RerankitRerank("lexical", top_n=2).postprocess_nodes(given_nodes, query_str="wheat rust")
    assert [item.node.node_id for item in results] == ["n1", "n2"]
    record = results[0].node.metadata["rerankit"]
    assert (record["rank"], record["prior_rank"], record["prior_score"], record["scale"]) == (1, 2, 0.9, "bm25")
    assert results[0].score == record["score"]
    assert type(results[0].score) is float
    assert json.loads(json.dumps(record)) == record


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
metadata = st.dictionaries(
    st.text(max_size=6).filter(lambda key: key != "rerankit"), plain | st.lists(plain, max_size=3), max_size=3
)
candidates = st.lists(
    st.tuples(
        st.sampled_from(["rust on wheat", "sheep", "", "   ", "\x00\ud800", "wheat " * 400]) | st.text(),
        st.sampled_from(["a", "b", "c"]),
        metadata,
        st.none() | st.floats(),
    ).map(
        lambda item: NodeWithScore(node=TextNode(text=item[0], id_=item[1], metadata=item[2]), score=item[3])
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=60)
@given(candidates, st.none() | st.integers(1, 10))
def test_laws(items, top_n):
    rerank = RerankitRerank("lexical", top_n=top_n)
    before = dumped(items)
    results = rerank.postprocess_nodes(items, query_str="wheat rust")
    assert dumped(items) == before

    places = [item.node.metadata["rerankit"]["prior_rank"] - 1 for item in results]
    assert len(set(places)) == len(places) == min(len(items), top_n or len(items))
    for item, place in zip(results, places, strict=True):
        source = items[place]
        record = item.node.metadata["rerankit"]
        assert item.node is not source.node
        assert item.node.node_id == source.node.node_id
        assert {key: value for key, value in item.node.metadata.items() if key != "rerankit"} == source.node.metadata
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert item.node.get_content(mode) == source.node.get_content(mode)
        assert record["prior_score"] in (source.score, None)
        assert record["score"] == item.score
        json.dumps(record, allow_nan=False)
    scored = [item.score for item in results if item.node.metadata["rerankit"]["status"] == "scored"]
    assert scored == sorted(scored, reverse=True)


def test_the_order_is_that_of_the_reranker():
    passages = [Passage(f"n{i}", text) for i, text in enumerate(TEXTS)]
    expected = rerankit.load("default").rank("When is wheat sown?", passages)
    results = RerankitRerank("default").postprocess_nodes(nodes(), query_str="When is wheat sown?")
    assert [item.node.node_id for item in results] == [hit.id for hit in expected]
    assert [item.score for item in results] == pytest.approx([hit.score for hit in expected])


def test_a_second_reranker_sees_no_trace_of_the_first():
    overlap = WordOverlap()
    once = RerankitRerank("lexical").postprocess_nodes(nodes(), query_str="rust")
    twice = RerankitRerank(overlap).postprocess_nodes(once, query_str="rust")
    assert all("rerankit" not in f"{passage.title} {passage.text}" for _, passage in overlap.seen)
    assert [item.node.excluded_llm_metadata_keys for item in twice] == [["rerankit"]] * 3
    assert [item.node.metadata["rerankit"]["prior_score"] for item in twice] == pytest.approx(
        [once[item.node.metadata["rerankit"]["prior_rank"] - 1].score for item in twice]
    )


def test_metadata_are_read_as_the_mode_says_and_evidence_points_into_the_text():
    items = nodes("Sown in autumn.", "Sown in autumn.")
    items[1].node.metadata["crop"] = "wheat"
    found = RerankitRerank("lexical").postprocess_nodes(items, query_str="wheat")
    assert found[0].node.metadata["crop"] == "wheat"
    unread = RerankitRerank("lexical", metadata_mode=MetadataMode.NONE).postprocess_nodes(items, query_str="wheat")
    assert [item.node.metadata["rerankit"]["prior_rank"] for item in unread] == [1, 2]


def test_evidence_points_into_the_text():
    item = NodeWithScore(
        node=TextNode(text=f"{'Sheep. ' * 200}Leaf rust on wheat. {'Cows. ' * 200}", metadata={"k": 1})
    )
    (found,) = RerankitRerank("default").postprocess_nodes([item], query_str="Where is leaf rust?")
    (span, *_) = found.node.metadata["rerankit"]["evidence"]
    assert "rust" in found.node.get_content(MetadataMode.NONE)[span["start"] : span["end"]]


def test_other_kinds_of_nodes_keep_their_kind():
    target = object()
    items = [
        NodeWithScore(node=ImageNode(id_="image", image_path="leaf.png")),
        NodeWithScore(node=IndexNode(id_="index", text="rust", index_id="x", obj=target)),
    ]
    index, image = RerankitRerank("lexical").postprocess_nodes(items, query_str="rust")
    assert isinstance(image.node, ImageNode)
    assert isinstance(index.node, IndexNode)
    assert index.node.obj is target
    assert image.node.metadata["rerankit"]["status"] == "unscored"


def test_what_it_refuses():
    rerank = RerankitRerank("lexical")
    with pytest.raises(ValueError, match="Missing query bundle"):
        rerank.postprocess_nodes(nodes())
    with pytest.raises(InputError, match="query is empty"):
        rerank.postprocess_nodes(nodes(), query_str=" ")
    with pytest.raises(SpecError, match="lexical"):
        RerankitRerank("lexicl")
    with pytest.raises(ValueError, match="topn"):
        RerankitRerank("lexical", topn=3)
    with pytest.raises(ValueError, match="top_n"):
        RerankitRerank("lexical", top_n=0)
    assert rerank.postprocess_nodes([], query_str="rust") == []


def gone(request, call):
    raise ModelError("gone")


def test_a_failure_raises_or_keeps_the_order():
    with pytest.raises(ModelError, match="gone"):
        RerankitRerank(Broken(gone)).postprocess_nodes(nodes(), query_str="rust")
    kept = RerankitRerank(Broken(gone, on_error="keep_order")).postprocess_nodes(nodes(), query_str="rust")
    assert [(item.node.node_id, item.score) for item in kept] == [("n0", None), ("n1", None), ("n2", None)]
    assert kept[0].node.metadata["rerankit"]["reason"] == "ModelError: gone"


async def test_async_gives_the_same():
    rerank = RerankitRerank("lexical", top_n=2)
    now = rerank.postprocess_nodes(nodes(), query_str="wheat rust")
    later = await rerank.apostprocess_nodes(nodes(), query_str="wheat rust")
    assert [(item.node.to_dict(), item.score) for item in later] == [(item.node.to_dict(), item.score) for item in now]


async def test_concurrent_calls_do_not_mix():
    rerank = RerankitRerank("lexical")
    calls = [
        (nodes(*(f"{word} number {n}" for n in range(5))), f"{word} {i % 5}") for i, word in enumerate("abcdefghij")
    ]
    later = await asyncio.gather(*(rerank.apostprocess_nodes(items, query_str=query) for items, query in calls))
    now = [rerank.postprocess_nodes(items, query_str=query) for items, query in calls]
    assert [[item.node.text for item in found] for found in later] == [
        [item.node.text for item in found] for found in now
    ]


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
    task = asyncio.create_task(RerankitRerank(waiting).apostprocess_nodes(nodes(), query_str="rust"))
    await asyncio.sleep(0)
    waiting.go.set()
    assert len(await task) == 3


class Events(BaseEventHandler):
    seen: list = []  # noqa: RUF012 (a pydantic field)

    def handle(self, event, **_):
        self.seen.append(event)


@pytest.mark.parametrize("use_async", [False, True])
async def test_rerank_events(use_async):
    handler, debug = Events(), LlamaDebugHandler(print_trace_on_end=False)
    rerank = RerankitRerank("lexical", top_n=1, callback_manager=CallbackManager([debug]))
    dispatcher = get_dispatcher("llama_index.postprocessor.rerankit.base")
    dispatcher.add_event_handler(handler)
    try:
        if use_async:
            results = await rerank.apostprocess_nodes(nodes(), query_str="rust")
        else:
            results = rerank.postprocess_nodes(nodes(), query_str="rust")
    finally:
        dispatcher.event_handlers.remove(handler)
    start, end = handler.seen
    assert (start.class_name(), start.top_n, len(start.nodes)) == ("ReRankStartEvent", 1, 3)
    assert start.model_name == results[0].node.metadata["rerankit"]["model"]
    assert (end.class_name(), end.nodes) == ("ReRankEndEvent", results)
    ((began, ended),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert (began.payload[EventPayload.TOP_K], began.payload[EventPayload.QUERY_STR]) == (1, "rust")
    assert ended.payload[EventPayload.NODES] == results


def test_serialised_and_back_without_secrets(monkeypatch):
    written = RerankitRerank("lexical[:2]", top_n=1, options={"on_error": "keep_order"}, deadline_s=5).to_json()
    again = RerankitRerank.from_json(written)
    assert json.loads(written)["options"] == {"on_error": "keep_order"}
    assert again.to_dict() == json.loads(written)
    assert len(again.postprocess_nodes(nodes(), query_str="rust")) == 1
    assert pickle.loads(pickle.dumps(again)).to_dict() == again.to_dict()


class Hosted(WordOverlap):
    """A family that takes a key."""

    def __init__(self, *, api_key="", **options):
        super().__init__(**options)
        self.api_key = api_key


def test_keys_are_used_but_never_written(monkeypatch):
    family = spec.Family("hosted", f"{__name__}:Hosted", "takes a key")
    monkeypatch.setitem(spec.families(), "hosted", family)
    rerank = RerankitRerank("hosted", options={"api_key": "sk-1"})
    spelled = RerankitRerank("hosted[api_key=sk-1]")
    assert rerank._reranker.api_key == spelled._reranker.api_key == "sk-1"
    for item in (rerank, spelled):
        assert "sk-1" not in item.to_json() + repr(item) + str(item)
        assert item.to_dict()["reranker"] == "hosted"


def test_a_built_reranker_cannot_be_serialised_and_says_so():
    data = RerankitRerank(rerankit.load("lexical")).to_dict()
    assert data["reranker"] is None
    with pytest.raises(InputError, match="built reranker"):
        RerankitRerank.from_dict(data)


def test_nothing_is_logged_about_a_normal_call(caplog):
    with caplog.at_level(logging.WARNING):
        RerankitRerank("lexical").postprocess_nodes(nodes(), QueryBundle("rust"))
    assert caplog.records == []


@pytest.mark.parametrize("change", [list.reverse, list.clear])
async def test_what_the_caller_does_to_its_list_meanwhile_changes_nothing(change):
    slow, items = WordOverlap(delay=0.05), nodes()
    task = asyncio.create_task(RerankitRerank(slow).apostprocess_nodes(items, query_str="leaf rust"))
    while not slow.seen:
        await asyncio.sleep(0)
    change(items)
    results = await task
    assert (len(results), results[0].node.text) == (3, TEXTS[1])
    assert results[0].node.metadata["rerankit"]["prior_rank"] == 2


def test_lists_and_dictionaries_of_metadata_are_the_results_own():
    item = NodeWithScore(node=TextNode(text="rust", metadata={"pages": [1, {"of": [2]}]}))
    (result,) = RerankitRerank("lexical").postprocess_nodes([item], query_str="rust")
    result.node.metadata["pages"][1]["of"].append(9)
    assert item.node.metadata == {"pages": [1, {"of": [2]}]}


def test_the_record_of_an_earlier_step_is_never_read():
    overlap = WordOverlap()
    once = RerankitRerank("lexical").postprocess_nodes(nodes(metadata={"crop": "wheat"}), query_str="rust")
    RerankitRerank(overlap, metadata_mode=MetadataMode.ALL).postprocess_nodes(once, query_str="rust")
    assert {passage.title for _, passage in overlap.seen} == {"crop: wheat"}
    assert all("rerankit" in item.node.metadata for item in once)


async def test_a_model_is_loaded_off_the_event_loop(monkeypatch):
    again, threads = pickle.loads(pickle.dumps(RerankitRerank("lexical"))), []
    load = adapters.load
    monkeypatch.setattr(
        adapters, "load", lambda *given, **more: threads.append(threading.get_ident()) or load(*given, **more)
    )
    assert await again.apostprocess_nodes(nodes(), query_str="leaf rust")
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_copies_and_pickles_load_the_model_again(monkeypatch):
    monkeypatch.setitem(spec.families(), "hosted", spec.Family("hosted", f"{__name__}:Hosted", "takes a key"))
    rerank = RerankitRerank(
        "hosted", top_n=1, options={"api_key": "sk-1"}, callback_manager=CallbackManager([LlamaDebugHandler()])
    )
    for again in (copy.deepcopy(rerank), rerank.model_copy(deep=True), pickle.loads(pickle.dumps(rerank))):
        assert again.to_dict() == rerank.to_dict()
        assert again._reranker is not rerank._reranker
        assert again.postprocess_nodes(nodes(), query_str="leaf rust")[0].node.text == TEXTS[1]
    assert copy.deepcopy(rerank)._reranker.api_key == "sk-1"
    assert b"sk-1" not in pickle.dumps(rerank)
    for attempt in (copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match="was built already"):
            attempt(RerankitRerank(WordOverlap()))
