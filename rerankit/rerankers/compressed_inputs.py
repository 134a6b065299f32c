"""What a ResRank-style model reads: the query's tokens and vector, and one vector per passage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.models.encoder import TextEncoder
from rerankit.models.late_encoder import LateEncoder
from rerankit.models.late_style import Style
from rerankit.models.meter import Meter
from rerankit.models.text_vectors import query_vector, text_vectors
from rerankit.models.vector_cache import KeepsVectors, open_cache, shared_cache
from rerankit.rerankers.reading import Reader
from rerankit.rerankers.vectors import stored_vector
from rerankit.rerankers.words import Words, bm25
from rerankit.types import Passage

__all__ = ["CompressedInputs", "PassageVectors", "Query"]


@dataclass(frozen=True, slots=True)
class Query:
    """A query as the model reads it.

    Attributes:
        tokens: unit token states, float32 ``[q, dim]``.
        vector: unit vector, float32 ``[dim]``.
    """

    tokens: NDArray[np.float32]
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PassageVectors:
    """A passage, one vector per window.

    Attributes:
        windows: unit vectors, float32 ``[w, dim]``; one for a stored vector.
        truncated: tokens that lie in no window.
    """

    windows: NDArray[np.float32]
    truncated: int = 0

    def nearest(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The window that is nearest to a query vector: ``[dim]``."""
        return np.asarray(self.windows[int(np.argmax(self.windows @ query))])


class CompressedInputs:
    """Takes vectors from passages that carry them, and from the encoder for the others.

    Args:
        encoder: the one the model was trained with.
        vectors: keeps the vectors of encoded passages.
        max_windows: windows read per passage.
        strict: refuse passages whose vectors cannot be used, instead of encoding their text.
    """

    def __init__(
        self, encoder: TextEncoder, vectors: KeepsVectors, max_windows: int = 64, strict: bool = False
    ) -> None:
        self.encoder, self.vectors, self.max_windows, self.strict = encoder, vectors, max_windows, strict
        self.reader = Reader(encoder)
        self._words: Words | None = None
        self._late = LateEncoder(encoder, Style(), shared_cache())  # late interaction's query serves here too

    def queries(self, texts: Sequence[str], meter: Meter | None = None) -> list[Query]:
        """Token states and vectors of queries, from one pass each.

        Raises:
            InputError: a query is far too long.
        """
        tokens = self._late.queries(texts, meter)
        vectors = [query_vector(self.encoder, text, meter=meter) for text in texts]
        return [Query(states.vectors, vector) for states, vector in zip(tokens, vectors, strict=True)]

    def encoded(self, passages: Sequence[Passage], meter: Meter | None = None) -> list[PassageVectors]:
        """Vectors of passages by their titles and texts, in windows where they are long."""
        cut = [self.texts(passage) for passage in passages]
        rows = text_vectors(self.encoder, [text for texts, _ in cut for text in texts], self.vectors, meter=meter)
        parts = np.split(rows, np.cumsum([len(texts) for texts, _ in cut])[:-1]) if cut else []
        return [PassageVectors(part, truncated) for part, (_, truncated) in zip(parts, cut, strict=True)]

    def matches(self, query: str, passages: Sequence[Passage]) -> NDArray[np.float32]:
        """How well each passage matches the words of a query, ``[n]``: BM25 with the statistics of the list."""
        self._words = self._words or Words()
        texts = [f"{passage.title}\n{passage.text}" if passage.title else passage.text for passage in passages]
        sketches = self._words.sketches(texts, open_cache(self.vectors))
        return bm25(self._words.query(query), sketches).astype(np.float32)

    def texts(self, passage: Passage) -> tuple[list[str], int]:
        """What the encoder reads of a passage, window by window, and how many tokens lie in none."""
        windows, head = self.reader.windows(passage, self.max_windows), self.reader.head(passage)
        return [head + passage.text[start:end] for start, end in windows.spans], windows.truncated_tokens

    def stored(self, passage: Passage) -> PassageVectors | None:
        """The passage's own vector, if it can be this encoder's.

        Raises:
            InputError: the vector claims to be this encoder's and cannot be, or is not usable and ``strict`` is on.
        """
        stored = stored_vector(passage, self.encoder.model_id, self.encoder.dim, strict=self.strict)
        if stored is None:
            return None
        vector = np.asarray(stored, np.float32)
        return PassageVectors((vector / float(np.linalg.norm(vector)))[None])
