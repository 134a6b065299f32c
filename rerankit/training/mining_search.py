"""Where negatives are looked for: a corpus in memory, or a Chroma store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.models.protocols import Embedder
from rerankit.rag.chroma import ChromaRetriever
from rerankit.rag.records import embedded_text
from rerankit.rag.vectors import embed
from rerankit.rerankers.prepare import is_blank
from rerankit.types import Passage, as_passages

__all__ = ["Finder", "finder"]

Matrix = NDArray[np.float32]


class Finder(Protocol):
    """Finds passages by the vectors of one embedder."""

    @property
    def pool(self) -> Sequence[Passage]:
        """All passages."""
        ...

    def queries(self, texts: Sequence[str]) -> Matrix:
        """Unit vectors ``[len(texts), dim]`` of queries."""
        ...

    def equipped(self, passages: Sequence[Passage]) -> list[Passage]:
        """The passages with unit vectors: those that they carry where they are the embedder's, else new ones."""
        ...

    def find(self, texts: Sequence[str], vectors: Matrix, k: int) -> list[list[Passage]]:
        """Per query the ``k`` nearest passages, nearest first, with unit vectors."""
        ...


def finder(passages: Iterable[Passage] | ChromaRetriever, embedder: Embedder | None) -> Finder:
    """The finder for a corpus or a store.

    Raises:
        InputError: an embedder is named for a store, which has its own; or there is no passage.
    """
    if isinstance(passages, ChromaRetriever):
        if embedder is not None and embedder.model_id != passages.embedder.model_id:
            raise InputError(
                f"The store is searched with its own embedder {passages.embedder.model_id!r}, not "
                f"{embedder.model_id!r}: leave embedder out"
            )
        return _Store(passages)
    if embedder is None:
        from rerankit.models import embedded

        embedder = embedded.embedder()
    return _Corpus(passages, embedder)


class _Embedded:
    """Vectors by an embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def queries(self, texts: Sequence[str]) -> Matrix:
        return _unit(embed(self.embedder, texts, "query"))

    def equipped(self, passages: Sequence[Passage]) -> list[Passage]:
        rows = [self._stored(passage) for passage in passages]
        missing = dict.fromkeys(embedded_text(p) for p, row in zip(passages, rows, strict=True) if row is None)
        fresh = dict(zip(missing, embed(self.embedder, list(missing), "passage"), strict=True)) if missing else {}
        found = [fresh[embedded_text(p)] if row is None else row for p, row in zip(passages, rows, strict=True)]
        name = self.embedder.model_id
        return [
            passage.replace(embedding=row, embedding_model=name)
            for passage, row in zip(passages, _unit(np.stack(found)) if found else (), strict=True)
        ]

    def _stored(self, passage: Passage) -> Matrix | None:
        """The vector that comes with the passage, if it is this embedder's or the caller vouches for it."""
        if passage.embedding is None or passage.embedding_model not in ("", self.embedder.model_id):
            return None
        vector = np.asarray(passage.embedding, np.float32)
        return vector if vector.shape == (self.embedder.dim,) and bool(np.isfinite(vector).all()) else None


class _Corpus(_Embedded):
    """Passages in memory; search is exact."""

    def __init__(self, passages: Iterable[Passage], embedder: Embedder) -> None:
        super().__init__(embedder)
        given = as_passages(passages if isinstance(passages, Sequence) else list(passages))
        self._rows: dict[tuple[str, str], int] = {}
        self.pool: Sequence[Passage] = self.equipped([passage for passage in given if not is_blank(passage.text)])
        if not self.pool:
            raise InputError("There is no passage with a text to mine negatives from")
        self._matrix = np.stack([np.asarray(passage.embedding, np.float32) for passage in self.pool])
        self._rows = {(passage.title, passage.text): row for row, passage in enumerate(self.pool)}

    def _stored(self, passage: Passage) -> Matrix | None:
        row = self._rows.get((passage.title, passage.text))
        return super()._stored(passage) if row is None else self._matrix[row]

    def find(self, texts: Sequence[str], vectors: Matrix, k: int) -> list[list[Passage]]:
        k = min(k, len(self.pool))
        return [[self.pool[row] for row in _top(scores, k)] for scores in vectors @ self._matrix.T]


class _Store(_Embedded):
    """A Chroma collection."""

    def __init__(self, retriever: ChromaRetriever) -> None:
        super().__init__(retriever.embedder)
        self._retriever = retriever

    @cached_property
    def pool(self) -> Sequence[Passage]:
        return [passage for passage in self._retriever.passages() if not is_blank(passage.text)]

    def find(self, texts: Sequence[str], vectors: Matrix, k: int) -> list[list[Passage]]:
        found = self._retriever.retrieve_many(texts, k=k)
        return [self.equipped([p for p in passages if not is_blank(p.text)]) for passages in found]


def _top(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Positions of the ``k`` highest scores, highest first; equal ones in their order."""
    border = -np.partition(-scores, k - 1)[k - 1]
    above = np.flatnonzero(scores >= border)
    return above[np.argsort(-scores[above], kind="stable")][:k]


def _unit(vectors: Matrix) -> Matrix:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0), np.float32)
