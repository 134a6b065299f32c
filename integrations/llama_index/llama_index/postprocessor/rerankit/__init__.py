"""rerankit for LlamaIndex: a reranker, an offline embedder and a search tool."""

from __future__ import annotations

from llama_index.postprocessor.rerankit.base import RerankitRerank
from llama_index.postprocessor.rerankit.embedding import RerankitEmbedding
from llama_index.postprocessor.rerankit.tool import search_tool

__all__ = ["RerankitEmbedding", "RerankitRerank", "search_tool"]
