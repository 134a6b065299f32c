"""One unit vector per passage: the stored ones where they can be compared, else the embedder's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.rerankers.call import Call
from rerankit.types import Passage

if TYPE_CHECKING:
    from rerankit.models.encoder import TextEncoder


class Vectors:
    """Where the vectors of passages come from.

    Args:
        embedder: a TextEncoder, the name or folder of one, or None for the embedded model. It is loaded when a
            passage needs it, so lists that bring their vectors need no model at all.

    Raises:
        InputError: it is none of these.
    """

    def __init__(self, embedder: TextEncoder | str | None = None) -> None:
        if not (embedder is None or isinstance(embedder, str) or _is_embedder(embedder)):
            raise InputError(
                f"embedder is the folder or hub name of a model, a loaded TextEncoder (or what has its model_id, dim "
                f"and encode), or None for the embedded model; got {embedder!r:.80}"
            )
        self._source = embedder
        self._loaded: TextEncoder | None = None

    @property
    def name(self) -> str:
        """Which embedder stands by, without loading it."""
        return "embedded" if self._source is None else getattr(self._source, "model_id", str(self._source))

    def of_lists(self, lists: Sequence[Sequence[Passage]], call: Call) -> list[NDArray[np.float64]]:
        """Unit vectors, float64 ``[n, dim]`` per list; a null vector stays null.

        A list is taken as stored if all its vectors are finite and of one length and one model. Otherwise stored
        vectors of the embedder itself are used and the other passages of the list are encoded.
        """
        stored = [_comparable(passages) for passages in lists]
        if any(found is None for found in stored):
            missing = [passages for passages, found in zip(lists, stored, strict=True) if found is None]
            encoded = iter(self._encoded(missing, call))
            stored = [next(encoded) if found is None else found for found in stored]
        return [_unit(found) for found in stored if found is not None]

    def _encoded(self, lists: Sequence[Sequence[Passage]], call: Call) -> list[NDArray[np.float64]]:
        """Vectors in the embedder's own space; each distinct text is encoded once."""
        encoder = self._encoder()
        rows: list[list[NDArray[np.float64] | str]] = [[] for _ in lists]
        for passages, row in zip(lists, rows, strict=True):
            for passage in passages:
                vector = _vector(passage)
                own = passage.embedding_model == encoder.model_id and vector is not None and len(vector) == encoder.dim
                row.append(vector if own and vector is not None else _text(passage))
        wanted = dict.fromkeys(item for row in rows for item in row if isinstance(item, str))
        fresh = encoder.encode(list(wanted), meter=call.meter).astype(np.float64) if wanted else ()
        known = dict(zip(wanted, fresh, strict=True))
        return [np.stack([known[item] if isinstance(item, str) else item for item in row]) for row in rows]

    def _encoder(self) -> TextEncoder:
        if self._loaded is None:
            if self._source is None:
                from rerankit.models.embedded import embedder

                self._loaded = embedder()
            elif isinstance(self._source, str):
                from rerankit.models.encoder import TextEncoder

                self._loaded = TextEncoder(self._source)
            else:
                self._loaded = self._source
        return self._loaded


def _is_embedder(given: object) -> bool:
    return all(hasattr(given, name) for name in ("model_id", "dim", "encode"))


def _text(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def _vector(passage: Passage) -> NDArray[np.float64] | None:
    """The stored vector if it is a finite one, else None."""
    if passage.embedding is None:
        return None
    vector = np.asarray(passage.embedding, np.float64)
    return vector if vector.ndim == 1 and len(vector) and np.isfinite(vector).all() else None


def _comparable(passages: Sequence[Passage]) -> NDArray[np.float64] | None:
    """The stored vectors ``[n, dim]`` if every passage has one and all are of one space, else None."""
    vectors = [vector for passage in passages if (vector := _vector(passage)) is not None]
    spaces = {(len(vector), passage.embedding_model) for vector, passage in zip(vectors, passages, strict=False)}
    return np.stack(vectors) if len(vectors) == len(passages) and len(spaces) == 1 else None


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    scaled = vectors / np.where(largest > 0, largest, 1.0)  # squares of very large or small numbers stay in range
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: NDArray[np.float64] = scaled / np.where(norms > 0, norms, 1.0)
    return unit
