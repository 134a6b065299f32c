"""What must be known of a Chroma collection before its vectors can be trusted: space, dimension, embedder."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import StoreError
from rerankit.models.protocols import Embedder
from rerankit.rag.guard import GuardedCollection
from rerankit.rag.records import EMBEDDER, STAMP, embedded_text, from_record
from rerankit.rag.store import Space

__all__ = ["FIX", "Facts", "check_embedder", "distances_to", "read_facts", "similarities", "update_metadata"]

logger = logging.getLogger(__name__)

FIX = (
    "Vectors of different models cannot be compared: open the collection with the embedder that it was made with "
    "(embedder=...), or index the passages into another one (collection=...)."
)
"""The way out of every such mix-up."""

UNKNOWN = "unknown"
"""Stands for the embedder of a collection that others made and that does not fit ours: no model uses such vectors."""

_SAME_MODEL = 0.9  # cosine of a text embedded twice: numerics stay far above it, another model far below

_LOOKED_AT, _COMPARED = 50, 3  # records; some may have no document


@dataclass(frozen=True, slots=True)
class Facts:
    """Of a collection.

    Attributes:
        space: how distances are measured.
        dim: length of the vectors, or None while the collection is empty.
        embedder: recorded ``model_id``, or an empty string.
        ours: whether rerankit wrote it.
    """

    space: Space
    dim: int | None
    embedder: str
    ours: bool


def read_facts(collection: GuardedCollection) -> Facts:
    """Facts from a collection's configuration, its metadata and one record."""
    metadata, configuration = collection.metadata, collection.configuration
    index = configuration.get("hnsw") or configuration.get("spann") or {}
    space: Space = index.get("space") or metadata.get("hnsw:space") or "l2"
    vectors = collection.get(limit=1, include=["embeddings"])["embeddings"]
    dim = len(vectors[0]) if vectors is not None and len(vectors) else None
    return Facts(space, dim, str(metadata.get(EMBEDDER, "")), STAMP in metadata)


def update_metadata(collection: GuardedCollection, **changes: str) -> None:
    """Change some keys: Chroma replaces the whole, and refuses the ``hnsw:`` keys that older versions keep in it."""
    kept = {key: value for key, value in collection.metadata.items() if not key.startswith("hnsw:")}
    collection.replace_metadata({**kept, **changes})


def check_embedder(collection: GuardedCollection, facts: Facts, embedder: Embedder, *, strict: bool) -> str:
    """The id under which the stored vectors may be used together with those of ``embedder``.

    A collection that others made names no embedder: then up to three stored documents are embedded again and compared.
    Vectors that do not fit, or that have no document to be compared by, count as those of an unknown model.

    Args:
        collection: to check.
        facts: of it.
        embedder: about to embed queries or passages.
        strict: refuse such vectors instead of warning; for writing.

    Raises:
        StoreError: another embedder is recorded, or the dimension differs, or (strict) the embedder is unknown.
    """
    name, mine = collection.name, embedder.model_id
    if facts.embedder and facts.embedder != mine:
        raise StoreError(f"Collection {name!r} was indexed with embedder {facts.embedder!r}, not {mine!r}. {FIX}")
    if facts.dim is not None and facts.dim != embedder.dim:
        raise StoreError(
            f"Collection {name!r} holds vectors of dimension {facts.dim}, embedder {mine!r} makes {embedder.dim}. {FIX}"
        )
    if facts.embedder or facts.ours or facts.dim is None:
        return mine
    likeness = _likeness(collection, embedder)
    if likeness is not None and likeness >= _SAME_MODEL:
        return mine
    if likeness is None:
        found = f"Collection {name!r} names no embedder and has no documents to tell whether it was {mine!r}."
    else:
        found = f"Collection {name!r} seems to be made with another embedder than {mine!r} (cosine {likeness:.2f})."
    if strict:
        raise StoreError(f"{found} {FIX}")
    logger.warning("%s Results may be poor. %s", found, FIX)
    return UNKNOWN


def _likeness(collection: GuardedCollection, embedder: Embedder) -> float | None:
    """Mean cosine of stored vectors and ours for the same documents; None where nothing can be compared."""
    sample = collection.get(limit=_LOOKED_AT, include=["documents", "metadatas", "embeddings"])
    documents, metadatas, vectors = sample["documents"], sample["metadatas"], sample["embeddings"]
    if documents is None or metadatas is None or vectors is None:
        return None
    cosines = []
    for key, document, metadata, vector in zip(sample["ids"], documents, metadatas, vectors, strict=True):
        stored = np.asarray(vector, dtype=np.float64)
        if not document or not np.linalg.norm(stored):
            continue
        ours = embedder.encode([document, embedded_text(from_record(key, document, metadata))], kind="passage")
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(stored)
        cosines.append(float(np.max(ours @ stored / lengths)))
        if len(cosines) == _COMPARED:
            break
    return float(np.mean(cosines)) if cosines else None


def similarities(
    distances: NDArray[np.float64], space: Space, query: NDArray[np.float32], vectors: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Chroma's distances as similarities, higher is better.

    ``cosine``: the cosine, ``1 - d``. ``ip``: the dot product, ``1 - d``. ``l2`` (Chroma returns the squared distance):
    the cosine, ``1 - d / 2``, if all vectors have length 1, else ``-d``.

    Args:
        distances: ``[n]``.
        space: of the collection.
        query: ``[dim]``.
        vectors: ``[n, dim]``.
    """
    if space != "l2":
        return 1.0 - distances
    lengths = np.linalg.norm(np.vstack([query[None, :], vectors]), axis=1)
    return 1.0 - distances / 2.0 if np.allclose(lengths, 1.0, atol=1e-3) else -distances


def distances_to(space: Space, query: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distances ``[n]`` as Chroma defines them, for records that it did not measure itself."""
    q, v = query.astype(np.float64), vectors.astype(np.float64)
    if space == "l2":
        return np.asarray(((v - q) ** 2).sum(axis=1))
    if space == "cosine":
        q, v = q / np.linalg.norm(q), v / np.linalg.norm(v, axis=1, keepdims=True)
    return np.asarray(1.0 - v @ q)
