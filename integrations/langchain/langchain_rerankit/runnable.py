"""A reranking step for chains."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypedDict

from langchain_core.documents import Document
from langchain_core.runnables import RunnableConfig, RunnableSerializable

from langchain_rerankit.compressor import Asked, RerankitCompressor, checked_documents
from rerankit import InputError

__all__ = ["RerankInput", "RerankitRunnable"]


class RerankInput(TypedDict):
    """What the step takes; other keys of the dictionary are ignored.

    Attributes:
        query: the question.
        documents: candidates, best first as the first stage saw them.
    """

    query: str
    documents: Iterable[Document]


class RerankitRunnable(RunnableSerializable[RerankInput, list[Document]]):
    """``{"query": ..., "documents": [...]}`` in, documents in their new order out.

    ``batch`` and ``abatch`` send all queries to the model in one call instead of one thread for each.

    Attributes:
        compressor: what orders the documents.
    """

    compressor: RerankitCompressor

    def invoke(self, input: RerankInput, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:  # noqa: A002
        """The documents of ``input``, in their new order."""
        return self._call_with_config(self._one, input, config, **kwargs)

    async def ainvoke(self, input: RerankInput, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:  # noqa: A002
        """:meth:`invoke` without blocking the event loop."""
        return await self._acall_with_config(self._aone, input, config, **kwargs)

    def batch(
        self,
        inputs: list[RerankInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """One call of the model for all ``inputs``."""
        return self._batch_with_config(self._many, inputs, config, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[RerankInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """:meth:`batch` without blocking the event loop."""
        return await self._abatch_with_config(
            self._amany, inputs, config, return_exceptions=return_exceptions, **kwargs
        )

    def _one(self, item: RerankInput) -> list[Document]:
        return self.compressor.rank_batch([_request(item)])[0]

    async def _aone(self, item: RerankInput) -> list[Document]:
        return (await self.compressor.arank_batch([_request(item)]))[0]

    def _many(self, inputs: list[RerankInput]) -> list[Exception | list[Document]]:
        asked = [_attempted(item) for item in inputs]
        good = [item for item in asked if not isinstance(item, Exception)]
        return _merged(asked, self._ranked(good))

    async def _amany(self, inputs: list[RerankInput]) -> list[Exception | list[Document]]:
        asked = [_attempted(item) for item in inputs]
        good = [item for item in asked if not isinstance(item, Exception)]
        return _merged(asked, await self._aranked(good))

    def _ranked(self, asked: list[Asked]) -> list[Exception | list[Document]]:
        try:
            return list(self.compressor.rank_batch(asked))
        except Exception as error:  # one by one, so that only the guilty one fails
            return [error] if len(asked) == 1 else [self._ranked([item])[0] for item in asked]

    async def _aranked(self, asked: list[Asked]) -> list[Exception | list[Document]]:
        try:
            return list(await self.compressor.arank_batch(asked))
        except Exception as error:
            return [error] if len(asked) == 1 else [(await self._aranked([item]))[0] for item in asked]


def _request(item: RerankInput) -> Asked:
    try:
        query, documents = item["query"], item["documents"]
    except (KeyError, TypeError) as error:
        raise InputError('The step takes {"query": ..., "documents": [...]}, got ' + f"{item!r:.80}") from error
    return query, checked_documents(documents)


def _attempted(item: RerankInput) -> Asked | Exception:
    try:
        return _request(item)
    except Exception as error:  # also what an iterator of documents raises
        return error


def _merged(
    asked: list[Asked | Exception], ranked: list[Exception | list[Document]]
) -> list[Exception | list[Document]]:
    """The answers in the places of their questions."""
    answers = iter(ranked)
    return [item if isinstance(item, Exception) else next(answers) for item in asked]
