"""A reranker of your own: one method, and it composes with all the others. Needs rerankit[lexical]."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import rerankit
from rerankit import Passage, PointwiseReranker
from rerankit.rerankers.call import Call


class SameNumbers(PointwiseReranker):
    """Prefers passages with the question's own numbers; deadlines and long passages come with the base."""

    model, scale = "same-numbers", "order"

    def score_pairs(self, pairs: Sequence[tuple[str, Passage]], call: Call) -> NDArray[np.float64]:
        """How many of the query's numbers each passage has."""
        numbers = [(set(re.findall(r"\d+", query)), set(re.findall(r"\d+", item.text))) for query, item in pairs]
        return np.array([len(asked & there) for asked, there in numbers], dtype=np.float64)


passages = [
    "Sow wheat 3 to 5 cm deep into moist soil.",
    "Wheat sown at 12 cm needs a long coleoptile.",
    "Barley is sown at 12 cm nowhere.",
    "Sheep are shorn in spring.",
]
reranker = rerankit.load("lexical")[:3] | SameNumbers()
for hit in reranker.rank("Can I sow wheat at 12 cm?", passages):
    print(hit.rank, hit.prior_rank, hit.status, hit.text)
