"""Chroma -> Haystack -> RerankitRanker -> prompt, offline."""

from __future__ import annotations

import copy

import pytest
from haystack import Document, Pipeline
from haystack.components.builders import PromptBuilder
from haystack_integrations.components.rankers.rerankit import RerankitRanker
from haystack_integrations.components.retrievers.chroma import ChromaEmbeddingRetriever
from haystack_integrations.document_stores.chroma import ChromaDocumentStore

import rerankit
from rerankit import Passage
from rerankit.models.embedded import embedder

TEMPLATE = "{% for document in documents %}{{ document.content }}\n{% endfor %}{{ query }}"


@pytest.fixture(scope="module")
def store(place, collection, passages):
    """The sample corpus in Haystack's Chroma store."""
    where = {"persist_path": str(place.path)} if place.path else {"host": "127.0.0.1", "port": place.port}
    store = ChromaDocumentStore(collection, distance_function="cosine", **where)
    vectors = embedder().encode([item.text for item in passages]).tolist()
    store.write_documents(
        [
            Document(id=item.id, content=item.text, meta={"title": item.title}, embedding=vector)
            for item, vector in zip(passages, vectors, strict=True)
        ]
    )
    return store


async def test_pipeline(store, place, relevant, check_records, question):
    vector = embedder().encode([question], kind="query")[0].tolist()
    candidates = ChromaEmbeddingRetriever(store, top_k=20).run(vector)["documents"]
    before = copy.deepcopy(candidates)
    ranking = rerankit.load("default").rank(
        question,
        [Passage(item.id, item.content, item.meta["title"], score=item.score) for item in candidates],
        top_k=3,
    )
    ranker = RerankitRanker("default", top_k=3, meta_fields_to_embed=["title"])
    assert [item.id for item in ranker.run(question, candidates)["documents"]] == [hit.id for hit in ranking]
    assert candidates == before

    pipeline = Pipeline()
    pipeline.add_component("retriever", ChromaEmbeddingRetriever(store, top_k=20))
    pipeline.add_component("ranker", ranker)
    pipeline.add_component("prompt", PromptBuilder(TEMPLATE, required_variables=["documents", "query"]))
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("ranker.documents", "prompt.documents")
    again = Pipeline.loads(pipeline.dumps())
    asked = {"retriever": {"query_embedding": vector}, "ranker": {"query": question}, "prompt": {"query": question}}
    results = [item.run(asked, include_outputs_from={"ranker"}) for item in (pipeline, again)]
    if place.port:  # chroma-haystack is asynchronous over HTTP only
        results.append(await pipeline.run_async(asked, include_outputs_from={"ranker"}))
    for result in results:
        found = result["ranker"]["documents"]
        assert [item.id for item in found] == [hit.id for hit in ranking]
        check_records([item.meta["rerankit"] for item in found], ranking)
        assert relevant & {item.id for item in found}
        assert result["prompt"]["prompt"] == "\n".join([*(hit.text for hit in ranking), question])
