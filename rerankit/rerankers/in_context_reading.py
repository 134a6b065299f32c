"""Reads one list for one query: attention per passage token, calibrated against a query that asks for nothing.

The prompt up to the query is run once; the query and "N/A" continue it in one forward pass. What "N/A" gives depends on
the list alone and is kept for the next query; the keys and values of a list are kept where that is asked for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerankit.models.attention import AttentionReader, HoldsModel, Prefix, Tail
from rerankit.models.attention_layers import Head
from rerankit.models.in_context_prompt import Candidate, InContextPrompt, Question, SharedPart
from rerankit.models.work import Work
from rerankit.rerankers.in_context_scores import by_passage

__all__ = ["Calibrate", "ListReader", "ReadRows"]

Calibrate = Literal["na", "none"]
ReadRows = Literal["tail", "query"]
Floats = NDArray[np.float64]
T = TypeVar("T")

NULL_QUERY = "N/A"
NULLS = 64
"""Lists whose attention without a query is kept; a list of 15,000 tokens takes 120 kB."""


class ListReader:
    """Reads lists with some heads of one model. Safe between threads.

    Args:
        lm: the model.
        prompt: how lists are laid out for it.
        heads: which heads, added up.
        rows: ``tail`` reads from the instruction to the end of the prompt, ``query`` the query's own tokens.
        calibrate: ``na`` subtracts what "N/A" in place of the query gives.
        kept: lists whose keys and values are kept between calls.
    """

    def __init__(
        self,
        lm: HoldsModel,
        prompt: InContextPrompt,
        heads: Sequence[Head],
        *,
        rows: ReadRows,
        calibrate: Calibrate,
        kept: int,
    ) -> None:
        self.lm, self.prompt, self.rows, self.calibrate, self.kept = lm, prompt, rows, calibrate, kept
        self.attention = AttentionReader(lm, heads)
        self.null = prompt.question(NULL_QUERY)
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()
        self._nulls: OrderedDict[bytes, Floats] = OrderedDict()

    def read(self, question: Question, candidates: Sequence[Candidate], work: Work) -> list[Floats] | None:
        """Attention per token of each passage, its number's tokens first; None if ``work`` expired.

        Args:
            question: the query's part of the prompt.
            candidates: in the order in which they are shown; at least one.
            work: counts the passes.
        """
        shared = self.prompt.shared(candidates)
        key = hashlib.sha256(np.array(shared.ids, np.int64).tobytes()).digest()
        with self.lm.lock:
            prefix = self._prefix(key, shared, work)
            tokens = None if prefix is None else self._calibrated(key, prefix, shared, question, work)
        return None if tokens is None else by_passage(tokens, shared.spans)

    def forget(self, *, everything: bool = False) -> None:
        """Drop the keys and values of all lists, but those that are to be kept unless ``everything`` goes."""
        with self.lm.lock:
            _trim(self._prefixes, 0 if everything else self.kept)

    def _prefix(self, key: bytes, shared: SharedPart, work: Work) -> Prefix | None:
        found = self._prefixes.get(key)
        if found is None:
            _trim(self._prefixes, max(self.kept - 1, 0))  # before the new one takes its memory
            rows = shared.rows if self.rows == "tail" else 0
            found = self.attention.read_prefix(shared.ids, shared.columns, rows=rows, work=work)
        if found is not None:
            _put(self._prefixes, key, found)
        return found

    def _calibrated(
        self, key: bytes, prefix: Prefix, shared: SharedPart, question: Question, work: Work
    ) -> Floats | None:
        null = self._nulls.get(key) if self.calibrate == "na" else np.zeros(())
        wanted = [question] if null is not None else [question, self.null]
        sums = self.attention.read_tails(prefix, [self._tail(one) for one in wanted], work=work)
        if sums is None:
            return None
        means = [self._mean(prefix, own[0], shared, one) for own, one in zip(sums, wanted, strict=True)]
        if null is None:
            null = means[1]
        if self.calibrate == "na":
            _put(self._nulls, key, null)
            _trim(self._nulls, NULLS)
        calibrated: Floats = means[0] - null
        return calibrated

    def _tail(self, question: Question) -> Tail:
        return Tail(question.ids, 0, question.query_tokens if self.rows == "query" else None)

    def _mean(self, prefix: Prefix, own: NDArray[np.float32], shared: SharedPart, question: Question) -> Floats:
        """Mean over all rows. The instruction's are common to query and "N/A", but not their number of rows."""
        count = question.query_tokens if self.rows == "query" else shared.rows + len(question.ids)
        mean: Floats = (prefix.sums[0].astype(np.float64) + own) / count
        return mean


def _put(known: OrderedDict[bytes, T], key: bytes, value: T) -> None:
    known[key] = value
    known.move_to_end(key)


def _trim(known: OrderedDict[bytes, T], size: int) -> None:
    while len(known) > size:
        known.popitem(last=False)
