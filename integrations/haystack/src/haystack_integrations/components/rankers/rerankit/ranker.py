"""Every rerankit reranker as a Haystack ranker."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from rerankit import InputError, Passage, Ranking, Reranker, load
from rerankit.adapters import METADATA_KEY, finite_or_none, hit_record, public_options, public_spec

__all__ = ["RerankitRanker"]


@component
class RerankitRanker:
    """Orders documents with any rerankit reranker, on this machine unless the spec says otherwise.

    Usage example:

    ```python
    from haystack import Document
    from haystack_integrations.components.rankers.rerankit import RerankitRanker

    ranker = RerankitRanker("lexical", top_k=1)
    documents = [Document(content="Sheep are shorn in spring."), Document(content="Leaf rust is a wheat disease.")]
    print(ranker.run(query="wheat rust", documents=documents)["documents"][0].content)
    ```

    The documents that come back are copies; the ones that went in are never written to. ``score`` is the reranker's,
    None where it gave none; ``meta["rerankit"]`` holds both scores, both ranks, the scale and the rest. Documents
    with one id, or one text, all come back: joining retrievers' results is another component's task.
    """

    def __init__(
        self,
        reranker: str | Reranker = "default",
        *,
        top_k: int | None = 10,
        options: dict[str, Any] | None = None,
        deadline_s: float | None = None,
        meta_fields_to_embed: list[str] | None = None,
        meta_data_separator: str = "\n",
    ) -> None:
        """Say which reranker; it is loaded at ``warm_up``, or else at the first run.

        Args:
            reranker: a rerankit spec, or a built reranker, with which the component cannot be serialised.
            top_k: how many documents to return; None leaves it to the reranker, which returns all unless it is sliced.
            options: options of ``rerankit.load``. Secrets among them are never serialised.
            deadline_s: seconds per call; documents not scored by then come last.
            meta_fields_to_embed: metadata that the reranker reads before the text.
            meta_data_separator: put between them.

        Raises:
            InputError: ``top_k`` is not positive.
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k must be at least 1 or None, got {top_k}")
        self.reranker, self.top_k, self.options = reranker, top_k, dict(options or {})
        self.deadline_s = deadline_s
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.meta_data_separator = meta_data_separator
        self._loaded: Reranker | None = None

    def warm_up(self) -> None:
        """Load the model.

        Raises:
            RerankitError: the spec or an option is wrong, or the model cannot be loaded.
        """
        self._warm()

    async def warm_up_async(self) -> None:
        """:meth:`warm_up` without blocking the event loop."""
        await asyncio.to_thread(self._warm)

    def to_dict(self) -> dict[str, Any]:
        """The component as a dictionary, without secrets.

        Raises:
            InputError: it was made with a built reranker.
        """
        if not isinstance(self.reranker, str):
            raise InputError(f"{self.reranker!r} cannot be serialised; make RerankitRanker with a spec instead")
        data: dict[str, Any] = default_to_dict(
            self,
            reranker=public_spec(self.reranker),
            top_k=self.top_k,
            options=public_options(self.options),
            deadline_s=self.deadline_s,
            meta_fields_to_embed=self.meta_fields_to_embed,
            meta_data_separator=self.meta_data_separator,
        )
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> RerankitRanker:
        """Inverse of :meth:`to_dict`; keys of services come from the environment."""
        made: RerankitRanker = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(self, query: str, documents: list[Document], top_k: int | None = None) -> dict[str, list[Document]]:
        """Order ``documents`` for ``query``.

        Args:
            query: the question; not empty.
            documents: the candidates, best first as the retriever saw them.
            top_k: replaces the component's own.

        Returns:
            ``documents``: copies in their new order.

        Raises:
            InputError: the query is empty or ``top_k`` is not positive.
            RerankitError: the model failed and ``on_error`` is ``raise``.
        """
        ranking = self._warm().rank(
            query, self._passages(documents), top_k=self.top_k if top_k is None else top_k, deadline_s=self.deadline_s
        )
        return {"documents": _in_new_order(documents, ranking)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """:meth:`run` without blocking the event loop."""
        if self._loaded is None:
            await self.warm_up_async()
        ranking = await self._warm().arank(
            query, self._passages(documents), top_k=self.top_k if top_k is None else top_k, deadline_s=self.deadline_s
        )
        return {"documents": _in_new_order(documents, ranking)}

    def _warm(self) -> Reranker:
        if self._loaded is None:
            self._loaded = load(self.reranker, **self.options)
        return self._loaded

    def _passages(self, documents: list[Document]) -> list[Passage]:
        return [
            Passage(
                id=document.id,
                text=document.content or "",
                title=self._title(document),
                metadata=document.meta,
                score=finite_or_none(document.score),
            )
            for document in documents
        ]

    def _title(self, document: Document) -> str:
        values = (document.meta.get(name) for name in self.meta_fields_to_embed)
        return self.meta_data_separator.join(str(value) for value in values if value is not None)


def _in_new_order(documents: list[Document], ranking: Ranking) -> list[Document]:
    """By position, because ids may repeat."""
    return [_recorded(documents[hit.prior_rank - 1], hit.score, hit_record(ranking, hit)) for hit in ranking]


def _recorded(document: Document, score: float | None, record: dict[str, Any]) -> Document:
    return dataclasses.replace(document, score=score, meta={**document.meta, METADATA_KEY: record})
