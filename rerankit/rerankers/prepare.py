"""Before a family sees a list: check it, clean it, score duplicates once and empty passages never."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rerankit.errors import InputError
from rerankit.rerankers.call import Request
from rerankit.types import Passage, as_passages

EMPTY = -1
"""Marks a passage without any visible text."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean(text: str) -> str:
    """``text`` with lone surrogates and control characters replaced one for one, so that offsets keep their meaning."""
    return _CONTROL.sub(" ", _SURROGATE.sub("\ufffd", text))


def is_blank(text: str) -> bool:
    """Whether nothing in ``text`` would be seen: white space, control and zero-width characters at most."""
    return not any(character.isprintable() and not character.isspace() for character in text)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked request.

    Attributes:
        query: as the caller gave it.
        passages: the caller's candidates by position.
        request: what the family gets.
        source: per position, its index in ``request.passages``, or ``EMPTY``.
    """

    query: str
    passages: list[Passage]
    request: Request
    source: list[int]


def prepare(query: str, passages: Sequence[Passage | str], *, by_text: bool) -> Prepared:
    """Check one request and reduce it to what a family must look at.

    Args:
        query: must hold a visible character.
        passages: candidates in first-stage order.
        by_text: the family depends on title and text alone, so equal ones are merged. Empty ones are always left out.

    Raises:
        InputError: the query is not a non-empty string, or a candidate is not a passage.
    """
    if not isinstance(query, str):
        raise InputError(f"The query must be a string, got {type(query).__name__}")
    cleaned = clean(query).strip()
    if is_blank(cleaned):
        raise InputError("The query is empty: there is nothing to rank by")
    candidates = as_passages(passages)
    unique: dict[tuple[str, str], int] = {}
    kept: list[Passage] = []
    source = []
    for passage in candidates:
        key = clean(passage.title), clean(passage.text)
        if is_blank(key[1]):
            source.append(EMPTY)
            continue
        if key not in unique or not by_text:
            unique[key] = len(kept)
            kept.append(passage if key == (passage.title, passage.text) else passage.replace(title=key[0], text=key[1]))
        source.append(unique[key])
    return Prepared(query, candidates, Request(cleaned, tuple(kept)), source)
