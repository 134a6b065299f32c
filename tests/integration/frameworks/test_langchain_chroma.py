"""Chroma -> LangChain -> rerankit -> answer, offline."""

from __future__ import annotations

import copy

import pytest
from langchain_chroma import Chroma
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_rerankit import RerankitCompressor, RerankitEmbeddings, RerankitRetriever, RerankitSearchTool

import rerankit
from rerankit import ChromaRetriever, Passage

SECOND = "How deep should I sow wheat into dry soil?"
PROMPT = ChatPromptTemplate.from_template("Answer {question} from:\n{context}")


@pytest.fixture(scope="module")
def store(place, collection, passages):
    """The sample corpus in LangChain's Chroma store, opened again after it was written."""
    configuration = {"hnsw": {"space": "cosine"}}
    made = Chroma(collection, RerankitEmbeddings(), client=place.client(), collection_configuration=configuration)
    made.add_documents([Document(item.text, id=item.id, metadata={"title": item.title}) for item in passages])
    return Chroma(collection, RerankitEmbeddings(), client=place.client(), create_collection_if_not_exists=False)


def expected(question, documents, **options):
    passages = [Passage(item.id, item.page_content, item.metadata["title"]) for item in documents]
    return rerankit.load("default").rank(question, passages, **options)


def records(documents):
    return [item.metadata["rerankit"] for item in documents]


async def test_compression_retriever(store, relevant, check_records, question):
    base = store.as_retriever(search_kwargs={"k": 20})
    candidates = base.invoke(question)
    before = copy.deepcopy(candidates)
    compressor = RerankitCompressor(top_n=3)
    ranking = expected(question, candidates, top_k=3)
    assert [item.id for item in compressor.compress_documents(candidates, question)] == [hit.id for hit in ranking]
    assert candidates == before

    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=base)
    for found in (retriever.invoke(question), await retriever.ainvoke(question)):
        assert [item.id for item in found] == [hit.id for hit in ranking]
        check_records(records(found), ranking)
        assert relevant & {item.id for item in found}


def joined(documents):
    return "\n\n".join(item.page_content for item in documents)


async def test_chain(store, question):
    base = store.as_retriever(search_kwargs={"k": 20})
    step = RerankitCompressor(reranker="lexical", top_n=2).as_runnable()
    echo = RunnableLambda(lambda prompt: prompt.to_string())
    chain = (
        {"question": RunnablePassthrough(), "query": RunnablePassthrough(), "documents": base}
        | RunnablePassthrough.assign(context=step | joined)
        | PROMPT
        | echo
    )
    answers = [chain.invoke(asked) for asked in (question, SECOND)]
    for asked, answer in zip((question, SECOND), answers, strict=True):
        assert joined(step.invoke({"query": asked, "documents": base.invoke(asked)})) in answer
    assert await chain.ainvoke(question) == answers[0]
    assert chain.batch([question, SECOND]) == answers
    assert await chain.abatch([question, SECOND]) == answers


async def test_retriever_and_tool_over_the_store_that_langchain_wrote(
    store, place, collection, check_records, question
):
    chroma = ChromaRetriever(place.client(), collection=collection, fetch_k=20)
    ranking = rerankit.load("default").rank(question, chroma.retrieve(question), top_k=3)
    retriever = RerankitRetriever(retriever=chroma, k=3)
    found = retriever.invoke(question)
    assert [item.id for item in found] == [hit.id for hit in ranking]
    check_records(records(found), ranking)
    assert [item.id for item in await retriever.ainvoke(question)] == [item.id for item in found]
    tool = RerankitSearchTool(retriever=retriever)
    assert [part.partition("\n")[0] for part in tool.invoke({"query": question}).split("\n\n[")] == [
        f"[1] {found[0].id}",
        *(f"{number}] {item.id}" for number, item in enumerate(found[1:], 2)),
    ]
