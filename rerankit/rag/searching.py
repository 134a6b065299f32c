"""Queries against a Chroma collection: filters, results as arrays, and the fusion with a lexical ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, StoreError
from rerankit.rag.bounds import all_of, check_filter
from rerankit.rag.collection import distances_to, similarities
from rerankit.rag.guard import GuardedCollection
from rerankit.rag.lexical import reciprocal_rank_fusion
from rerankit.rag.records import from_record
from rerankit.rag.store import Space
from rerankit.types import Passage

__all__ = ["Filters", "Found", "Record", "checked_ids", "fuse", "get_records", "query_collection"]

_QUERIES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Filters:
    """What restricts a query; empty filters are left out, since Chroma takes them for errors."""

    where: Mapping[str, Any] | None = None
    where_document: Mapping[str, Any] | None = None
    ids: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        always: Mapping[str, Any] | None,
        where: Mapping[str, Any] | None,
        where_document: Mapping[str, Any] | None,
        ids: Sequence[str] | None,
    ) -> Filters:
        """Two metadata filters joined, and the others.

        Raises:
            InputError: one of them is not of its kind, or too large.
        """
        for name, value in (("where", always), ("where", where), ("where_document", where_document)):
            if value is not None and not isinstance(value, Mapping):
                raise InputError(f"The filter {name} must be a mapping in Chroma's language, got {value!r:.80}")
            if value is not None:
                check_filter(name, value)
        return cls(
            all_of(dict(part) for part in (always, where) if part),
            where_document or None,
            None if ids is None else checked_ids(ids),
        )

    def __bool__(self) -> bool:
        return self.where is not None or self.where_document is not None or self.ids is not None

    def check_ids(self, collection: GuardedCollection) -> None:
        """Chroma fails on an unknown id with a message that names none.

        Raises:
            InputError: naming them.
        """
        if self.ids:
            known = set(collection.get(ids=list(self.ids), include=[])["ids"])
            if unknown := [key for key in self.ids if key not in known]:
                raise InputError(f"No record with id {', '.join(map(repr, unknown[:5]))} in {collection.name!r}")

    def options(self) -> dict[str, Any]:
        """Keywords of ``collection.get`` and ``collection.query``."""
        ids = None if self.ids is None else list(self.ids)
        given = {"where": self.where, "where_document": self.where_document, "ids": ids}
        return {name: value for name, value in given.items() if value is not None}


def checked_ids(ids: Iterable[str]) -> tuple[str, ...]:
    """Each id once, in order.

    Raises:
        InputError: ``ids`` is one string, or holds something else than strings.
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"ids must be a sequence of strings, got {ids!r:.80}; put a single one into a list")
    unique = tuple(ids)
    if wrong := [key for key in unique if not isinstance(key, str)]:
        raise InputError(f"ids must be strings, got {wrong[0]!r:.80}")
    return tuple(dict.fromkeys(unique))


@dataclass(frozen=True, slots=True)
class Record:
    """One record, as far as it is known."""

    id: str
    document: str | None
    metadata: Mapping[str, Any] | None
    vector: NDArray[np.float32]
    distance: float | None = None
    score: float | None = None

    def passage(self, model_id: str) -> Passage:
        """The passage, with its vector and first-stage score."""
        made = from_record(self.id, self.document, self.metadata, distance=self.distance)
        return made.replace(score=self.score, embedding=self.vector, embedding_model=model_id)


@dataclass(frozen=True, slots=True)
class Found:
    """Records for one query, best first, and the query's vector ``[dim]``."""

    query: NDArray[np.float32]
    records: tuple[Record, ...]

    def passages(self, model_id: str) -> list[Passage]:
        """The passages of the records."""
        return [record.passage(model_id) for record in self.records]


def query_collection(
    collection: GuardedCollection, space: Space, vectors: NDArray[np.float32], k: int, filters: Filters
) -> list[Found]:
    """The ``k`` nearest records of each query vector ``[n, dim]``.

    Raises:
        InputError: Chroma does not accept a filter.
        StoreError: the index has lost most of the collection.
    """
    include = ["documents", "metadatas", "distances", "embeddings"]
    found: list[Found] = []
    for at in range(0, len(vectors), _QUERIES_AT_ONCE):
        group = vectors[at : at + _QUERIES_AT_ONCE]
        result = collection.query(include=include, query_embeddings=group, n_results=k, **filters.options())
        found += [_found(result, row, query, space) for row, query in enumerate(group)]
    if not filters:
        _check_complete(collection, k, min(len(item.records) for item in found))
    return found


def _found(result: Mapping[str, Any], row: int, query: NDArray[np.float32], space: Space) -> Found:
    ids = result["ids"][row]
    if not ids:
        return Found(query, ())
    vectors = np.asarray(result["embeddings"][row], dtype=np.float32)
    distances = np.asarray(result["distances"][row], dtype=np.float64)
    scores = similarities(distances, space, query, vectors)
    columns = zip(ids, result["documents"][row], result["metadatas"][row], vectors, distances, scores, strict=True)
    return Found(query, tuple(Record(i, d, m, v, float(x), float(s)) for i, d, m, v, x, s in columns))


def _check_complete(collection: GuardedCollection, k: int, found: int) -> None:
    """A vector index whose files are gone answers, without an error, with what was not yet in them."""
    if found >= k:
        return
    expected = min(k, collection.count())
    if found * 2 < expected:
        raise StoreError(
            f"Collection {collection.name!r} in {collection.place} should give {expected} records, but its vector "
            f"index finds {found}: files are missing or damaged. Move the store away and index the passages again, or "
            "restore a copy of it."
        )


def get_records(
    collection: GuardedCollection, ids: Sequence[str], where: Mapping[str, Any] | None = None
) -> dict[str, Record]:
    """Records by id, as far as they match ``where``; Chroma returns them in an order of its own."""
    if not ids:
        return {}
    got = collection.get(ids=list(ids), where=where, include=["documents", "metadatas", "embeddings"])
    vectors = np.asarray(got["embeddings"], dtype=np.float32)
    columns = zip(got["ids"], got["documents"], got["metadatas"], vectors, strict=True)
    return {key: Record(key, document, metadata, vector) for key, document, metadata, vector in columns}


def fuse(
    collection: GuardedCollection,
    space: Space,
    dense: Sequence[Found],
    lexical: Sequence[Sequence[str]],
    k: int,
    rrf_k: int,
) -> list[Found]:
    """Dense and lexical results of each query as one list of ``k``, scored by reciprocal rank fusion."""
    have = {record.id for found in dense for record in found.records}
    fetched = get_records(collection, sorted({key for ranking in lexical for key in ranking} - have))
    results = []
    for found, ranking in zip(dense, lexical, strict=True):
        own = {record.id: record for record in found.records}
        fused = reciprocal_rank_fusion([list(own), ranking], k=rrf_k)[:k]
        records = []
        for key, score in fused:
            record = own.get(key) or _measured(fetched.get(key), found.query, space)
            if record is not None:  # deleted since the lexical index was built
                records.append(replace(record, score=score))
        results.append(Found(found.query, tuple(records)))
    return results


def _measured(record: Record | None, query: NDArray[np.float32], space: Space) -> Record | None:
    """A record that only the lexical side found, with the distance that Chroma would give."""
    if record is None:
        return None
    return replace(record, distance=float(distances_to(space, query, record.vector[None, :])[0]))
