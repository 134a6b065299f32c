"""The bundled offline embedder, or any rerankit embedder, as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import PrivateAttr

from rerankit import InputError
from rerankit.models.embedded import embedder as bundled
from rerankit.models.protocols import Embedder

__all__ = ["RerankitEmbedding"]


class RerankitEmbedding(BaseEmbedding):
    """Vectors without a network and without a download: all-MiniLM-L6-v2, 384 dimensions, normalised.

        >>> Settings.embed_model = RerankitEmbedding()  # doctest: +SKIP

    Args:
        embedder: anything with ``encode``, ``dim`` and ``model_id``; default the bundled model. One of your own is
            not serialised, only its ``model_id``: pass it again when loading.
        **fields: those of ``BaseEmbedding``, e.g. ``embed_batch_size``.

    Raises:
        InputError: a serialised one is loaded that was made with an embedder of your own.
        MissingExtraError: the package that carries the bundled weights is not installed.
        ModelError: its weights are missing or not the published ones.
    """

    _embedder: Embedder = PrivateAttr()

    def __init__(self, embedder: Embedder | None = None, **fields: Any) -> None:
        chosen = bundled() if embedder is None else embedder
        if (asked := fields.setdefault("model_name", chosen.model_id)) != chosen.model_id:
            raise InputError(f"Asked for vectors of {asked!r}, but the embedder is {chosen.model_id!r}; pass embedder=")
        super().__init__(**fields)
        self._embedder = chosen

    @classmethod
    def class_name(cls) -> str:
        """The name in serialised pipelines."""
        return "RerankitEmbedding"

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._encode([query], "query")[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._encode([text], "passage")[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._encode(texts, "passage")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    def _encode(self, texts: list[str], kind: Literal["passage", "query"]) -> list[Embedding]:
        vectors: list[Embedding] = self._embedder.encode(texts, kind=kind).tolist()
        return vectors
