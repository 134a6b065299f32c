"""Where sentences begin and end: shared by chunking and by the extractive answer.

A few rules instead of a model: fast, dependency-free, and linear in the length of the text whatever it holds.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

__all__ = ["sentences"]

# Typographic characters are written as escapes: \u2018 \u2019 \u201c \u201d quotes, \u2013 dash, \u3002 full stop ...
_CJK_MARKS = "\u3002\uff01\uff1f\uff61"
_END = re.compile(
    rf"(?P<mark>[.!?\u2026\u061f\u0964]+|[{_CJK_MARKS}]+)(?P<close>[\"'\u201d\u2019\xbb)\]}}*_\u300d\u300f\uff09]*)(?P<gap>\s*)"
)
_NEXT_WORD = re.compile(r"[\"'\u201c\u2018\xab(\[{*_\xbf\xa1]*(\w*)")
_LIST_ITEM = re.compile(r"(?:[-*+\u2022\u2023\u25e6\u2013]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|#{1,6}|\||>)\s")
_HEADING = re.compile(r"#{1,6}\s")
_LONGEST_ABBREVIATION = 16


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never the last word of a sentence.
_TITLES = _words("mr mrs ms dr prof st mt gen gov hon rev vs cf viz e.g i.e eg ie approx ca resp incl")
# An abbreviation only in front of a number: "Fig. 3" is one, the fruit in "Prune the fig. Then ..." is not.
_NUMBERED = _words("no nos fig figs eq eqs sec ch vol pp p art tab ref refs para est min max temp")
# May end a sentence; does so when a word follows that usually begins one.
_EITHER = _words(
    "inc ltd co corp al sp spp var subsp cv jr sr jan feb mar apr jun jul aug sep sept oct nov dec "
    "dept univ u.s u.k u.n a.m p.m ph.d d.c u.s.a"
)
_STARTERS = _words(
    "a after all although an and another are as at because before both but by can do does during each even every few "
    "finally first for from given he her here his how however i if in is it its just keep many more most my never no "
    "not now of on once one only other our over she should since so some such that the their then there therefore "
    "these they this those though through thus to two under unless until use we what when where whether which while "
    "who why with within without you your"
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Character spans ``[start, end)`` of the sentences of ``text``, in order.

    Only white space lies between spans, and no span begins or ends with it. Abbreviations, initials, decimals and
    numbered lists do not end a sentence; blank lines, headings and list items do; a wrapped line does not.

    Args:
        text: any text; running time is linear in its length.
    """
    return [
        trimmed
        for block_start, block_end in _blocks(text)
        for start, end in _split(text, block_start, block_end)
        if (trimmed := _trim(text, start, end))
    ]


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Runs of lines that may hold one sentence over a line break."""
    lines = list(_lines(text))
    start = 0
    for (begin, end), (next_begin, next_end) in itertools.pairwise(lines):
        if _breaks(text[begin:end], text[next_begin:next_end]):
            yield start, end
            start = next_begin
    yield start, len(text)


def _lines(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield start, end
        start = end + 1
    yield start, len(text)


def _breaks(line: str, following: str) -> bool:
    """Whether the line break between two lines ends a sentence."""
    line, following = line.strip(), following.strip()
    if not line or not following:
        return True
    if _HEADING.match(line + " ") or _LIST_ITEM.match(following + " "):
        return True
    # A title: a short line above a long one that starts anew.
    return len(line) * 2 <= len(following) and following[0].isupper() and line[-1] not in ",;-\u2013&/("


def _split(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut one block at sentence ends."""
    for match in _END.finditer(text, start, end):
        if match.end() < end and _ends_sentence(text, start, match):
            yield start, match.end("close")
            start = match.end("close")
    yield start, end


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    mark = match["mark"]
    if mark[0] in _CJK_MARKS:
        return True
    if not match["gap"]:
        return False
    following = _NEXT_WORD.match(text, match.end())
    word = following[1] if following else ""
    if word[:1].islower():
        return False
    return mark != "." or bool(match["close"]) or not _is_abbreviated(text, start, match.start(), word)


def _is_abbreviated(text: str, start: int, dot: int, following: str) -> bool:
    """Whether the dot at ``dot`` belongs to the word before it and ends no sentence."""
    before = text[max(start, dot - _LONGEST_ABBREVIATION) : dot].split()
    word = before[-1].lstrip("([\"'\u201c\u2018") if before else ""
    if word.isdigit():  # "1. Plant the seed"
        return not text[start : dot - len(word)].strip() if dot - start <= _LONGEST_ABBREVIATION else False
    key = word.lower()
    if key in _TITLES:
        return True
    if key in _NUMBERED:
        return following[:1].isdigit()
    is_initial = (len(word) == 1 and word.isupper()) or key in _EITHER
    return is_initial and following.lower() not in _STARTERS


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    piece = text[start:end]
    body = piece.strip()
    if not body:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(body)
