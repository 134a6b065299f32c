"""Haystack over Chroma with rerankit, offline. Needs rerankit-haystack and chroma-haystack.

In a clone: pip install '.[embedded]' ./integrations/haystack chroma-haystack
"""

from __future__ import annotations

import os
import tempfile

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # Haystack reports usage unless told not to

from haystack import Document, Pipeline
from haystack_integrations.components.rankers.rerankit import RerankitRanker
from haystack_integrations.components.retrievers.chroma import ChromaEmbeddingRetriever
from haystack_integrations.document_stores.chroma import ChromaDocumentStore

from rerankit.models.embedded import embedder
from rerankit.samples import farm

QUESTION = "Wheat wilts early every spring and the root ends are short and thick. What is going on?"

with tempfile.TemporaryDirectory() as folder:
    passages = farm.passages()[:100]
    vectors = embedder().encode([item.text for item in passages]).tolist()
    store = ChromaDocumentStore("farm", persist_path=folder, distance_function="cosine")
    store.write_documents(
        [
            Document(id=item.id, content=item.text, meta={"title": item.title}, embedding=vector)
            for item, vector in zip(passages, vectors, strict=True)
        ]
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", ChromaEmbeddingRetriever(store, top_k=30))
    pipeline.add_component("ranker", RerankitRanker("default", top_k=3, meta_fields_to_embed=["title"]))
    pipeline.connect("retriever.documents", "ranker.documents")
    vector = embedder().encode([QUESTION], kind="query")[0].tolist()
    result = pipeline.run({"retriever": {"query_embedding": vector}, "ranker": {"query": QUESTION}})

for document in result["ranker"]["documents"]:
    place = document.meta["rerankit"]
    print(f"{place['rank']} (was {place['prior_rank']:2})  {document.score:6.2f}  {document.meta['title']}")
