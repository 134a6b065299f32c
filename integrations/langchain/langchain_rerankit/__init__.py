"""rerankit for LangChain: compressor, runnable, retriever, embeddings and tool."""

from __future__ import annotations

from langchain_rerankit.compressor import RerankitCompressor
from langchain_rerankit.embeddings import RerankitEmbeddings
from langchain_rerankit.retriever import RerankitRetriever
from langchain_rerankit.runnable import RerankitRunnable
from langchain_rerankit.tool import RerankitSearchTool

__all__ = [
    "RerankitCompressor",
    "RerankitEmbeddings",
    "RerankitRetriever",
    "RerankitRunnable",
    "RerankitSearchTool",
]
