"""Every rerankit reranker as a LangChain document compressor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import Document
from langchain_core.documents.compressor import BaseDocumentCompressor
from pydantic import Field

from langchain_rerankit.settings import RerankerSettings
from rerankit import InputError, Passage, Ranking
from rerankit.adapters import METADATA_KEY, finite_or_none, hit_record, with_record

if TYPE_CHECKING:
    from langchain_rerankit.runnable import RerankitRunnable

__all__ = ["RerankitCompressor"]

Asked = tuple[str, list[Document]]


class RerankitCompressor(RerankerSettings, BaseDocumentCompressor):
    """Orders documents with any rerankit reranker, on this machine unless the spec says otherwise.

        >>> compressor = RerankitCompressor(reranker="lexical", top_n=3)
        >>> compressor.compress_documents([Document("Sheep are shorn."), Document("Rust on wheat.")], "rust")[0]
        Document(...)  # doctest: +SKIP

    The documents that come back are copies with their ids; the caller's are never written to. Both scores, both
    ranks, the scale and the rest stand in ``metadata["rerankit"]``. Lists and dictionaries of the metadata are copied
    with the document, other values are shared.

    Attributes:
        top_n: how many documents to return; None leaves it to the reranker, which returns all unless it is sliced.
        title_key: metadata key of a title that the reranker reads before the text, or None.
        prior_score_key: metadata key of the first stage's score, to be kept as ``prior_score``; by default the score
            of an earlier rerankit step, if there was one.
    """

    top_n: int | None = Field(default=None, ge=1)
    title_key: str | None = "title"
    prior_score_key: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """``documents`` in their new order.

        Raises:
            InputError: the query is empty, or one of ``documents`` is none.
            RerankitError: the model failed and ``on_error`` is ``raise``.
        """
        return self.rank_batch([(query, documents)])[0]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """:meth:`compress_documents` without blocking the event loop."""
        return (await self.arank_batch([(query, documents)]))[0]

    def rank_batch(self, requests: Iterable[tuple[str, Iterable[Document]]]) -> list[list[Document]]:
        """Many queries, each with its documents, in one call of the model."""
        asked = _snapshot(requests)
        rankings = self._reranker.rank_many(self._passages(asked), top_k=self.top_n, deadline_s=self.deadline_s)
        return _placed(asked, rankings)

    async def arank_batch(self, requests: Iterable[tuple[str, Iterable[Document]]]) -> list[list[Document]]:
        """:meth:`rank_batch` without blocking the event loop."""
        asked = _snapshot(requests)
        reranker = await self._held.aget()
        rankings = await reranker.arank_many(self._passages(asked), top_k=self.top_n, deadline_s=self.deadline_s)
        return _placed(asked, rankings)

    def as_runnable(self) -> RerankitRunnable:
        """This compressor as a step of a chain: ``{"query": ..., "documents": [...]}`` in, documents out."""
        from langchain_rerankit.runnable import RerankitRunnable

        return RerankitRunnable(compressor=self)

    def _passages(self, asked: Sequence[Asked]) -> list[tuple[str, list[Passage]]]:
        return [(query, [self._passage(*item) for item in enumerate(documents)]) for query, documents in asked]

    def _passage(self, position: int, document: Document) -> Passage:
        title = document.metadata.get(self.title_key) if self.title_key else None
        return Passage(
            id=document.id or str(position),
            text=document.page_content,
            title=title if isinstance(title, str) else "",
            metadata=document.metadata,
            score=finite_or_none(self._prior_score(document.metadata)),
        )

    def _prior_score(self, metadata: dict[str, Any]) -> object:
        if self.prior_score_key is not None:
            return metadata.get(self.prior_score_key)
        earlier = metadata.get(METADATA_KEY)
        return earlier.get("score") if isinstance(earlier, dict) else None


def checked_documents(documents: object) -> list[Document]:
    """A list of our own, from any iterable: the caller may go on with its one while the model works.

    Raises:
        InputError: it is none, or holds something else.
    """
    if isinstance(documents, str | bytes | Document) or not isinstance(documents, Iterable):
        raise InputError(f"documents must be an iterable of Documents, got {type(documents).__name__}")
    taken = list(documents)
    for number, item in enumerate(taken):
        if not isinstance(item, Document):
            raise InputError(f"documents[{number}] must be a Document, got {type(item).__name__}")
    return taken


def _snapshot(requests: Iterable[tuple[str, Iterable[Document]]]) -> list[Asked]:
    return [(query, checked_documents(documents)) for query, documents in requests]


def _placed(asked: Sequence[Asked], rankings: Sequence[Ranking]) -> list[list[Document]]:
    """By position, because ids may repeat or be absent."""
    return [
        [_recorded(documents[hit.prior_rank - 1], hit_record(ranking, hit)) for hit in ranking]
        for (_, documents), ranking in zip(asked, rankings, strict=True)
    ]


def _recorded(document: Document, record: dict[str, Any]) -> Document:
    return document.model_copy(update={"metadata": with_record(document.metadata, record)})
