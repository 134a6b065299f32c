"""How an extractive reader sees a passage: ``[CLS] question [SEP] title: window [SEP]``, in windows that overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.models import spans
from rerankit.models.layout import Entry, Layout, Piece
from rerankit.models.tokens import TokenCache

__all__ = ["SpanFrame", "Window"]

QUESTION_TOKENS, TITLE_TOKENS = 64, 24
"""Longest question and title that are read; the rest of either is left out."""

FEWEST = 16
"""Tokens of the passage that a window must have room for."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One model input.

    Attributes:
        entry: the tokens.
        first: position of the first token of the passage in it.
        offsets: int32 ``[t, 2]``, characters of the passage that each of its tokens stands for.
    """

    entry: Entry
    first: int
    offsets: NDArray[np.int32]

    def positions(self, start: int, end: int) -> NDArray[np.int64]:
        """Positions in the input of the tokens that overlap the characters ``[start, end)``."""
        inside = (self.offsets[:, 1] > start) & (self.offsets[:, 0] < end)
        return np.flatnonzero(inside) + self.first


@dataclass(frozen=True, slots=True, eq=False)
class SpanFrame:
    """Makes windows of a question and a passage.

    Attributes:
        tokens: the tokenizer.
        layout: the frame of a pair.
        max_tokens: length limit of a window, all of it included.

    Raises:
        InputError: ``max_tokens`` leaves no room for a passage beside the longest question and title.
    """

    tokens: TokenCache
    layout: Layout
    max_tokens: int

    def __post_init__(self) -> None:
        fewest = self.layout.fixed_tokens + QUESTION_TOKENS + TITLE_TOKENS + FEWEST
        if self.max_tokens < fewest:
            raise InputError(f"A reader needs max_tokens of at least {fewest}, got {self.max_tokens}")

    def windows(self, question: str, text: str, title: str = "", *, limit: int | None = None) -> list[Window]:
        """At most ``limit`` windows from the beginning of ``text``; none for a text without tokens."""
        head = self._head(question, title)
        room = self.max_tokens - len(head.ids) - len(self.layout.suffix.ids)
        if not text.strip():
            return []
        cuts = spans.first_windows(text, self.tokens, room, limit)
        found = []
        for (start, _), part in zip(cuts, self.tokens.encode([text[a:b] for a, b in cuts]), strict=True):
            if len(part):
                entry = Entry(head, part.ids[:room], self.layout.second_type, self.layout.suffix)
                found.append(Window(entry, len(head.ids), part.offsets[:room] + start))
        return found

    def _head(self, question: str, title: str) -> Piece:
        asked, named = self.tokens.encode([question, f"{title}:"])
        head = self.layout.head(asked.ids[:QUESTION_TOKENS])
        if not title.strip():
            return head
        ids = named.ids if len(named) <= TITLE_TOKENS else np.append(named.ids[: TITLE_TOKENS - 1], named.ids[-1])
        types = np.full(len(ids), self.layout.second_type, np.int32)
        return Piece(np.concatenate([head.ids, ids]), np.concatenate([head.types, types]))
