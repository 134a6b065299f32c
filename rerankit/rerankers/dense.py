"""One vector per passage: the plain cosine of query and passage, with the vectors of the store where they are there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.models.embedded import chosen_embedder
from rerankit.models.encoder import TextEncoder
from rerankit.models.text_vectors import encoder_fingerprint, query_vector, text_vectors
from rerankit.models.vector_cache import KeepsVectors, open_vectors
from rerankit.rerankers.call import Call
from rerankit.rerankers.pairs import Pair, PointwiseOptions, PointwiseReranker
from rerankit.rerankers.reading import Reader
from rerankit.rerankers.vectors import stored_vector
from rerankit.rerankers.windows import Windows
from rerankit.types import Passage

__all__ = ["Dense"]


class Dense(PointwiseReranker):
    """Cosine of the query's vector and the passage's: the order of a vector store, as a reranker.

    A passage's own ``embedding`` is used if its ``embedding_model`` is this encoder's ``model_id``, or if that is
    empty (the caller vouches for it) and the vector has the right width and length 1. All other passages are encoded;
    long ones in windows, of which the best counts. A vector that claims to be the encoder's and has another width or is
    not finite is refused. A query longer than the model can take is read in parts, whose mean direction counts.

    Args:
        model: None for the embedded model; else the folder or hub name of a sentence encoder, or a loaded one.
        vectors: where the vectors of encoded passages are kept: a file (True for one in the user's cache folder), a
            :class:`~rerankit.models.vector_cache.VectorCache`, a :class:`~rerankit.rag.side_vectors.SideVectors` (a
            Chroma collection), or None for the memory of this process.
        device, backend, dtype, revision: as for :class:`~rerankit.models.encoder.TextEncoder`; ``auto`` means
            float32 for the embedded model.
        options: see :class:`~rerankit.rerankers.pairs.PointwiseOptions`.

    Raises:
        ModelError: the model cannot be had or is damaged.
        MissingExtraError: a needed package is not installed.
    """

    scale = "cosine"
    by_text = False
    reads_vectors = True

    def __init__(
        self,
        model: str | Path | TextEncoder | None = None,
        *,
        vectors: KeepsVectors | str | Path | bool | None = None,
        device: str = "auto",
        backend: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        **options: Unpack[PointwiseOptions],
    ) -> None:
        super().__init__(**options)
        self._owns_encoder = isinstance(model, (str, Path))
        self._owns_cache = bool(vectors) and isinstance(vectors, (str, Path, bool))
        self.vectors = open_vectors(vectors)
        engine = {"device": device, "backend": backend, "dtype": dtype, "revision": revision}
        if isinstance(model, (str, Path)):
            model = TextEncoder(model, device=device, backend=backend, dtype=dtype, revision=revision)
        self.encoder = model or chosen_embedder(engine)
        self.reader = Reader(self.encoder)
        self.model = f"dense:{self.encoder.model_id}"

    @property
    def fingerprint(self) -> str:
        """Weights, precision, length limit and prompts."""
        return f"dense:{encoder_fingerprint(self.encoder)}"

    def windows(self, query: str, passage: Passage) -> Windows:
        """Pieces that fit the encoder beside the title; the whole where a stored vector speaks for it."""
        if self._stored(passage) is not None:
            return Windows(((0, len(passage.text)),))
        return self.reader.windows(passage, self.max_windows)

    def score_pairs(self, pairs: Sequence[Pair], call: Call) -> NDArray[np.float64]:
        """Cosine of each pair."""
        queries = list(dict.fromkeys(query for query, _ in pairs))
        by_query = {query: query_vector(self.encoder, query, meter=call.meter) for query in queries}
        left = np.stack([by_query[query] for query, _ in pairs]).astype(np.float64)
        right = self._vectors([passage for _, passage in pairs], call).astype(np.float64)
        return np.asarray(np.einsum("nd,nd->n", left, right) / np.linalg.norm(right, axis=1))

    def close(self) -> None:
        """Stop the worker, close the caches and free a model that this reranker loaded for itself."""
        super().close()
        if self._owns_cache:
            self.vectors.close()
        if self._owns_encoder:
            self.encoder.close()

    def _vectors(self, passages: Sequence[Passage], call: Call) -> NDArray[np.float32]:
        """One vector per passage, float32 ``[n, dim]``."""
        stored = [self._stored(passage) for passage in passages]
        missing = [i for i, vector in enumerate(stored) if vector is None]
        texts = [self.reader.head(passages[i]) + passages[i].text for i in missing]
        result = np.zeros((len(passages), self.encoder.dim), np.float32)
        for i, vector in enumerate(stored):
            if vector is not None:
                result[i] = vector
        result[missing] = text_vectors(self.encoder, texts, self.vectors, meter=call.meter)
        return result

    def _stored(self, passage: Passage) -> NDArray[np.floating] | None:
        return stored_vector(passage, self.encoder.model_id, self.encoder.dim)
