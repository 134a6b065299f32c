"""The vectors of the passages that go into a collection: given with the passage, or made by the embedder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, ModelError, StoreError
from rerankit.models.protocols import Embedder
from rerankit.rag.collection import FIX, check_embedder, read_facts, update_metadata
from rerankit.rag.guard import GuardedCollection
from rerankit.rag.records import EMBEDDER, embedded_text
from rerankit.types import Passage

__all__ = ["VectorSource", "embed"]


class VectorSource:
    """Makes sure that all vectors of a collection come from one embedder, whose id is recorded in it.

    Args:
        collection: that the vectors are for.
        embedder: makes the embedder when the first passage without a vector is met.
        model_id: of the embedder if it was chosen explicitly, or empty.
    """

    def __init__(self, collection: GuardedCollection, embedder: Callable[[], Embedder], model_id: str) -> None:
        self._collection, self._make, self._model_id = collection, embedder, model_id
        self._embeds = bool(model_id)
        self._facts = read_facts(collection)

    def agree(self, passages: Sequence[Passage]) -> None:
        """Check, before anything is written, that the passages' vectors fit the collection; record the embedder.

        Raises:
            InputError: passages carry vectors of another embedder.
            StoreError: the collection was made with another one.
        """
        if not self._embeds and any(passage.embedding is None for passage in passages):
            self._embeds, self._model_id = True, self._model_id or self._make().model_id
        for passage in passages:
            if passage.embedding is None or not passage.embedding_model:
                continue
            self._model_id = self._model_id or passage.embedding_model
            if passage.embedding_model != self._model_id:
                raise InputError(
                    f"Passage {passage.id!r} carries a vector of {passage.embedding_model!r}, but this collection is "
                    f"indexed with {self._model_id!r}. Drop its embedding, or index it into another collection."
                )
        self._record()

    def _record(self) -> None:
        recorded, mine = self._facts.embedder, self._model_id
        if self._embeds:
            check_embedder(self._collection, self._facts, self._make(), strict=True)
        elif recorded and mine and recorded != mine:
            name = self._collection.name
            raise StoreError(f"Collection {name!r} was indexed with embedder {recorded!r}, not {mine!r}. {FIX}")
        if mine and not recorded:
            update_metadata(self._collection, **{EMBEDDER: mine})
            self._facts = replace(self._facts, embedder=mine)

    def vectors(self, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """Vectors ``[n, dim]`` of ``passages``; only those without an embedding are embedded.

        Raises:
            InputError: an embedding is not a vector of finite numbers.
            StoreError: a dimension differs from that of the collection.
            ModelError: the embedder made something else than finite vectors.
        """
        rows = [None if passage.embedding is None else _given(passage) for passage in passages]
        missing = [passage for passage, row in zip(passages, rows, strict=True) if row is None]
        made = (
            iter(embed(self._make(), [embedded_text(passage) for passage in missing], "passage"))
            if missing
            else iter(())
        )
        vectors = [next(made) if row is None else row for row in rows]
        for passage, row in zip(passages, vectors, strict=True):
            self._check_dimension(passage, row)
        return np.stack(vectors)

    def _check_dimension(self, passage: Passage, vector: NDArray[np.float32]) -> None:
        if self._facts.dim is None:
            self._facts = replace(self._facts, dim=len(vector))
        if len(vector) != self._facts.dim:
            raise StoreError(
                f"Passage {passage.id!r} has a vector of dimension {len(vector)}, but collection "
                f"{self._collection.name!r} holds dimension {self._facts.dim}. {FIX}"
            )


def embed(embedder: Embedder, texts: Sequence[str], kind: Literal["query", "passage"]) -> NDArray[np.float32]:
    """Vectors ``[len(texts), dim]``.

    Raises:
        ModelError: the embedder made something else than finite vectors of its dimension.
    """
    made = np.asarray(embedder.encode(list(texts), kind=kind), dtype=np.float32)
    finite = bool(np.isfinite(made).all())
    if made.shape != (len(texts), embedder.dim) or not finite:
        raise ModelError(
            f"Embedder {embedder.model_id!r} must make finite vectors of shape {(len(texts), embedder.dim)} of a "
            f"{kind}, got shape {made.shape}{'' if finite else ' with NaN or infinite numbers'}"
        )
    return made


def _given(passage: Passage) -> NDArray[np.float32]:
    vector = np.asarray(passage.embedding, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise InputError(
            f"Passage {passage.id!r}: its embedding must be a vector of finite numbers that are not all zero, "
            f"got shape {vector.shape}"
        )
    return vector
