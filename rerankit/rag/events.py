"""What a pipeline tells while it works, and its whole result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rerankit.rag.answer import Answer
from rerankit.rag.context import Context
from rerankit.types import Passage, Ranking

__all__ = ["Delta", "Done", "Event", "Packed", "RagResult", "Reranked", "Retrieved"]


@dataclass(frozen=True, slots=True)
class RagResult:
    """Everything that one question led to.

    Attributes:
        question: as asked.
        candidates: what retrieval found, best first.
        ranking: all of them in their new order.
        context: what the generator read.
        answer: what it wrote.
        timings: seconds of ``retrieve``, ``rerank``, ``pack`` and ``generate``.
    """

    question: str
    candidates: list[Passage]
    ranking: Ranking
    context: Context
    answer: Answer
    timings: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """One JSON-ready object; the candidates are the ranking's hits by ``prior_rank``."""
        return {
            "question": self.question,
            "answer": self.answer.to_dict(),
            "ranking": self.ranking.to_dict(),
            "context": self.context.to_dict(),
            "timings": dict(self.timings),
        }


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The candidates are there."""

    candidates: list[Passage]


@dataclass(frozen=True, slots=True)
class Reranked:
    """The candidates are in order."""

    ranking: Ranking


@dataclass(frozen=True, slots=True)
class Packed:
    """The context is chosen."""

    context: Context


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer's text; the checked text comes with :class:`Done` and replaces the pieces."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The last event: the whole result."""

    result: RagResult


Event: TypeAlias = Retrieved | Reranked | Packed | Delta | Done
"""One step of :meth:`~rerankit.rag.pipeline.RagPipeline.stream`."""
