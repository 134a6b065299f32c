"""Rerank what Chroma returned: its own shape in, the same shape out. Needs rerankit[embedded,chroma]."""

from __future__ import annotations

import chromadb

import rerankit
from rerankit.models.embedded import embedder
from rerankit.samples import farm

passages = farm.passages()
texts = [passage.text for passage in passages]
collection = chromadb.EphemeralClient().create_collection("farm", embedding_function=None)
collection.add(ids=[passage.id for passage in passages], documents=texts, embeddings=embedder().encode(texts))

questions = ["Wheat wilts early every spring and the root ends are short and thick. What is going on?"]
found = collection.query(query_embeddings=embedder().encode(questions, kind="query"), n_results=20)
better = rerankit.rerank_query_result(found, rerankit.load("default"), questions, top_k=3)

print("before:", *found["ids"][0][:3])
print("after: ", *better["ids"][0])
