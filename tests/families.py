"""Small real families for tests of the contract: their scores can be worked out by hand."""

from __future__ import annotations

import time

import numpy as np

from rerankit.rerankers.base import Reranker
from rerankit.rerankers.call import Scored
from rerankit.rerankers.pairs import PointwiseReranker
from rerankit.rerankers.windows import Windows


class WordOverlap(PointwiseReranker):
    """Score: how many of the passage's words (title included) are in the query."""

    scale = "logit"

    def __init__(self, model="v1", *, window=None, delay=0.0, **options):
        super().__init__(**options)
        self.model = f"word-overlap:{model}"
        self.window, self.delay, self.seen = window, delay, []

    @property
    def fingerprint(self):
        return self.model

    def score_pairs(self, pairs, call):
        self.seen.extend(pairs)
        call.meter.forward_passes += 1
        scores = []
        for query, passage in pairs:
            words = f"{passage.title} {passage.text}".lower().split()
            call.meter.input_tokens += len(words)
            scores.append(float(sum(word in query.lower().split() for word in words)))
            time.sleep(self.delay)
        return np.array(scores)

    def windows(self, query, passage):
        if self.window is None:
            return super().windows(query, passage)
        size, text = self.window, passage.text
        spans = [(start, min(start + size, len(text))) for start in range(0, len(text), size)]
        kept = spans[: self.max_windows]
        return Windows(tuple(kept), truncated_tokens=sum(len(text[a:b].split()) for a, b in spans[len(kept) :]))


class Broken(Reranker):
    """A list-wise family that answers whatever it is told to: a result, or an exception to raise."""

    scale = "order"

    def __init__(self, answer, **options):
        super().__init__(**options)
        self.model = "broken"
        self.answer, self.calls = answer, 0

    def score_lists(self, requests, call):
        self.calls += 1
        return [self._one(request, call) for request in requests]

    def _one(self, request, call):
        answer = self.answer(request, call)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, Scored) else Scored(np.asarray(answer, float))
