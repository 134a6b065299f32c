"""Lexical search over a whole collection, and the fusion of two result lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from rerankit.errors import require

__all__ = ["LexicalIndex", "reciprocal_rank_fusion"]


class LexicalIndex:
    """BM25 (Robertson; Lucene's variant, through bm25s) with English stop words and stems.

    Args:
        ids: of the documents.
        texts: of the documents, in the same order.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str]) -> None:
        self._bm25s = require("bm25s", extra="lexical", purpose="Lexical and hybrid search")
        stemmer = require("Stemmer", extra="lexical", purpose="Lexical and hybrid search")
        self._stemmer = stemmer.Stemmer("english")
        self._ids = list(ids)
        self._position = {key: position for position, key in enumerate(self._ids)}
        tokens = self._tokens(texts)
        self._model: Any = None
        if any(tokens):
            self._model = self._bm25s.BM25(method="lucene")
            self._model.index(tokens, show_progress=False)

    def __len__(self) -> int:
        return len(self._ids)

    def search(self, query: str, k: int, *, among: Collection[str] | None = None) -> list[str]:
        """Ids of the ``k`` best documents that share a term with the query, best first; ``among`` restricts them."""
        (tokens,) = self._tokens([query])
        if self._model is None or not tokens:
            return []
        scores = np.asarray(self._model.get_scores(tokens), dtype=np.float64)
        if among is not None:
            allowed = np.zeros(len(scores), dtype=bool)
            allowed[[self._position[key] for key in among if key in self._position]] = True
            scores[~allowed] = 0.0
        best = np.argsort(-scores, kind="stable")[:k]
        return [self._ids[at] for at in best if scores[at] > 0]

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        tokens: list[list[str]] = self._bm25s.tokenize(
            list(texts), stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return tokens


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], *, k: int = 60) -> list[tuple[str, float]]:
    """Ids with the sum of ``1 / (k + rank)`` over the rankings, best first; ties keep the order of the first ranking.

    Source: Cormack, Clarke and Buettcher, "Reciprocal Rank Fusion outperforms Condorcet", SIGIR 2009.
    """
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] += 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda item: -item[1])
