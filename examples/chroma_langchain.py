"""LangChain over Chroma with rerankit, offline. Needs langchain-rerankit and langchain-chroma.

In a clone: pip install '.[embedded,chroma]' ./integrations/langchain langchain-chroma
"""

from __future__ import annotations

import tempfile

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.runnables import RunnablePassthrough
from langchain_rerankit import RerankitCompressor, RerankitEmbeddings

from rerankit.samples import farm

QUESTION = "Wheat wilts early every spring and the root ends are short and thick. What is going on?"

with tempfile.TemporaryDirectory() as folder:
    store = Chroma(
        "farm",
        RerankitEmbeddings(),
        persist_directory=folder,
        collection_configuration={"hnsw": {"space": "cosine"}},
    )
    store.add_documents(
        [Document(item.text, id=item.id, metadata={"title": item.title}) for item in farm.passages()[:100]]
    )
    rerank = RerankitCompressor(top_n=3).as_runnable()
    chain = {"query": RunnablePassthrough(), "documents": store.as_retriever(search_kwargs={"k": 30})} | rerank
    documents = chain.invoke(QUESTION)

for document in documents:
    place = document.metadata["rerankit"]
    print(f"{place['rank']} (was {place['prior_rank']:2})  {place['score']:6.2f}  {document.metadata['title']}")
