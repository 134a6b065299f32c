"""TokenAttention: one layer of attention from the query over the tokens of the whole list, without a language model.

The offline member of the in-context family. As in Chen et al. (arXiv:2410.02642), a passage's score is the attention
that its tokens get from the query's, and the softmax runs over every token of every passage, so passages compete: a
query word that all of them hold gives each a little, a rare one all to its passage. Queries and keys are the embedded
model's last token states as they are. A trained projection of them did worse outside its training sets
(``docs/in-context.md`` tells what was tried).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError
from rerankit.models.encoder import TextEncoder
from rerankit.models.late_encoder import LateEncoder, TokenVectors, load_late_encoder
from rerankit.models.vector_cache import KeepsVectors, open_cache
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import BLOCK, Call, Request, Scored
from rerankit.rerankers.evidence import matched_spans
from rerankit.rerankers.reading import Reader
from rerankit.types import Passage, Span

__all__ = ["TokenAttention"]

Floats = NDArray[np.float64]

TEMPERATURE = 0.05
"""Of cosines between unit vectors."""

CHUNK = 16
"""Passages encoded between two looks at the deadline."""

LEAST = 1e-6
"""Attention of a passage that a query token does not look at: bounds what one token can take away."""

STANDS_OUT = 1.0
"""Evidence are tokens so many standard deviations above their passage's mean."""


class TokenAttention(Reranker):
    """Attention mass over the embedded model's token states; ``in-context`` without a model.

    The score is the mean over the query's tokens of the logarithm of the attention that the passage gets, less half the
    logarithm of its length. Scores depend on the list: they order it, and cannot be compared between lists. The order
    of the input does not matter.

    Args:
        encoder: None for the embedded model, or a loaded encoder.
        temperature: of the softmax; lower is sharper.
        max_windows: windows read per passage; what lies beyond is counted in ``Hit.truncated_tokens``.
        vectors: where token vectors of passages are kept, as for ``late-interaction``, which shares them.
        device, backend, dtype: as for ``late-interaction``.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: an option is out of range.
        MissingExtraError: a needed package is not installed.

    Example:
        >>> ranking = TokenAttention().rank("orange powder on wheat", ["Rust on wheat is orange.", "Sheep eat grass."])
        >>> ranking[0].text
        'Rust on wheat is orange.'
    """

    scale = "attention"

    def __init__(
        self,
        encoder: TextEncoder | None = None,
        *,
        temperature: float = TEMPERATURE,
        max_windows: int = 64,
        vectors: KeepsVectors | str | Path | bool | None = None,
        device: str = "auto",
        backend: str = "auto",
        dtype: str = "auto",
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        check_whole(1, max_windows=max_windows)
        if not is_number(temperature) or temperature <= 0:
            raise InputError(f"temperature must be a number above 0, got {temperature!r:.80}")
        self.temperature, self.max_windows = float(temperature), max_windows
        engine = {"device": device, "backend": backend, "dtype": dtype, "revision": None}
        self._owns_cache = bool(vectors) and isinstance(vectors, (str, Path, bool))
        self.encoder: LateEncoder = load_late_encoder(encoder, open_cache(vectors), "float16", engine)
        self.reader = Reader(self.encoder.encoder, self.encoder.room())
        self.model = f"in-context:{self.encoder.encoder.model_id}"

    @property
    def fingerprint(self) -> str:
        """Weights, precision, temperature and windows."""
        return f"token-attention:{self.encoder.fingerprint}:{self.temperature}:{self.max_windows}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """Every passage's tokens, then one softmax per list."""
        return [self._scored(request, call) for request in requests]

    def close(self) -> None:
        """Stop the worker thread and close the cache."""
        super().close()
        if self._owns_cache:
            self.encoder.cache.close()

    def _scored(self, request: Request, call: Call) -> Scored:
        query = self.encoder.query(request.query, call.meter)
        read: list[_Read] = []
        step = BLOCK if call.deadline is None else CHUNK
        for start in range(0, len(request.passages), step):
            if call.expired:
                break
            read += self._read(request.passages[start : start + step], call)
        if not read:
            return Scored(np.empty(0)).padded(len(request.passages), "the deadline passed")
        attention = _attention(query.vectors, [tokens for one in read for tokens in one.tokens], self.temperature)
        columns = np.split(attention, np.cumsum([one.size for one in read])[:-1], axis=1)
        mass = np.array([column.sum(axis=1) for column in columns])
        scores = np.log(mass + LEAST).mean(axis=1) - np.log([one.size for one in read]) / 2
        words = ~query.special
        found = [
            _evidence(one, column[words].mean(axis=0)) if words.any() else ()
            for one, column in zip(read, columns, strict=True)
        ]
        scored = Scored(scores, truncated=np.array([one.truncated for one in read], np.int64), evidence=found)
        return scored.padded(len(request.passages), "the deadline passed")

    def _read(self, passages: Sequence[Passage], call: Call) -> list[_Read]:
        cut = [(p.text, self.reader.head(p), self.reader.windows(p, self.max_windows)) for p in passages]
        texts = [head + text[start:end] for text, head, windows in cut for start, end in windows.spans]
        tokens = iter(self.encoder.passages(texts, call.meter))
        return [
            _Read(
                text,
                list(itertools.islice(tokens, len(windows.spans))),
                [start - len(head) for start, _ in windows.spans],
                windows.truncated_tokens,
            )
            for text, head, windows in cut
        ]


class _Read:
    """The tokens of one passage, window by window.

    Attributes:
        size: how many tokens.
        offsets: int64 ``[size, 2]``: their characters in the text; negative or empty outside of it.
    """

    def __init__(self, text: str, tokens: Sequence[TokenVectors], shifts: Sequence[int], truncated: int) -> None:
        self.text, self.tokens, self.truncated = text, tokens, truncated
        self.size = sum(map(len, tokens))
        moved = [one.offsets.astype(np.int64) + shift for one, shift in zip(tokens, shifts, strict=True)]
        outside = [one.offsets[:, 1] == 0 for one in tokens]
        self.offsets = np.where(np.concatenate(outside)[:, None], -1, np.concatenate(moved))


def _attention(query: NDArray[np.float32], passages: Sequence[TokenVectors], temperature: float) -> Floats:
    """How each query token ``[q]`` divides its attention over all tokens of the list: float64 ``[q, tokens]``."""
    columns = np.ascontiguousarray(query.T)
    cosines = [(one.vectors.astype(np.float32, copy=False) @ columns) * one.scales[:, None] for one in passages]
    logits = np.concatenate(cosines).T.astype(np.float64) / temperature
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)


def _evidence(read: _Read, attention: Floats) -> tuple[Span, ...]:
    """The places of a passage that were looked at most; punctuation, on which much attention rests, is none."""
    places = read.offsets.tolist()
    words = [start >= 0 and any(map(str.isalnum, read.text[start:end])) for start, end in places]
    seen = attention[words]
    if not len(seen):
        return ()
    bound = min(seen.mean() + STANDS_OUT * seen.std(), seen.max())
    high = (attention >= bound) & words
    found = zip(read.offsets[high].tolist(), attention[high].tolist(), strict=True)
    return matched_spans(read.text, [(start, end, weight) for (start, end), weight in found])
