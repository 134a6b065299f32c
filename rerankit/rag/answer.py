"""What a generator gives back, and the contract of generators."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rerankit.rag.context import Context
from rerankit.types import Usage

__all__ = ["Answer", "Citation", "Generator"]


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a statement comes from.

    Attributes:
        passage_id: the cited passage.
        start: first character of the supporting sentence in the passage's text.
        end: one past its last character; ``start < end``.
        number: the ``[number]`` in the answer's text, which is the block's number in the context.
        quote: the supporting sentence itself.
        span: characters in the passage's text of the words that answer, where a reader found any.
    """

    passage_id: str
    start: int
    end: int
    number: int
    quote: str
    span: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its sources, or the admission that there is none.

    Attributes:
        text: for the reader, with ``[number]`` marks.
        citations: in the order of the marks.
        abstained: the documents do not hold the answer, as far as the generator can tell.
        reason: why it abstained, or what is doubtful about the answer; empty if nothing is.
        confidence: probability that the answer is supported by the context, or None where the generator has none.
        model: which generator wrote it.
        usage: what it cost.
    """

    text: str
    citations: tuple[Citation, ...] = ()
    abstained: bool = False
    reason: str = ""
    confidence: float | None = None
    model: str = ""
    usage: Usage = field(default_factory=Usage)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["citations"] = [citation.to_dict() for citation in self.citations]
        data["usage"] = self.usage.to_dict()
        return data


@runtime_checkable
class Generator(Protocol):
    """Writes an answer from a context."""

    @property
    def model(self) -> str:
        """What ``Answer.model`` says."""

    def generate(self, query: str, context: Context, *, deadline_s: float | None = None) -> Answer:
        """The whole answer, within ``deadline_s`` seconds from now where the generator can tell.

        Raises:
            RerankitError: the model failed.
        """

    async def agenerate(self, query: str, context: Context, *, deadline_s: float | None = None) -> Answer:
        """:meth:`generate` without blocking the event loop."""

    def stream(self, query: str, context: Context, *, deadline_s: float | None = None) -> Iterator[str | Answer]:
        """Pieces of the text as they are written, and the final :class:`Answer` as the last item.

        The final text may differ from the pieces: citations that point nowhere are taken out of it.
        """

    def astream(self, query: str, context: Context, *, deadline_s: float | None = None) -> AsyncIterator[str | Answer]:
        """:meth:`stream` without blocking the event loop."""
