"""Cutting a text into passages: whole sentences, about equal sizes, a little overlap, offsets kept."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rerankit.errors import InputError
from rerankit.rag.sentences import sentences

__all__ = ["Chunking", "chunks", "count_words"]

# A very long run of letters counts once per 16 characters, and an ideograph, a kana or a hangul syllable counts as one
# word, so that text without spaces is cut as well.
_NO_SPACES = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]{{1,16}}")


@dataclass(frozen=True, slots=True)
class Chunking:
    """How long texts are cut.

    Attributes:
        words: most words of one chunk; the default leaves room in encoders of 256 tokens for technical text too.
        overlap: sentences that a chunk repeats from the one before, if they take at most a quarter of it.

    Raises:
        InputError: a size makes no sense.
    """

    words: int = 120
    overlap: int = 1

    def __post_init__(self) -> None:
        whole = isinstance(self.words, int) and isinstance(self.overlap, int)
        if not whole or self.words < 1 or self.overlap < 0:
            raise InputError(
                f"Chunking needs whole numbers, words >= 1 and overlap >= 0, got {self.words!r} and {self.overlap!r}"
            )


def count_words(text: str) -> int:
    """Words of ``text`` as :class:`Chunking` counts them."""
    return sum(1 for _ in _WORD.finditer(text))


def chunks(text: str, chunking: Chunking) -> list[tuple[int, int]]:
    """Character spans ``[start, end)`` of the chunks of ``text``, in order, covering every sentence.

    Chunks are balanced: 140 words at 120 become two of about 70, not 120 and a rest of 20. Only a sentence that is
    longer than a chunk is cut inside, between words where it has any.
    """
    pieces = [piece for span in sentences(text) for piece in _pieces(text, span, chunking.words)]
    sizes = [count_words(text[start:end]) for start, end in pieces]
    total = sum(sizes)
    target = math.ceil(total / math.ceil(total / chunking.words)) if total else 0
    spans: list[tuple[int, int]] = []
    first = 0
    while first < len(pieces):
        begin = _with_overlap(sizes, first, chunking) if spans else first
        last = _fill(sizes, first, sum(sizes[begin:first]), target, chunking.words)
        spans.append((pieces[begin][0], pieces[last][1]))
        first = last + 1
    return spans


def _pieces(text: str, span: tuple[int, int], limit: int) -> list[tuple[int, int]]:
    """A sentence, or parts of it of ``limit`` words each."""
    words = [(match.start(), match.end()) for match in _WORD.finditer(text, *span)]
    if len(words) <= limit:
        return [span]
    groups = [words[at : at + limit] for at in range(0, len(words), limit)]
    return [(group[0][0], group[-1][1]) for group in groups]


def _with_overlap(sizes: Sequence[int], first: int, chunking: Chunking) -> int:
    """Where a chunk begins that repeats the sentences before ``first``."""
    begin, room = first, min(chunking.words // 4, chunking.words - sizes[first])
    while begin > 0 and first - begin < chunking.overlap and sizes[begin - 1] <= room:
        begin -= 1
        room -= sizes[begin]
    return begin


def _fill(sizes: Sequence[int], first: int, used: int, target: int, limit: int) -> int:
    """The last piece of a chunk whose first new piece is ``first``."""
    last, new = first, sizes[first]
    while last + 1 < len(sizes) and new < target and used + new + sizes[last + 1] <= limit:
        last += 1
        new += sizes[last]
    return last
