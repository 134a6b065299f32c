"""Late interaction: every token of the query finds its best match among the tokens of the passage.

``score = sum over query tokens of max over passage tokens of cosine`` (MaxSim; Khattab and Zaharia, "ColBERT", SIGIR
2020). Without a model the embedded sentence encoder's own last-layer states are compared, offline and without any
training for it; with one, ColBERT, PyLate and XTR checkpoints run as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.models.encoder import TextEncoder
from rerankit.models.files import content_key
from rerankit.models.late_encoder import STORAGES, LateEncoder, Storage, TokenVectors, load_late_encoder
from rerankit.models.vector_cache import Entry, KeepsVectors, VectorCache, open_cache
from rerankit.rerankers.call import Call
from rerankit.rerankers.evidence import matched_spans
from rerankit.rerankers.pairs import Pair, PointwiseOptions, PointwiseReranker
from rerankit.rerankers.reading import Reader
from rerankit.rerankers.windows import Windows
from rerankit.types import Passage, Span

__all__ = ["LateInteraction", "Similarities", "max_similarities"]

_MATCH_MEMORY = 32 * 2**20
"""Bytes; 50,000 pairs or more."""


class LateInteraction(PointwiseReranker):
    """MaxSim over token vectors.

    All query tokens weigh the same, the frame tokens of the query ([CLS], [SEP]), which carry its gist, included: a
    passage's score depends on nothing but the query and the passage. For the embedded model and other plain encoders
    the score is the mean of MaxSim over the whole passage and MaxSim within the best 32 tokens, so that matches that
    lie together count more than the same matches scattered over a long passage.

    Args:
        model: None for the embedded model; else the folder or hub name of a ColBERT, PyLate or XTR checkpoint or of
            any sentence encoder, or a loaded encoder.
        storage: how the vectors of passages are kept: ``float32`` (exact), ``float16``, or ``int8``.
        vectors: where they are kept: a file (True for one in the user's cache folder), a
            :class:`~rerankit.models.vector_cache.VectorCache`, or None for the memory of this process, which also
            stands in for a keeper of one vector per text (:class:`~rerankit.rag.side_vectors.SideVectors`).
        device, backend, dtype, revision: as for :class:`~rerankit.models.encoder.TextEncoder`; ``auto`` means
            float32 for the embedded model.
        options: see :class:`~rerankit.rerankers.pairs.PointwiseOptions`.

    Attributes:
        scale: ``maxsim``. For the embedded model, plain encoders and XTR the mean over query tokens, -1 to 1; for
            ColBERT their sum, as published.

    Raises:
        InputError: an option is wrong.
        ModelError: the checkpoint cannot be had or is damaged.
        MissingExtraError: a needed package is not installed.
    """

    scale = "maxsim"

    def __init__(
        self,
        model: str | Path | TextEncoder | None = None,
        *,
        storage: Storage = "float16",
        vectors: KeepsVectors | str | Path | bool | None = None,
        device: str = "auto",
        backend: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        **options: Unpack[PointwiseOptions],
    ) -> None:
        super().__init__(**options)
        if storage not in STORAGES:
            raise InputError(f"storage is one of {', '.join(STORAGES)}, got {storage!r}")
        engine = {"device": device, "backend": backend, "dtype": dtype, "revision": revision}
        self._owns_encoder = isinstance(model, (str, Path))
        self._owns_cache = bool(vectors) and isinstance(vectors, (str, Path, bool))
        self.encoder: LateEncoder = load_late_encoder(model, open_cache(vectors), storage, engine)
        self._matches = VectorCache(memory_bytes=_MATCH_MEMORY)
        self.reader = Reader(self.encoder.encoder, self.encoder.room())
        self.model = f"late-interaction:{self.encoder.encoder.model_id}"

    @property
    def fingerprint(self) -> str:
        """Weights, precision, length limits, style, storage."""
        return f"late-interaction:{self.encoder.fingerprint}:{self.encoder.style.window}"

    def windows(self, query: str, passage: Passage) -> Windows:
        """Pieces that fit the encoder beside the title."""
        return self.reader.windows(passage, self.max_windows)

    def score_pairs(self, pairs: Sequence[Pair], call: Call) -> NDArray[np.float64]:
        """MaxSim of each pair; where the matches are is remembered for :meth:`evidence`."""
        scores = np.zeros(len(pairs))
        tokens = self.encoder.passages([self._shown(passage) for _, passage in pairs], call.meter)
        for query, positions in _by_query(pairs).items():
            found = self.encoder.query(query, call.meter)
            matched = max_similarities(found.vectors, [tokens[i] for i in positions], self.encoder.style.window)
            scores[positions] = self._read_out(matched)
            words = ~found.special
            self._matches.put_many({
                self._pair_key(pairs[i]): (tokens[i].offsets[matched.places[n, words]], matched.best[n, words])
                for n, i in enumerate(positions)
            })  # fmt: skip
        return scores

    def _read_out(self, matched: Similarities) -> NDArray[np.float64]:
        style = self.encoder.style
        whole = np.asarray(matched.best.mean(axis=1) if style.mean else matched.best.sum(axis=1))
        return (whole + matched.near) / 2 if style.window else whole

    def evidence(self, pairs: Sequence[Pair], call: Call) -> Sequence[tuple[Span, ...]]:
        """The places of each text that the query's words matched; none for a score that came from a score cache."""
        keys = [self._pair_key(pair) for pair in pairs]
        known = self._matches.get_many(keys)
        return [self._spans(passage, known.get(key)) for (_, passage), key in zip(pairs, keys, strict=True)]

    def _spans(self, passage: Passage, match: Entry | None) -> tuple[Span, ...]:
        if match is None:
            return ()
        shift = len(self.reader.head(passage))
        rows = zip((match[0] - shift).tolist(), match[1].tolist(), strict=True)
        return matched_spans(passage.text, [(start, end, value) for (start, end), value in rows if start >= 0])

    def _pair_key(self, pair: Pair) -> bytes:
        query, passage = pair
        return content_key(query, passage.title, passage.text)

    def close(self) -> None:
        """Stop the worker, close the caches and free a model that this reranker loaded for itself."""
        super().close()
        if self._owns_cache:
            self.encoder.cache.close()
        if self._owns_encoder:
            self.encoder.encoder.close()

    def _shown(self, passage: Passage) -> str:
        return self.reader.head(passage) + passage.text


class Similarities(NamedTuple):
    """How n passages match a query of q tokens.

    Attributes:
        best: per passage and query token the cosine of the best passage token, float64 ``[n, q]``.
        places: which token of the passage that is, int64 ``[n, q]``.
        near: the mean of the best cosines within the best single window, float64 ``[n]``.
    """

    best: NDArray[np.float64]
    places: NDArray[np.int64]
    near: NDArray[np.float64]


def max_similarities(query: NDArray[np.float32], passages: Sequence[TokenVectors], window: int = 32) -> Similarities:
    """The best match of every query token in every passage, and in the best window of each.

    Each passage is compared by itself: nothing is padded, so a passage unlike the query keeps its negative scores and
    no score depends on the others to the last bit. That is also faster than one large product, which leaves the
    processor's cache and wakes its threads.

    Args:
        query: unit vectors ``[q, dim]``.
        passages: n of them, at least one token each.
        window: tokens of a window; the next one begins half a window later. 0: the whole passage.
    """
    columns = np.ascontiguousarray(query.T)
    shape = len(passages), len(query)
    found = Similarities(np.zeros(shape), np.zeros(shape, np.int64), np.zeros(len(passages)))
    for row, passage in enumerate(passages):
        cosines = passage.vectors.astype(np.float32, copy=False) @ columns
        cosines *= passage.scales[:, None]
        found.places[row] = cosines.argmax(axis=0)
        found.best[row] = np.take_along_axis(cosines, found.places[row][None], axis=0)[0]
        found.near[row] = _near(cosines, window)
    return found


def _near(cosines: NDArray[np.float32], window: int) -> float:
    """Mean over query tokens of the best cosine within a window, for the best window of ``[t, q]`` cosines."""
    half = window // 2 or len(cosines)
    blocks = np.maximum.reduceat(cosines, np.arange(0, len(cosines), half), axis=0)
    windows = np.maximum(blocks[:-1], blocks[1:]) if len(blocks) > 1 else blocks
    return float(windows.mean(axis=1, dtype=np.float64).max())


def _by_query(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for position, (query, _) in enumerate(pairs):
        groups.setdefault(query, []).append(position)
    return groups
