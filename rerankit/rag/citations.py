"""The ``[n]`` marks in a generated answer: read them, check them against the context, find what they rest on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rerankit.rag.answer import Citation
from rerankit.rag.context import Block, Context
from rerankit.rag.sentences import sentences
from rerankit.rag.terms import terms

__all__ = ["MARK", "PLAIN_MARK", "Checked", "check", "marks_inside", "without_marks"]

MARK = re.compile(r"[\[\u3010]\s*\^?(\d{1,9}(?:\s*[,;\u2013-]\s*\^?\d{1,9})*)\s*[\]\u3011]")
"""``[1]``, ``[1, 2]``, ``[1-3]``, ``[^1]`` and the same in lenticular brackets."""

PLAIN_MARK = re.compile(r"[ \t]{0,4}\[(\d{1,9})\]", re.ASCII)
"""``[1]``, as it stands in a checked answer, with the blanks before it."""

_END_THEN_MARKS = re.compile(r"([.!?]{1,5})(\s{0,4}(?:\[\d{1,9}\]\s{0,4})*\[\d{1,9}\])(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Checked:
    """A generated text after the check.

    Attributes:
        text: the answer with every mark as ``[n]``, those that point nowhere taken out.
        citations: one per mark and supporting sentence, each once, in the order of the text.
        unknown: the numbers that are not in the context, as often as they came.
        uncited: the sentences without any valid mark.
    """

    text: str
    citations: tuple[Citation, ...]
    unknown: tuple[int, ...]
    uncited: tuple[str, ...]


def check(text: str, context: Context) -> Checked:
    """Check the marks of ``text`` against ``context``.

    The supporting sentence of a mark is the sentence of the cited block that shares most terms with the statement the
    mark stands in; if none shares any, the whole block is cited.
    """
    sources = {block.number: _Source(block) for block in context.blocks}
    cleaned, unknown = _canonical(text, set(sources))
    citations: dict[tuple[int, int, int], Citation] = {}
    uncited = []
    for statement in _statements(cleaned):
        numbers = dict.fromkeys(map(int, PLAIN_MARK.findall(statement)))
        words = PLAIN_MARK.sub("", statement)
        if not numbers and terms(words):
            uncited.append(words)
        for number in numbers:
            citation = sources[number].support(words)
            citations.setdefault((number, citation.start, citation.end), citation)
    return Checked(cleaned, tuple(citations.values()), tuple(unknown), tuple(uncited))


def without_marks(text: str) -> str:
    """``text`` with nothing in it that a reader takes for a citation: ``[3]`` becomes ``(3)``."""
    return MARK.sub(r"(\1)", text)


def marks_inside(text: str) -> str:
    """``text`` with marks that stand behind a full stop moved before it, into the sentence that they belong to."""
    return _END_THEN_MARKS.sub(r"\2\1", text)


def _canonical(text: str, known: set[int]) -> tuple[str, list[int]]:
    """Every mark as ``[n]``, one number each; marks of unknown numbers removed and reported."""
    unknown: list[int] = []

    def rewrite(match: re.Match[str]) -> str:
        numbers = _numbers(match[2])
        unknown.extend(number for number in numbers if number not in known)
        kept = "".join(f"[{number}]" for number in numbers if number in known)
        return match[1] + kept if kept else ""

    def defuse(match: re.Match[str]) -> str:
        return match[0] if int(match[1]) in known else match[0].replace("[", "(").replace("]", ")")

    once = re.sub(r"([ \t]{0,4})" + MARK.pattern, rewrite, text)
    plain = MARK.sub(lambda match: "".join(f"[{number}]" for number in _numbers(match[1])), once)
    return PLAIN_MARK.sub(defuse, plain).strip(), unknown  # a removed mark may have joined others: "[[9]8]"


def _numbers(inside: str) -> list[int]:
    """``1, 3-5`` as 1, 3, 4, 5; a range that is no list of passages stays its two ends."""
    found: list[int] = []
    for part in re.split(r"[,;]", inside.replace("^", "")):
        ends = [int(end) for end in re.split(r"[\u2013-]", part)]
        is_range = len(ends) == 2 and 0 <= ends[1] - ends[0] <= 50
        found.extend(range(ends[0], ends[1] + 1) if is_range else ends)
    return list(dict.fromkeys(found))


def _statements(text: str) -> list[str]:
    """The sentences of ``text``, marks behind a full stop counted to the sentence before it."""
    moved = marks_inside(text)
    return [moved[start:end] for start, end in sentences(moved)]


class _Source:
    """A block as something to cite."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._sentences = [(start, end, set(terms(block.text[start:end]))) for start, end in sentences(block.text)]

    def support(self, statement: str) -> Citation:
        """The sentence that shares most terms (Dice coefficient) with ``statement``, or else the whole block."""
        wanted = set(terms(statement))
        best, most = (0, len(self._block.text)), 0.0
        for start, end, found in self._sentences:
            overlap = 2 * len(wanted & found) / max(1, len(wanted) + len(found))
            if overlap > most:
                best, most = (start, end), overlap
        block, (start, end) = self._block, best
        quote = block.text[start:end]
        return Citation(block.passage.id, block.start + start, block.start + end, block.number, quote)
