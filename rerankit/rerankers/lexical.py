"""BM25 over the candidates: the words that query and passage share, rare ones counting more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, require
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.words import K1, B, Words

__all__ = ["Lexical"]


class Lexical(Reranker):
    """BM25 (Robertson et al., "Okapi at TREC-3", 1994; Lucene's variant, through bm25s) over the list at hand.

    Word statistics come from the candidates, so scores compare within a list only. Titles count as text.

    Args:
        language: of the Snowball stemmer and the stop words, such as ``english`` or ``german``; empty for neither.
        k1: how soon repeated words stop counting.
        b: how much longer passages are marked down, 0 to 1.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: a parameter is wrong, or there is no stemmer for the language.
        MissingExtraError: bm25s or PyStemmer is not installed.
    """

    scale = "bm25"

    def __init__(
        self, *, language: str = "english", k1: float = K1, b: float = B, **options: Unpack[RerankerOptions]
    ) -> None:
        super().__init__(**options)
        if not (0 <= k1 < float("inf") and 0 <= b <= 1):
            raise InputError(f"BM25 takes k1 of at least 0 and b from 0 to 1, got k1={k1!r}, b={b!r}")
        self._words = Words(language)
        self._bm25s = require("bm25s", extra="lexical", purpose="Lexical reranking")
        self.language, self.k1, self.b = language, float(k1), float(b)
        self.model = f"lexical:bm25[k1={k1:g},b={b:g},language={language or 'none'}]"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Index each list and put its query to it."""
        return [Scored(self._scores(request)) for request in requests]

    def _scores(self, request: Request) -> NDArray[np.float64]:
        texts = [f"{passage.title}\n{passage.text}" for passage in request.passages]
        *words, asked = self._words.stems([*texts, request.query])
        if not asked or not any(words):
            return np.zeros(len(texts))
        index = self._bm25s.BM25(k1=self.k1, b=self.b, method="lucene")
        index.index(words, show_progress=False)
        return np.asarray(index.get_scores(asked), np.float64)
