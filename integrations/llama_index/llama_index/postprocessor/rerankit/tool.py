"""A search tool for LlamaIndex agents."""

from __future__ import annotations

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.tools import FunctionTool
from llama_index.postprocessor.rerankit.base import RerankitRerank

__all__ = ["search_tool"]


def search_tool(
    retriever: BaseRetriever,
    rerank: RerankitRerank | None = None,
    *,
    name: str = "search_documents",
    description: str = "Search the documents. Returns the passages that fit the question best, best first.",
) -> FunctionTool:
    """A tool that retrieves candidates, reranks them and shows the agent the best ones, numbered and with their ids.

    Args:
        retriever: should fetch well more than ``rerank`` returns, e.g. ``index.as_retriever(similarity_top_k=30)``.
        rerank: default ``RerankitRerank("default", top_n=5)``.
        name: what the agent calls the tool.
        description: what it tells the agent; say there which documents these are.
    """
    chosen = rerank or RerankitRerank("default", top_n=5)

    def search(query: str) -> str:
        return _shown(chosen.postprocess_nodes(retriever.retrieve(query), query_str=query))

    async def asearch(query: str) -> str:
        return _shown(await chosen.apostprocess_nodes(await retriever.aretrieve(query), query_str=query))

    return FunctionTool.from_defaults(fn=search, async_fn=asearch, name=name, description=description)


def _shown(nodes: list[NodeWithScore]) -> str:
    shown = [
        f"[{number}] {item.node.node_id}\n{item.node.get_content(metadata_mode=MetadataMode.LLM)}"
        for number, item in enumerate(nodes, 1)
    ]
    return "\n\n".join(shown) or "Nothing was found."
