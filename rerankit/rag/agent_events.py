"""What the assistant tells while it works, and all that one turn led to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rerankit.rag.answer import Answer
from rerankit.rag.claims import Claim
from rerankit.rag.context import Context
from rerankit.rag.events import Delta, Packed, Reranked
from rerankit.rag.memory import Kind
from rerankit.types import Ranking, Usage

__all__ = ["AgentEvent", "Finished", "Judged", "Searched", "Turn", "Understood"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message and what came of it.

    Attributes:
        id: for feedback; the memory's number of this turn.
        question: as asked.
        standalone: as it was understood.
        aspects: the separate questions in it; one if it is not many-sided.
        kind: ``answer``, ``abstention``, or ``question`` if the assistant asks back.
        answer: the words, with citations; ``answer.confidence`` is the probability that the passages answer.
        missing: content words of the question that no passage of the context holds; filled when abstaining.
        claims: the sentences of a generated answer, checked. A quoting generator makes none.
        ranking: the candidates in their final order.
        context: what the answer was written from.
        queries: everything that was searched for, in order.
        notes: what did not go as planned, such as a language model that failed.
        timings: seconds of ``understand``, ``search``, ``answer``.
        usage: what all of it cost.
    """

    id: int
    question: str
    standalone: str
    aspects: tuple[str, ...]
    kind: Kind
    answer: Answer
    missing: tuple[str, ...]
    claims: tuple[Claim, ...]
    ranking: Ranking
    context: Context
    queries: tuple[str, ...]
    notes: tuple[str, ...]
    timings: Mapping[str, float]
    usage: Usage

    @property
    def text(self) -> str:
        """What to show."""
        return self.answer.text

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        plain = ("id", "question", "standalone", "kind")
        lists = ("aspects", "missing", "queries", "notes")
        return {
            **{name: getattr(self, name) for name in plain},
            **{name: list(getattr(self, name)) for name in lists},
            "answer": self.answer.to_dict(),
            "claims": [claim.to_dict() for claim in self.claims],
            "ranking": self.ranking.to_dict(),
            "context": self.context.to_dict(),
            "timings": dict(self.timings),
            "usage": self.usage.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Understood:
    """The message as one question that stands alone, and its aspects."""

    question: str
    standalone: str
    aspects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Searched:
    """A search found ``found`` candidates that were not there before."""

    query: str
    attempt: int
    found: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The probability that the best passages answer an aspect, and whether that is enough."""

    aspect: str
    probability: float
    sufficient: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    turn: Turn


AgentEvent: TypeAlias = Understood | Searched | Reranked | Judged | Packed | Delta | Finished
"""One step of :meth:`~rerankit.rag.agent.Assistant.stream`."""
