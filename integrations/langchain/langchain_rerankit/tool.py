"""A search tool for LangChain agents."""

from __future__ import annotations

from typing import Literal

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.documents import Document
from langchain_core.tools import BaseTool, ToolException
from langchain_core.tools.base import ArgsSchema
from pydantic import BaseModel, Field

from langchain_rerankit.retriever import RerankitRetriever
from rerankit import InputError

__all__ = ["RerankitSearchTool"]


class SearchInput(BaseModel):
    """What an agent says to search."""

    query: str = Field(description="The question or the words to search for.")
    k: int | None = Field(default=None, ge=1, le=50, description="How many passages to return.")


class RerankitSearchTool(BaseTool):
    """Shows an agent the passages that fit its question best, numbered and with their ids.

    The documents themselves are the tool message's ``artifact``. A query that cannot be searched for is told to the
    agent, which may try another one; a store or model that fails raises.

        >>> agent = create_agent(model, tools=[RerankitSearchTool(retriever=retriever)])  # doctest: +SKIP

    Attributes:
        retriever: where and how to search.
        description: what the agent is told; say there which documents these are.
    """

    name: str = "search_documents"
    description: str = "Search the documents. Returns the passages that fit the question best, best first."
    args_schema: ArgsSchema | None = SearchInput
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: bool = True
    retriever: RerankitRetriever

    def _run(
        self, query: str, k: int | None = None, run_manager: CallbackManagerForToolRun | None = None
    ) -> tuple[str, list[Document]]:
        callbacks = run_manager.get_child() if run_manager else None
        try:
            documents = self.retriever.invoke(query, {"callbacks": callbacks}, k=k)
        except InputError as error:
            raise ToolException(str(error)) from error
        return _shown(documents), documents

    async def _arun(
        self, query: str, k: int | None = None, run_manager: AsyncCallbackManagerForToolRun | None = None
    ) -> tuple[str, list[Document]]:
        callbacks = run_manager.get_child() if run_manager else None
        try:
            documents = await self.retriever.ainvoke(query, {"callbacks": callbacks}, k=k)
        except InputError as error:
            raise ToolException(str(error)) from error
        return _shown(documents), documents


def _shown(documents: list[Document]) -> str:
    shown = [f"[{number}] {item.id}\n{_text(item)}" for number, item in enumerate(documents, 1)]
    return "\n\n".join(shown) or "Nothing was found."


def _text(document: Document) -> str:
    title = document.metadata.get("title")
    return f"{title}\n{document.page_content}" if title else document.page_content
