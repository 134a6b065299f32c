"""How an encoder reads a passage: the title first, then the text, in windows if it is long."""

from __future__ import annotations

from rerankit.models.encoder import TextEncoder
from rerankit.rerankers.windows import TITLE_SHARE, Windows
from rerankit.types import Passage


class Reader:
    """Cuts passages for an encoder. Short ones are shown as ``title, line break, text``, which is what stores embed.

    Args:
        encoder: the model.
        room: tokens of text that one window may have, the title's included; None for all that the model can take.
    """

    def __init__(self, encoder: TextEncoder, room: int | None = None) -> None:
        possible = encoder.max_tokens - encoder.layout.fixed_tokens
        self.encoder = encoder
        self.room = possible - self._count(encoder.prompts["passage"]) if room is None else room
        self._fixed = possible - self.room

    def head(self, passage: Passage) -> str:
        """The title as it is put before each window, line break included; empty if there is none."""
        return f"{passage.title[: self._title_end(passage.title)]}\n" if passage.title else ""

    def beginning(self, passage: Passage) -> str:
        """As much of a passage as one window holds: all of a short one."""
        ((start, end),) = self.windows(passage, 1).spans
        return self.head(passage) + passage.text[start:end]

    def windows(self, passage: Passage, max_windows: int) -> Windows:
        """Where to cut the text so that each piece fits beside the title; what is left out is counted or estimated."""
        head, text = self.head(passage), passage.text
        lost = self._count(passage.title[len(head) - 1 :]) if head else 0
        reserve = self._fixed + (self._count(head) + 1 if head else 0)
        spans = self.encoder.windows(text, reserve=reserve, limit=max_windows)
        return Windows(tuple(spans), lost + self.encoder.estimate_tokens(text[spans[-1][1] :]))

    def _title_end(self, title: str) -> int:
        limit = max(1, self.room // TITLE_SHARE)
        return self.encoder.windows(title, reserve=self._fixed + self.room - limit, limit=1)[0][1]

    def _count(self, text: str) -> int:
        return self.encoder.count_tokens([text])[0] if text else 0
