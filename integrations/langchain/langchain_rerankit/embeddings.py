"""The bundled offline embedder, or any rerankit embedder, as LangChain embeddings."""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from rerankit.models.embedded import embedder as bundled
from rerankit.models.protocols import Embedder

__all__ = ["RerankitEmbeddings"]


class RerankitEmbeddings(Embeddings):
    """Vectors without a network and without a download: all-MiniLM-L6-v2, 384 dimensions, normalised.

    Args:
        embedder: anything with ``encode``, ``dim`` and ``model_id``; default the bundled model.

    Raises:
        MissingExtraError: the package that carries the bundled weights is not installed.
        ModelError: its weights are missing or not the published ones.
    """

    def __init__(self, embedder: Embedder | None = None) -> None:
        self.embedder = bundled() if embedder is None else embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text, in their order."""
        vectors: list[list[float]] = self.embedder.encode(texts, kind="passage").tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        vector: list[float] = self.embedder.encode([text], kind="query")[0].tolist()
        return vector
