"""LlamaIndex over Chroma with rerankit, offline. Needs llama-index-postprocessor-rerankit and the Chroma store.

In a clone: pip install '.[embedded]' ./integrations/llama_index llama-index-vector-stores-chroma
"""

from __future__ import annotations

import tempfile

import chromadb
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from llama_index.postprocessor.rerankit import RerankitEmbedding, RerankitRerank
from llama_index.vector_stores.chroma import ChromaVectorStore

from rerankit.samples import farm

QUESTION = "Wheat wilts early every spring and the root ends are short and thick. What is going on?"

with tempfile.TemporaryDirectory() as folder:
    collection = chromadb.PersistentClient(folder).create_collection(
        "farm", embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
    )
    nodes = [TextNode(id_=item.id, text=item.text, metadata={"title": item.title}) for item in farm.passages()[:100]]
    storage = StorageContext.from_defaults(vector_store=ChromaVectorStore(chroma_collection=collection))
    index = VectorStoreIndex(nodes, storage_context=storage, embed_model=RerankitEmbedding())

    engine = index.as_query_engine(
        llm=MockLLM(max_tokens=1),  # your model here
        similarity_top_k=30,
        node_postprocessors=[RerankitRerank("default", top_n=3)],
    )
    response = engine.query(QUESTION)

for found in response.source_nodes:
    place = found.node.metadata["rerankit"]
    print(f"{place['rank']} (was {place['prior_rank']:2})  {found.score:6.2f}  {found.node.metadata['title']}")
