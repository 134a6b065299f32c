"""One message on its way through the assistant."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rerankit.errors import RerankitError
from rerankit.models.meter import Meter
from rerankit.models.work import Work, deadline_after
from rerankit.rag.agent_events import Turn
from rerankit.rag.answer import Answer
from rerankit.rag.claims import Claim
from rerankit.rag.context import Context
from rerankit.rag.memory import Kind, Remembered
from rerankit.rag.planner import Decision
from rerankit.types import Passage, Ranking, Usage

__all__ = ["Aspect", "Run"]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Aspect:
    """One question and what was found for it.

    Attributes:
        text: the question, which candidates are ranked and judged by.
        queries: what was searched for.
        candidates: of all searches, each id once.
        decision: what to do next if that is not enough.
        judged: the quoted answer, with its confidence; None before the first search.
    """

    text: str
    queries: list[str] = field(default_factory=list)
    candidates: list[Passage] = field(default_factory=list)
    ranking: Ranking = field(default_factory=lambda: Ranking("", (), "", ""))
    context: Context = field(default_factory=Context)
    judged: Answer | None = None
    decision: Decision = field(default_factory=lambda: Decision("search", ""))

    @property
    def probability(self) -> float:
        """That the best passages answer."""
        return 0.0 if self.judged is None or self.judged.confidence is None else self.judged.confidence

    @property
    def sufficient(self) -> bool:
        """Whether that is enough, in the eyes of the judge or, where it overrules it, of the language model."""
        return self.decision.tool == "answer" or (self.judged is not None and not self.judged.abstained)

    @property
    def asked_already(self) -> bool:
        """Whether the next query was searched for before."""
        return self.decision.text in self.queries

    def next_query(self) -> str:
        """The query of the next search, noted."""
        self.queries.append(self.decision.text or self.text)
        return self.queries[-1]

    def add(self, found: Sequence[Passage]) -> int:
        """Take in what is new; returns how much that is."""
        known = {passage.id for passage in self.candidates}
        new = [passage for passage in found if passage.id not in known]
        self.candidates.extend(new)
        return len(new)


@dataclass(slots=True)
class Run:
    """Everything about one message, filled in step by step; see :class:`~rerankit.rag.agent_events.Turn`."""

    question: str
    user: str
    conversation: str
    where: Mapping[str, Any] | None
    deadline: float | None
    history: list[Remembered] = field(default_factory=list)
    standalone: str = ""
    aspects: list[Aspect] = field(default_factory=list)
    ranking: Ranking = field(default_factory=lambda: Ranking("", (), "", ""))
    context: Context = field(default_factory=Context)
    kind: Kind = "answer"
    answer: Answer = field(default_factory=lambda: Answer(""))
    missing: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    notes: list[str] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    meter: Meter = field(default_factory=Meter)
    timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(
        cls, question: str, user: str, conversation: str, where: Mapping[str, Any] | None, deadline_s: float | None
    ) -> Run:
        """A run that ends in ``deadline_s`` seconds.

        Raises:
            InputError: that is not a positive number.
        """
        return cls(question, user, conversation, where, deadline_after(deadline_s))

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def remaining(self) -> float | None:
        """Seconds left, never quite none, so that each stage itself says what it does without time."""
        return None if self.deadline is None else max(1e-3, self.deadline - time.monotonic())

    def work(self) -> Work:
        """The circumstances for a language model."""
        return Work(meter=self.meter, deadline=self.deadline)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds inside to ``timings[name]``."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.monotonic() - started

    @contextlib.contextmanager
    def tolerating(self, instead: str) -> Iterator[None]:
        """Note an error of the language model and go on, doing something else instead."""
        try:
            yield
        except RerankitError as error:
            self.note(instead, error)

    def note(self, instead: str, error: Exception) -> None:
        """Say what failed and what is done instead."""
        said = f"{type(error).__name__}: {error}"
        logger.warning("The language model failed, %s: %s", instead, said)
        self.notes.append(f"The language model failed ({said}); {instead}")

    def turn(self, number: int) -> Turn:
        """The finished turn."""
        return Turn(
            id=number,
            question=self.question,
            standalone=self.standalone,
            aspects=tuple(aspect.text for aspect in self.aspects),
            kind=self.kind,
            answer=self.answer,
            missing=self.missing,
            claims=self.claims,
            ranking=self.ranking,
            context=self.context,
            queries=tuple(query for aspect in self.aspects for query in aspect.queries),
            notes=tuple(self.notes),
            timings=dict(self.timings),
            usage=dataclasses.replace(self._spent(), seconds=sum(self.timings.values())),
        )

    def _spent(self) -> Usage:
        """Everything but the time: of the stages, and of the language model that understands and decides."""
        said = self.meter
        tokens = {"input_tokens": said.input_tokens, "output_tokens": said.output_tokens}
        return self.usage + Usage(llm_calls=said.llm_calls, cost=said.cost, **tokens)
