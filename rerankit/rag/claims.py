"""Does the cited passage say what the generated sentence says? A check by the embedded model, without a language model.

A sentence is supported if its content words are matched by the tokens of the passages that it cites (mean of the best
cosines, as in ColBERT's MaxSim), and if each of its numbers stands in one of them. That finds sentences about something
else, and wrong figures. It does not find a lost "not": contradiction in the same words passes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rerankit.rag.citations import MARK, PLAIN_MARK, marks_inside
from rerankit.rag.context import Block, Context
from rerankit.rag.sentences import sentences
from rerankit.rag.support import Embedder, statements
from rerankit.rag.terms import terms

__all__ = ["FLOOR", "UNSUPPORTED", "Claim", "check_claims", "doubts", "marked"]

FLOOR = 0.55
"""Lowest match of a supported sentence; ``benchmarks/assistant.py`` prints what each floor does."""

UNSUPPORTED = "[unsupported]"

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_ITEM = re.compile(r"\A\s*\(?\d{1,3}[.)]\s")
"""The number of a list item, which no source needs to hold."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence of an answer.

    Attributes:
        text: the sentence with its marks.
        start, end: its characters in the text that was checked.
        cited: the numbers of the blocks that it cites.
        match: how well these match its words, about 0 to 1; None if it cites none.
        reason: why it counts as unsupported; empty if it is supported.
    """

    text: str
    start: int
    end: int
    cited: tuple[int, ...]
    match: float | None
    reason: str = ""

    @property
    def supported(self) -> bool:
        """Whether its citations bear it out, as far as the check can tell."""
        return not self.reason

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        values = {name: getattr(self, name) for name in ("text", "start", "end", "match", "supported", "reason")}
        return {**values, "cited": list(self.cited)}


def check_claims(text: str, context: Context, embedder: Embedder, *, floor: float = FLOOR) -> tuple[Claim, ...]:
    """The sentences of ``text``, each checked against the blocks that it cites.

    Sentences without words, such as a lone mark, are left out. Offsets count in ``marks_inside(text)``, where marks
    stand before the full stop.
    """
    settled = marks_inside(text)
    blocks = {block.number: block for block in context.blocks}
    found = []
    for start, end in sentences(settled):
        said = settled[start:end]
        if not terms(words := _ITEM.sub("", MARK.sub("", said))):
            continue
        cited = tuple(dict.fromkeys(int(n) for n in PLAIN_MARK.findall(said) if int(n) in blocks))
        match, reason = _judged(words, [blocks[number] for number in cited], embedder, floor)
        found.append(Claim(said, start, end, cited, match, reason))
    return tuple(found)


def marked(text: str, claims: Sequence[Claim]) -> str:
    """``text`` with :data:`UNSUPPORTED` behind each sentence that its citations do not bear out."""
    settled = marks_inside(text)
    for claim in reversed(claims):
        if not claim.supported:
            settled = f"{settled[: claim.end]} {UNSUPPORTED}{settled[claim.end :]}"
    return settled


def doubts(claims: Sequence[Claim]) -> str:
    """One sentence on what is not supported; empty if everything is."""
    lost = sum(not claim.supported for claim in claims)
    return f"{lost} of {len(claims)} sentences are not supported by what they cite" if lost else ""


def support(words: str, blocks: Sequence[Block], embedder: Embedder) -> float:
    """How well the tokens of ``blocks`` match the content words of a sentence; the best block counts."""
    found = statements(words, Context(tuple(blocks)), embedder, weigh=False)
    return max((statement.match for statement in found), default=0.0)


def _judged(words: str, blocks: Sequence[Block], embedder: Embedder, floor: float) -> tuple[float | None, str]:
    if not blocks:
        return None, "cites no passage"
    source = " ".join(f"{block.passage.title} {block.text}" for block in blocks)
    match = support(words, blocks, embedder)
    if missing := sorted(_numbers(words) - _numbers(source)):
        return match, f"its source does not hold the number {', '.join(missing)}"
    return match, "" if match >= floor else f"its source matches it by {match:.2f} only"


def _numbers(text: str) -> set[str]:
    return {re.sub(r",(?=\d{3})", "", number) for number in _NUMBER.findall(text)}
