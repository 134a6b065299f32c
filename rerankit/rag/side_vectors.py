"""SideVectors: vectors of texts in a Chroma collection of their own, beside those that a store searches.

Where a store was made with another embedder, a reranker encodes its passages once and keeps the vectors here, for every
process that opens the store. The key is the content: encoder, its settings and text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rerankit.errors import InputError, StoreError
from rerankit.models.vector_cache import Entry
from rerankit.rag.guard import GuardedCollection
from rerankit.rag.store import Store

__all__ = ["SideVectors"]


class SideVectors:
    """One vector per key in a Chroma collection; for ``vectors=`` of the families that keep one vector per passage.

    Args:
        where: a folder, ``"memory"``, the ``http(s)://`` address of a Chroma server, or a chromadb client.
        collection: its name, made at the first write. One per encoder: a collection holds vectors of one width.

    Raises:
        InputError: ``where`` is none of these.

    Example:
        >>> from rerankit.rerankers.dense import Dense
        >>> vectors = SideVectors("memory", "side-vectors")
        >>> ranking = Dense(vectors=vectors).rank("wheat rust", ["Rust on wheat leaves.", "Sheep eat grass."])
        >>> vectors.count()
        2
    """

    def __init__(self, where: object, collection: str = "rerankit-vectors") -> None:
        self.name = collection
        self._store = Store(where)
        self._collection: GuardedCollection | None = None

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The vectors that are known among ``keys``, float32 ``[dim]`` each.

        Raises:
            StoreError: the store fails.
        """
        found: dict[bytes, Entry] = {}
        by_id = {key.hex(): key for key in keys}
        ids, most = list(by_id), self._store.max_batch
        for start in range(0, len(ids), most):
            page = self._open().get(ids=ids[start : start + most], include=["embeddings"])
            for name, vector in zip(page["ids"], page["embeddings"], strict=True):
                found[by_id[name]] = (np.asarray(vector, np.float32),)
        return found

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep vectors; those of known keys are written again.

        Raises:
            InputError: an entry is not one vector of finite numbers.
            StoreError: the store fails, or the collection holds vectors of another width.
        """
        for entry in entries.values():
            if len(entry) != 1 or entry[0].ndim != 1 or not np.isfinite(entry[0]).all():
                raise InputError(
                    "SideVectors keeps one vector of finite numbers per text; token vectors belong into a file "
                    "(vectors='FILE')"
                )
        items, most = list(entries.items()), self._store.max_batch
        for start in range(0, len(items), most):
            self._write(items[start : start + most])

    def count(self) -> int:
        """How many vectors are kept."""
        return self._open().count()

    def close(self) -> None:
        """Release a client that was opened here; a later call opens it again."""
        self._collection = None
        self._store.close()

    def _open(self) -> GuardedCollection:
        if self._collection is None:
            self._collection = self._store.create(self.name, space="l2")  # keeps lengths
        return self._collection

    def _write(self, items: Sequence[tuple[bytes, Entry]]) -> None:
        try:
            self._open().upsert(
                ids=[key.hex() for key, _ in items],
                embeddings=np.stack([np.asarray(entry[0], np.float32) for _, entry in items]),
            )
        except StoreError as error:
            if "dimension" not in str(error):
                raise
            raise StoreError(
                f"The collection {self.name!r} keeps vectors of another encoder ({error}). Name another one: "
                "SideVectors(where, collection)."
            ) from error
