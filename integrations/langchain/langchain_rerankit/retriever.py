"""Retrieve from Chroma and rerank, as one LangChain retriever."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from langchain_rerankit.settings import RerankerSettings
from rerankit import ChromaRetriever, Passage, Ranking
from rerankit.adapters import hit_record, with_record
from rerankit.checks import check_whole
from rerankit.rag.bounds import all_of

__all__ = ["RerankitRetriever"]


class RerankitRetriever(RerankerSettings, BaseRetriever):
    """Candidates from a :class:`rerankit.ChromaRetriever`, ordered by any rerankit reranker.

        >>> chroma = ChromaRetriever("notes-store", collection="notes")  # doctest: +SKIP
        >>> RerankitRetriever(retriever=chroma, k=5).invoke("What is the orange powder?")  # doctest: +SKIP

    ``k`` and ``where`` may also be given with a call: ``invoke(question, k=3, where={"year": 2026})``. A document has
    its record's id and metadata, its title under ``title``, and both scores under ``metadata["rerankit"]``.

    Attributes:
        retriever: the first stage, e.g. over a folder, a server or a client that your application has already.
        k: documents to return.
        fetch_k: candidates per question, at least ``k``; default the first stage's own number.
        where: metadata filter in Chroma's language; the first stage's own, and one given with a call, must hold too.
    """

    retriever: ChromaRetriever
    k: int = Field(default=5, ge=1)
    fetch_k: int | None = Field(default=None, ge=1)
    where: dict[str, Any] | None = None

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        where: dict[str, Any] | None = None,
    ) -> list[Document]:
        k = self._checked(k)
        passages = self.retriever.retrieve(query, **self._fetching(k, where))
        return _documents(self._reranker.rank(query, passages, top_k=k, deadline_s=self.deadline_s))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        where: dict[str, Any] | None = None,
    ) -> list[Document]:
        k = self._checked(k)
        passages = await self.retriever.aretrieve(query, **self._fetching(k, where))
        reranker = await self._held.aget()
        return _documents(await reranker.arank(query, passages, top_k=k, deadline_s=self.deadline_s))

    def _checked(self, k: int | None) -> int:
        check_whole(1, or_none=True, k=k)
        return self.k if k is None else k

    def _fetching(self, k: int, where: dict[str, Any] | None) -> dict[str, Any]:
        fetch_k = self.retriever.fetch_k if self.fetch_k is None else self.fetch_k
        return {"k": max(k, fetch_k), "where": all_of([self.where, where])}


def _documents(ranking: Ranking) -> list[Document]:
    return [_document(hit.passage, hit_record(ranking, hit)) for hit in ranking]


def _document(passage: Passage, record: dict[str, Any]) -> Document:
    title = {"title": passage.title} if passage.title else {}
    return Document(
        id=passage.id, page_content=passage.text, metadata=with_record({**passage.metadata, **title}, record)
    )
