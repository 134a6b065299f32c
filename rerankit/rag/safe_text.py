"""Answers as plain text: nothing that a page, a terminal or a chat client would run or fetch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rerankit.rerankers.prepare import clean

__all__ = ["DIRECTION", "defused", "defused_stream"]

_ACTIVE = re.compile(r"!(?=\[)|\](?=[(:])|<(?=[A-Za-z/!?])")
"""The beginnings of a Markdown image, the target of a Markdown link, and an HTML tag.

A target stands behind the words, ``[a](http://b)``, or on a line of its own that also makes a link of every other
``[a]`` in the text, ``[a]: http://b``. Such a line may be part of a quote or a list, and its label may go over several
lines, so wherever ``]:`` stands it is taken for one.
"""

DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Characters that turn the direction of writing."""


def defused(text: str) -> str:
    """``text`` with a space inside everything that Markdown or HTML would act on, and without control characters.

    ``![a](http://b)`` becomes ``! [a] (http://b)``: readable, but no image that is fetched. ``[1]: http://b``
    becomes ``[1] : http://b``, so that citations lead nowhere. ``< 5 cm`` stays.
    """
    return _ACTIVE.sub(lambda match: match[0] + " ", DIRECTION.sub("", clean(text)))


def defused_stream(pieces: Iterable[str]) -> Iterator[str]:
    """:func:`defused` for a text that comes in pieces: a last character that may begin a mark waits for the next."""
    held = ""
    for piece in pieces:
        text = held + DIRECTION.sub("", piece)
        held = text[-1] if text[-1:] in ("!", "]", "<") else ""
        if shown := defused(text).removesuffix(held):
            yield shown
    if held:
        yield held
