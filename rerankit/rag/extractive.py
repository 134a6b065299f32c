"""Answers without a language model: the best sentences of the context, each cited, or an honest no."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING

from rerankit.errors import InputError
from rerankit.models.meter import Meter
from rerankit.rag.answer import Answer, Citation
from rerankit.rag.citations import without_marks
from rerankit.rag.context import Context
from rerankit.rag.support import Calibration, Embedder, Statement, statements
from rerankit.rag.terms import terms
from rerankit.rag.vocabulary import Conflict, Vocabulary
from rerankit.rerankers.prepare import clean
from rerankit.types import Usage

if TYPE_CHECKING:
    from rerankit.rag.reader_answer import Reader

__all__ = ["ABSTENTION", "ExtractiveGenerator"]

ABSTENTION = "I can't answer that from the documents."

_SAME_MEANING = 0.9
_SAME_WORDS = 0.7
_MUCH_WEAKER = 0.7
_SAME_PASSAGE = 0.2
_LONGEST_QUOTE = 500


class ExtractiveGenerator:
    """Quotes the sentences that answer best.

    A sentence is chosen by how well its tokens, and those of its passage, match the question's words, and by the cosine
    of its vector. ``Answer.confidence`` is the calibrated probability that the first one's passage answers. The text
    quotes word for word, but a ``[1]`` of a passage's own becomes ``(1)``; ``Citation.quote`` keeps it.

    Args:
        embedder: default the embedded all-MiniLM-L6-v2, loaded at the first question.
        max_sentences: most sentences of an answer.
        floor: abstain if the confidence is lower; default the calibrated one. 0 never abstains.
        calibration: for another embedder or reader, as fitted by ``benchmarks/abstention.py --fit``.
        reader: marks the words that answer, and helps to tell whether any do: True for the shipped one, or a
            :class:`~rerankit.models.span_reader.SpanReader`.
        vocabulary: the names of a domain's things. Passages about others than the question names are not quoted; where
            the best one is, only those are that name what the question names, from the calibrated floor on; if there
            are none, it abstains.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(
        self,
        embedder: Embedder | None = None,
        *,
        max_sentences: int = 2,
        floor: float | None = None,
        calibration: Calibration | None = None,
        reader: Reader | bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        if max_sentences < 1:
            raise InputError(f"max_sentences must be at least 1, got {max_sentences}")
        if floor is not None and not 0.0 <= floor <= 1.0:
            raise InputError(f"floor is a probability between 0 and 1, got {floor!r}")
        if calibration is not None and bool(calibration.reader) != (reader is not False):
            raise InputError(f"The calibration is for answers with{'' if calibration.reader else 'out'} a reader")
        self._embedder = embedder
        self._reader = None if reader is False else reader
        self.calibration = calibration or _bundled(read=self._reader is not None)
        self.max_sentences, self.vocabulary = max_sentences, vocabulary
        self.floor = self.calibration.floor if floor is None else floor

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded on first use.

        Raises:
            InputError: the calibration is for another one, so that no floor could be trusted.
        """
        if self._embedder is None:
            from rerankit.models.embedded import embedder

            self._embedder = embedder()
        if self.floor > 0 and self._embedder.model_id != self.calibration.embedder:
            raise InputError(
                f"The abstention floor is calibrated for {self.calibration.embedder!r}, not "
                f"{self._embedder.model_id!r}. Fit one with benchmarks/abstention.py --fit and pass calibration=, "
                "or pass floor=0 to answer always."
            )
        return self._embedder

    @property
    def reader(self) -> Reader | None:
        """The reader, loaded on first use; None if there is to be none.

        Raises:
            InputError: the calibration is for another one, so that no floor could be trusted.
            ModelError: the shipped one is missing or not the published one.
        """
        if self._reader is True:
            from rerankit.rag.reader_answer import shipped_reader

            self._reader = shipped_reader()
        if isinstance(self._reader, bool) or self._reader is None:
            return None
        if self.floor > 0 and self._reader.model_id != self.calibration.reader:
            raise InputError(
                f"The abstention floor is calibrated for the reader {self.calibration.reader!r}, not "
                f"{self._reader.model_id!r}. Fit one with benchmarks/abstention.py --fit --reader and pass "
                "calibration=, or pass floor=0 to answer always."
            )
        return self._reader

    @property
    def model(self) -> str:
        """``extractive:`` and the embedder's id."""
        return f"extractive:{self._embedder.model_id if self._embedder else self.calibration.embedder}"

    def generate(self, query: str, context: Context, *, deadline_s: float | None = None) -> Answer:
        """The best sentences. ``deadline_s`` is not needed: this is always quick."""
        started, meter = time.monotonic(), Meter()
        ranked = self._ranked(query, context, meter)
        usage = Usage(time.monotonic() - started, meter.forward_passes, meter.input_tokens)
        if not ranked:
            return Answer(ABSTENTION, (), True, "The context holds nothing to quote", 0.0, self.model, usage)
        floor = self.floor
        if self.vocabulary is not None:
            fitting, conflict = _fitting(query, ranked, self.vocabulary)
            if conflict and floor > 0:
                if not fitting:
                    return self._abstain(ranked[0], 0.0, usage, f"The best passage found is {conflict}")
                floor = max(floor, self.calibration.floor)  # a second choice has to be sure
            ranked = fitting or ranked
        confidence = self.calibration.probability(ranked[0].features)
        if confidence < floor:
            doubt = f"The best sentence answers with probability {confidence:.2f}, below the floor of {floor:.2f}"
            return self._abstain(ranked[0], confidence, usage, doubt)
        chosen = _chosen(ranked, self.max_sentences)
        citations = tuple(_citation(statement) for statement in chosen)
        text = " ".join(map(_cited, citations))
        return Answer(text, citations, False, "", confidence, self.model, usage)

    async def agenerate(self, query: str, context: Context, *, deadline_s: float | None = None) -> Answer:
        """:meth:`generate` in a thread."""
        return await asyncio.to_thread(self.generate, query, context)

    def stream(self, query: str, context: Context, *, deadline_s: float | None = None) -> Iterator[str | Answer]:
        """The text in one piece, then the :class:`Answer`."""
        answer = self.generate(query, context)
        yield answer.text
        yield answer

    async def astream(
        self, query: str, context: Context, *, deadline_s: float | None = None
    ) -> AsyncIterator[str | Answer]:
        """:meth:`stream` in a thread."""
        answer = await self.agenerate(query, context)
        yield answer.text
        yield answer

    def _ranked(self, query: str, context: Context, meter: Meter) -> list[Statement]:
        """The statements, read where there is a reader."""
        found = statements(query, context, self.embedder, meter)
        if not found or (reader := self.reader) is None:
            return found
        from rerankit.rag.reader_answer import with_spans

        return with_spans(query, found, reader, meter)

    def _abstain(self, nearest: Statement, confidence: float, usage: Usage, reason: str) -> Answer:
        citation = _citation(nearest)
        text = f"{ABSTENTION} The nearest that they say: {_cited(citation)}"
        return Answer(text, (citation,), True, reason, confidence, self.model, usage)


def _bundled(*, read: bool) -> Calibration:
    if not read:
        return Calibration.bundled()
    from rerankit.rag.reader_answer import read_calibration

    return read_calibration()


def _fitting(
    query: str, ranked: Sequence[Statement], vocabulary: Vocabulary
) -> tuple[list[Statement], Conflict | None]:
    """The statements of passages that are not about something else, and why the best one is, if it is.

    A passage that names nothing is no way out where the best one is about something else: it is only less like it.
    """
    blocks = {statement.block.number: statement.block for statement in ranked}
    texts = {number: f"{block.passage.title}.\n{block.text}" for number, block in blocks.items()}
    conflicts = {number: vocabulary.conflict(query, text) for number, text in texts.items()}
    conflict = conflicts[ranked[0].block.number]
    fit = {n for n, text in texts.items() if (vocabulary.agree(query, text) if conflict else conflicts[n] is None)}
    return [statement for statement in ranked if statement.block.number in fit], conflict


def _chosen(ranked: Sequence[Statement], most: int) -> list[Statement]:
    """The best statement and others not much weaker, those of its passage first, none that says the same twice."""
    best = ranked[0]
    strong = [other for other in ranked[1:] if other.score >= _MUCH_WEAKER * best.score]
    strong.sort(key=lambda other: -(other.score + _SAME_PASSAGE * (other.block.number == best.block.number)))
    chosen = [best]
    for other in strong:
        if len(chosen) < most and not any(_repeats(other, earlier) for earlier in chosen):
            chosen.append(other)
    return chosen


def _repeats(statement: Statement, earlier: Statement) -> bool:
    if float(statement.vector @ earlier.vector) > _SAME_MEANING:
        return True
    words, known = set(terms(statement.text)), set(terms(earlier.text))
    return len(words & known) > _SAME_WORDS * len(words)


def _cited(citation: Citation) -> str:
    """The quote with its mark, the only one in it, and fit to be printed."""
    return f"{without_marks(clean(citation.quote))} [{citation.number}]"


def _citation(statement: Statement) -> Citation:
    quote = statement.text
    if len(quote) > _LONGEST_QUOTE:
        quote = quote[:_LONGEST_QUOTE].rpartition(" ")[0] or quote[:_LONGEST_QUOTE]
    end = statement.start + len(quote)
    span = statement.span if statement.span and statement.span[1] <= end else None
    return Citation(statement.block.hit.id, statement.start, end, statement.block.number, quote, span)
