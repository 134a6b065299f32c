"""One unit vector per passage: the stored ones where they can be compared, else the embedder's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.models.vector_cache import shared_cache
from rerankit.rerankers.call import Call
from rerankit.types import Passage

if TYPE_CHECKING:
    from rerankit.models.encoder import TextEncoder

NEAR_UNIT = 0.01
"""How far from 1 the length of a vector without a name may be: float16 and 8-bit stores round."""


def stored_vector(passage: Passage, model_id: str, dim: int, *, strict: bool = False) -> NDArray[np.floating] | None:
    """The passage's own vector as it is, if it can be the model's; its length is 1 only about, or if named, any.

    A vector that names no embedder is the model's if width and length fit: the caller vouches for it.

    Raises:
        InputError: the vector names the model and cannot be its, or it cannot be used and ``strict`` is on.
    """
    if passage.embedding is None:
        return None
    named = passage.embedding_model == model_id
    fault = _fault(passage.embedding, dim, any_length=named)
    if not fault and (named or not passage.embedding_model):
        return passage.embedding
    if named or strict:
        raise InputError(_refusal(passage, model_id, fault))
    return None


def _fault(vector: NDArray[np.floating], dim: int, *, any_length: bool) -> str:
    if vector.shape != (dim,):
        return f"of width {len(vector)}, not {dim}"
    if not np.isfinite(vector).all():
        return "with NaN or infinite numbers"
    with np.errstate(over="ignore"):
        length = float(np.linalg.norm(vector.astype(np.float32)))
    fits = 0.0 < length < np.inf if any_length else abs(length - 1.0) < NEAR_UNIT
    return "" if fits else f"of length {length:.3g}, not 1"


def _refusal(passage: Passage, model_id: str, fault: str) -> str:
    if passage.embedding_model not in ("", model_id):
        return (
            f"Passage {passage.id!r} carries a vector of {passage.embedding_model!r}; this model reads those of "
            f"{model_id!r}. Index the store with that embedder, or leave strict=True out: the text is then encoded."
        )
    return (
        f"Passage {passage.id!r} carries a vector {fault}, which cannot be one of {model_id!r}. Index the passage "
        "again, or drop its embedding (passage.replace(embedding=None)): the text is then encoded."
    )


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
        vectors of the embedder itself are used and the other passages of the list are encoded, once per process: what
        an earlier stage has encoded is known here too. For one longer than the embedder reads, its first window speaks.
        """
        stored = [_comparable(passages) for passages in lists]
        if any(found is None for found in stored):
            missing = [passages for passages, found in zip(lists, stored, strict=True) if found is None]
            encoded = iter(self._encoded(missing, call))
            stored = [next(encoded) if found is None else found for found in stored]
        return [_unit(found) for found in stored if found is not None]

    def _encoded(self, lists: Sequence[Sequence[Passage]], call: Call) -> list[NDArray[np.float64]]:
        """Vectors in the embedder's own space; each distinct text is encoded once."""
        from rerankit.models.encoder import TextEncoder
        from rerankit.models.text_vectors import text_vectors
        from rerankit.rerankers.reading import Reader

        encoder: TextEncoder | Any = self._encoder()
        # What is merely used like an encoder cuts long texts as it likes, and no cache could tell its vectors by a key.
        reader = Reader(encoder) if isinstance(encoder, TextEncoder) else None
        text = _text if reader is None else reader.beginning
        rows: list[list[NDArray[np.float64] | str]] = [[] for _ in lists]
        for passages, row in zip(lists, rows, strict=True):
            for passage in passages:
                vector = _vector(passage)
                own = passage.embedding_model == encoder.model_id and vector is not None and len(vector) == encoder.dim
                row.append(vector if own and vector is not None else text(passage))
        wanted = list(dict.fromkeys(item for row in rows for item in row if isinstance(item, str)))
        if reader is not None:
            fresh = text_vectors(encoder, wanted, shared_cache(), meter=call.meter)
        else:
            fresh = encoder.encode(wanted, meter=call.meter) if wanted else np.zeros((0, encoder.dim), np.float32)
        known = dict(zip(wanted, fresh.astype(np.float64), strict=True))
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
