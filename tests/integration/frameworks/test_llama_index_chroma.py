"""Chroma -> LlamaIndex -> RerankitRerank -> answer, offline."""

from __future__ import annotations

import copy

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms.mock import MockFunctionCallingLLM, MockLLM
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.postprocessor.rerankit import RerankitEmbedding, RerankitRerank, search_tool
from llama_index.vector_stores.chroma import ChromaVectorStore

import rerankit
from rerankit import Passage


@pytest.fixture(scope="module")
def index(place, collection, passages):
    """The sample corpus in Chroma, opened again after it was written."""
    configuration = {"hnsw": {"space": "cosine"}}
    made = place.client().create_collection(collection, embedding_function=None, configuration=configuration)
    nodes = [TextNode(id_=item.id, text=item.text, metadata={"title": item.title}) for item in passages]
    storage = StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=made))
    embedding = RerankitEmbedding()
    VectorStoreIndex(nodes, storage_context=storage, embed_model=embedding)
    again = place.client().get_collection(collection, embedding_function=None)
    return VectorStoreIndex.from_vector_store(ChromaVectorStore(chroma_collection=again), embed_model=embedding)


class Events(BaseEventHandler):
    names: list[str] = []  # noqa: RUF012 (a pydantic field)

    def handle(self, event, **_):
        self.names.append(event.class_name())


async def test_query_engine(index, relevant, check_records, question):
    candidates = index.as_retriever(similarity_top_k=20).retrieve(question)
    before = copy.deepcopy(candidates)
    ranking = rerankit.load("default").rank(
        question,
        [
            Passage(item.node.node_id, item.node.text, item.node.get_metadata_str(MetadataMode.EMBED), score=item.score)
            for item in candidates
        ],
        top_k=3,
    )
    rerank = RerankitRerank("default", top_n=3)
    assert [item.node_id for item in rerank.postprocess_nodes(candidates, query_str=question)] == [
        hit.id for hit in ranking
    ]
    assert [(item.score, item.node.to_dict()) for item in candidates] == [
        (item.score, item.node.to_dict()) for item in before
    ]

    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=20, node_postprocessors=[rerank])
    for response in (engine.query(question), await engine.aquery(question)):
        assert [item.node_id for item in response.source_nodes] == [hit.id for hit in ranking]
        check_records([item.metadata["rerankit"] for item in response.source_nodes], ranking)
        assert relevant & {item.node_id for item in response.source_nodes}
        seen = str(response)  # the mock model repeats its prompt
        places = [seen.index(hit.text) for hit in ranking]
        assert places == sorted(places)
        assert "prior_rank" not in seen


def test_events_of_a_query(index, question):
    handler = Events()
    get_dispatcher().add_event_handler(handler)
    try:
        rerank = RerankitRerank("lexical", top_n=3)
        index.as_query_engine(llm=MockLLM(), similarity_top_k=5, node_postprocessors=[rerank]).query(question)
    finally:
        get_dispatcher().event_handlers.remove(handler)
    order = ["RetrievalStartEvent", "RetrievalEndEvent", "ReRankStartEvent", "ReRankEndEvent", "SynthesizeStartEvent"]
    assert [name for name in handler.names if name in order] == order


# LlamaIndex looks at attributes that pydantic has deprecated.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
async def test_agent_with_the_search_tool(index, question):
    tool = search_tool(index.as_retriever(similarity_top_k=20), RerankitRerank("lexical", top_n=2))
    assert tool.metadata.name == "search_documents"
    assert list(tool.metadata.get_parameters_dict()["properties"]) == ["query"]
    shown = tool.call(query=question).content
    assert shown.startswith("[1] ")
    assert "\n\n[2] " in shown
    assert "prior_rank" not in shown
    assert (await tool.acall(query=question)).content == shown

    def scripted(messages, **_):
        if messages[-1].role == "tool":
            return ChatMessage(role="assistant", content=f"It says: {messages[-1].content}")
        call = ToolCallBlock(tool_call_id="1", tool_name="search_documents", tool_kwargs={"query": question})
        return ChatMessage(role="assistant", blocks=[call])

    agent = FunctionAgent(tools=[tool], llm=MockFunctionCallingLLM(response_generator=scripted), streaming=False)
    assert str(await agent.run(question)) == f"It says: {shown}"


def test_a_tool_that_finds_nothing_says_so(place, collection):
    empty = place.client().create_collection(f"{collection}-empty", embedding_function=None)
    index = VectorStoreIndex.from_vector_store(ChromaVectorStore(empty), embed_model=RerankitEmbedding())
    assert (
        search_tool(index.as_retriever(), RerankitRerank("lexical")).call(query="rust").content == "Nothing was found."
    )
