"""RerankitRetriever and RerankitSearchTool over Chroma on disk: LangChain's standard tests, and our own."""

from __future__ import annotations

import copy
import pickle

import pytest
from langchain_core.messages import ToolMessage
from langchain_rerankit import RerankitRetriever, RerankitSearchTool
from langchain_tests.integration_tests import RetrieversIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

import rerankit
from rerankit import ChromaRetriever, InputError, StoreError

QUESTION = "How deep should I sow wheat into dry soil?"


@pytest.fixture(scope="module")
def chroma(farm_store):
    with ChromaRetriever(farm_store, fetch_k=20) as retriever:
        yield retriever


@pytest.fixture
def search(chroma):
    return RerankitSearchTool(retriever=RerankitRetriever(retriever=chroma, reranker="lexical", k=3))


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def store(self, chroma):
        self.chroma = chroma

    @property
    def retriever_constructor(self):
        return RerankitRetriever

    @property
    def retriever_constructor_params(self):
        return {"retriever": self.chroma, "reranker": "lexical"}

    @property
    def retriever_query_example(self):
        return QUESTION


class Tool:
    @pytest.fixture(autouse=True)
    def search_tool(self, search):
        self.search = search

    @property
    def tool_constructor(self):
        return self.search

    @property
    def tool_invoke_params_example(self):
        return {"query": QUESTION}


class TestToolUnit(Tool, ToolsUnitTests):
    pass


class TestToolIntegration(Tool, ToolsIntegrationTests):
    pass


async def test_the_documents_are_those_of_retrieval_and_reranking(chroma):
    expected = rerankit.load("default").rank(QUESTION, chroma.retrieve(QUESTION), top_k=4)
    retriever = RerankitRetriever(retriever=chroma, k=4)
    documents = retriever.invoke(QUESTION)
    assert [item.id for item in documents] == [hit.id for hit in expected]
    for item, hit in zip(documents, expected, strict=True):
        record = item.metadata["rerankit"]
        assert (record["rank"], record["prior_rank"]) == (hit.rank, hit.prior_rank)
        assert record["prior_score"] == pytest.approx(hit.passage.score)
        assert record["score"] == pytest.approx(hit.score)
        assert item.page_content == hit.text
        assert item.metadata["title"] == hit.passage.title
        assert "rerankit:distance" in item.metadata
    assert [item.id for item in await retriever.ainvoke(QUESTION)] == [item.id for item in documents]
    assert [[item.id for item in found] for found in retriever.batch([QUESTION] * 2)] == [
        [item.id for item in documents]
    ] * 2


def test_more_than_fetch_k_and_filters(chroma):
    retriever = RerankitRetriever(retriever=chroma, reranker="none", fetch_k=2)
    assert len(retriever.invoke(QUESTION)) == 5
    some = retriever.invoke(QUESTION, k=30)
    assert len(some) == 30
    source = next(item.metadata for item in some)
    key = next(name for name, value in source.items() if isinstance(value, str) and name not in ("title", "rerankit"))
    filtered = retriever.invoke(QUESTION, k=50, where={key: source[key]})
    assert filtered
    assert {item.metadata[key] for item in filtered} == {source[key]}
    narrow = RerankitRetriever(retriever=chroma, reranker="none", where={key: source[key]})
    assert narrow.invoke(QUESTION, where={key: {"$ne": source[key]}}) == []
    assert narrow.invoke(QUESTION, k=50) == filtered
    with pytest.raises(InputError, match="k must be a whole number of at least 1"):
        retriever.invoke(QUESTION, k=0)


def test_a_store_that_is_not_there(tmp_path):
    with pytest.raises(StoreError):
        RerankitRetriever(retriever=ChromaRetriever(tmp_path / "none"), reranker="none").invoke(QUESTION)


async def test_the_tool_shows_passages_and_carries_the_documents(search):
    call = {"name": search.name, "args": {"query": QUESTION, "k": 2}, "id": "1", "type": "tool_call"}
    for message in (search.invoke(call), await search.ainvoke(call)):
        assert isinstance(message, ToolMessage)
        assert len(message.artifact) == 2
        first = message.artifact[0]
        assert message.content.startswith(f"[1] {first.id}\n{first.metadata['title']}\n")
        assert first.page_content in message.content


async def test_the_tool_tells_the_agent_what_is_wrong_with_a_query(search):
    call = {"name": search.name, "args": {"query": " "}, "id": "1", "type": "tool_call"}
    for message in (search.invoke(call), await search.ainvoke(call)):
        assert message.status == "error"
        assert "query is empty" in message.content


def test_k_must_be_a_whole_number(chroma):
    retriever = RerankitRetriever(retriever=chroma, reranker="lexical")
    with pytest.raises(InputError, match="k must be a whole number of at least 1 or None, got '2'"):
        retriever.invoke(QUESTION, k="2")


def test_copies_and_pickles_search_the_same_store(farm_store):
    with ChromaRetriever(farm_store, fetch_k=20) as chroma:
        retriever = RerankitRetriever(retriever=chroma, reranker="lexical", k=2)
        found = retriever.invoke(QUESTION)
        for again in (copy.deepcopy(retriever), pickle.loads(pickle.dumps(retriever))):
            assert again.invoke(QUESTION) == found
            again.retriever.close()
    with ChromaRetriever("memory") as gone, pytest.raises(InputError, match="in-memory"):
        pickle.dumps(RerankitRetriever(retriever=gone, reranker="lexical"))
