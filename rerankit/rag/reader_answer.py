"""Extractive reading for the extractive answer: which words answer, and does anything answer at all?

The statements that :mod:`rerankit.rag.support` found by likeness are read by a span reader, such as
:class:`~rerankit.models.span_reader.SpanReader`: a sentence that holds a likely answer moves up, and one more feature
goes into the probability that decides about abstention.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Protocol

import numpy as np

from rerankit.models.meter import Meter
from rerankit.models.span_decode import AnswerSpan
from rerankit.models.span_reader import Reading, SpanReader
from rerankit.rag.support import FEATURES, Calibration, Statement
from rerankit.types import Passage

__all__ = ["READ_FEATURES", "Reader", "read_calibration", "shipped_reader", "with_spans"]

READ_FEATURES = (*FEATURES, "answer")
"""Beside the matches: the reader's log-odds that a passage of the context answers, the highest; tenths, -1 to 1."""

SPAN_WEIGHT = 0.5
"""How far the probability of a sentence's best span counts beside its matches, which are about 2 in all."""

KEEP = 8


class Reader(Protocol):
    """What of :class:`~rerankit.models.span_reader.SpanReader` is used here."""

    @property
    def model_id(self) -> str:
        """Names the weights."""

    def read(
        self, question: str, passages: Sequence[str | Passage], *, keep: int = 5, meter: Meter | None = None
    ) -> list[Reading]:
        """What each passage answers."""


@functools.cache
def shipped_reader() -> SpanReader:
    """The reader that comes with rerankit, loaded once per process.

    Raises:
        ModelError: its weights are missing or not the published ones.
        MissingExtraError: torch, transformers or the embedded encoder is not installed.
    """
    return SpanReader()


@functools.cache
def read_calibration() -> Calibration:
    """The calibration for the embedded embedder and the shipped reader."""
    file = resources.files(__package__).joinpath("abstention_reader.json")
    return Calibration.from_dict(json.loads(file.read_text("utf-8")), READ_FEATURES)


def with_spans(
    query: str, found: Sequence[Statement], reader: Reader, meter: Meter | None = None, *, weight: float = SPAN_WEIGHT
) -> list[Statement]:
    """The statements with their spans and by :data:`READ_FEATURES`, best first.

    Args:
        query: the question.
        found: from :func:`~rerankit.rag.support.statements`.
        reader: reads each block once.
        meter: counts the work.
        weight: of a span's probability in the order.
    """
    blocks = list({statement.block.number: statement.block for statement in found}.values())
    passages = [Passage(block.hit.id, block.text, block.passage.title) for block in blocks]
    readings = reader.read(query, passages, keep=KEEP, meter=meter) if query.strip() else []
    by_block = {block.number: reading for block, reading in zip(blocks, readings, strict=False)}
    best = max((reading.score for reading in readings), default=-np.inf)
    read = [_read(statement, by_block.get(statement.block.number), best, weight) for statement in found]
    return sorted(read, key=lambda statement: -statement.score)


def _read(statement: Statement, reading: Reading | None, best: float, weight: float) -> Statement:
    shift = statement.block.start
    span = _inside(reading.spans if reading else (), statement.start - shift, statement.end - shift)
    score = span.score if span else -np.inf
    return dataclasses.replace(
        statement,
        features=(*statement.features, _tenths(best)),
        score=statement.score + weight / (1.0 + float(np.exp(-_tenths(score) * 10))),
        span=(span.start + shift, span.end + shift) if span else None,
    )


def _inside(spans: Sequence[AnswerSpan], start: int, end: int) -> AnswerSpan | None:
    """The best of the spans that lie in ``[start, end)``."""
    return next((span for span in spans if start <= span.start and span.end <= end), None)


def _tenths(log_odds: float) -> float:
    return float(np.clip(log_odds / 10.0, -1.0, 1.0))
