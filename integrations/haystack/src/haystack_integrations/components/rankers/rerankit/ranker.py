"""Every rerankit reranker as a Haystack ranker."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from rerankit import Passage, Ranking, Reranker
from rerankit.adapters import (
    HeldReranker,
    finite_or_none,
    hit_record,
    public_options,
    public_spec,
    with_record,
)
from rerankit.checks import check_whole

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
    with one id, or one text, all come back: joining retrievers' results is another component's task. Lists and
    dictionaries of the metadata are copied with the document, other values are shared.

    A pickle holds what ``to_dict`` gives; a deep copy, or an unpickled one, loads the model again.
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
            options: options of ``rerankit.load``. Secrets among them are never serialised; a ``Secret`` is resolved
                when the model is loaded.
            deadline_s: seconds per call; documents not scored by then come last.
            meta_fields_to_embed: metadata that the reranker reads before the text.
            meta_data_separator: put between them.

        Raises:
            InputError: ``top_k`` is no positive whole number.
        """
        check_whole(1, or_none=True, top_k=top_k)
        self.reranker, self.top_k, self.options = reranker, top_k, dict(options or {})
        self.deadline_s = deadline_s
        self.meta_fields_to_embed = list(meta_fields_to_embed or [])
        self.meta_data_separator = meta_data_separator
        self._held = HeldReranker(reranker, self.options)

    def __deepcopy__(self, memo: dict[int, Any]) -> RerankitRanker:
        options = copy.deepcopy(self.options, memo)
        return type(self)(self._held.spec(), options=options, **copy.deepcopy(self._settings(), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)

    def warm_up(self) -> None:
        """Load the model.

        Raises:
            RerankitError: the spec or an option is wrong, or the model cannot be loaded.
        """
        self._warm()

    async def warm_up_async(self) -> None:
        """:meth:`warm_up` without blocking the event loop."""
        await self._held.aget()

    def to_dict(self) -> dict[str, Any]:
        """The component as a dictionary, without secrets.

        Raises:
            InputError: it was made with a built reranker.
        """
        data: dict[str, Any] = default_to_dict(
            self,
            reranker=public_spec(self._held.spec()),
            options=public_options(self.options),
            **self._settings(),
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
        documents = list(documents)
        ranking = self._warm().rank(
            query, self._passages(documents), top_k=self.top_k if top_k is None else top_k, deadline_s=self.deadline_s
        )
        return {"documents": _in_new_order(documents, ranking)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """:meth:`run` without blocking the event loop."""
        documents = list(documents)  # the caller may go on with its own
        ranking = await (await self._held.aget()).arank(
            query, self._passages(documents), top_k=self.top_k if top_k is None else top_k, deadline_s=self.deadline_s
        )
        return {"documents": _in_new_order(documents, ranking)}

    def _warm(self) -> Reranker:
        return self._held.get()

    def _settings(self) -> dict[str, Any]:
        """All but the reranker and its options."""
        return {
            "top_k": self.top_k,
            "deadline_s": self.deadline_s,
            "meta_fields_to_embed": self.meta_fields_to_embed,
            "meta_data_separator": self.meta_data_separator,
        }

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
    return dataclasses.replace(document, score=score, meta=with_record(document.meta, record))
