"""Which label a reply begins with: from the log-probabilities of its tokens, or else from its words.

Only the reply is read, never an echo of the prompt, whose log-probabilities several servers get wrong or leave out.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from rerankit.models.chat_messages import Position, Reply
from rerankit.models.language import UNSAID, LabelScores
from rerankit.models.written_answer import refuses, undressed, without_reasoning, written_answer

__all__ = ["label_position", "named_label", "read_labels"]

_MARKUP = "\u0120\u2581*_`\"'()[]{}<>.,:;!#-\u2018\u2019\u201c\u201d\u00ab\u00bb"
"""What may surround a label: the space marks of tokenizers that leak, markdown, quotes, brackets, punctuation."""

_LEAST_REST = 1e-6
"""Servers round: what is left of the probability mass is not known more finely than this."""


def read_labels(reply: Reply, labels: Sequence[str]) -> LabelScores:
    """The labels' shares of the first position that names one; what the text says where there are no such shares."""
    found = label_position(reply.positions, labels)
    if found is not None and not refuses(_text_before(reply.positions, found)):
        return LabelScores(_logprobs(reply.positions[found].top, labels))
    return LabelScores.from_reply(named_label(reply.text, labels), len(labels), reply.text)


def label_position(positions: Sequence[Position], labels: Sequence[str]) -> int | None:
    """The first position whose token is a label; else the first with words in it, if a label is among its likeliest.

    Reasoning between ``<think>`` and ``</think>`` is passed over.
    """
    tail, thinking, opening = "", False, None
    for index, position in enumerate(positions):
        tail += position.token
        mark = max(tail.rfind("<think>"), tail.rfind("</think>"))
        if mark >= 0:
            thinking, tail = tail.startswith("<think>", mark), ""
        tail = tail[-len("</think>") :]
        if thinking or mark >= 0:
            continue
        bare = _bare(position.token)
        is_word = opening is not None and len(bare) == 1 and bare not in labels  # "a" amid a sentence is an article
        if not is_word and _label_of(bare, labels) is not None:
            return index
        if opening is None and bare:
            opening = index
    if opening is not None and any(_label_of(token, labels) is not None for token, _ in positions[opening].top):
        return opening
    return None


def named_label(reply: str, labels: Sequence[str]) -> int | None:
    """The position of the label that a written reply is, in whatever dress; None if it is something else.

    See :mod:`rerankit.models.written_answer`. A refusal names none, and neither does reasoning.
    """
    exact = _match(_bare(without_reasoning(reply)), labels)
    if exact is None:
        exact = _match(_bare(undressed(reply)), labels)
    if exact is not None:
        return exact
    said = written_answer(reply, _pattern(labels))
    return None if said is None else _match(said, labels)


_AFTER_A = "is|was|has|does|because|since|as|and|or|nor|over|than|more|seems|contains|provides|answers|would"
"""What follows "A" where it is a label."""


def _logprobs(top: Sequence[tuple[str, float]], labels: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Each label's mass over its spellings, float64 ``[labels]``.

    A label that is not listed gets the highest value it can have: it is no likelier than the least likely token listed,
    nor than all that the listed ones leave over.
    """
    rest = 1.0 - sum(math.exp(value) for _, value in top)
    floor = max(UNSAID, min(min(value for _, value in top), math.log(max(rest, _LEAST_REST))))
    mass = np.full(len(labels), -np.inf)
    for token, value in top:
        if (index := _label_of(token, labels)) is not None:
            mass[index] = np.logaddexp(mass[index], value)
    return np.where(np.isneginf(mass), floor, np.maximum(mass, UNSAID))


def _label_of(token: str, labels: Sequence[str]) -> int | None:
    """The label that a token spells, or of which alone it is the beginning ("rel" of "relevant")."""
    bare = _bare(token)
    if not bare:
        return None
    exact = _match(bare, labels)
    if exact is not None:
        return exact
    begun = [index for index, label in enumerate(labels) if label.startswith(bare)]
    return begun[0] if len(begun) == 1 else None


def _match(text: str, labels: Sequence[str]) -> int | None:
    """The label of this spelling; upper and lower case are one where that leaves the labels apart."""
    if not text:
        return None
    if text in labels:
        return labels.index(text)
    folded = [_bare(label).casefold() for label in labels]
    return folded.index(text.casefold()) if folded.count(text.casefold()) == 1 else None


def _bare(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip(_MARKUP + " \t\r\n")


def _text_before(positions: Sequence[Position], end: int) -> str:
    return without_reasoning(re.sub("[\u0120\u2581]", " ", "".join(token for token, _ in positions[:end])))


def _pattern(labels: Sequence[str]) -> str:
    """A pattern that matches any label as a word of its own, longer ones first.

    Single letters keep their case, and "A" before an ordinary word is an article.
    """
    ordered = sorted({_bare(label) or label for label in labels}, key=len, reverse=True)
    spelt = [re.escape(label) if len(label) == 1 else f"(?i:{re.escape(label)})" for label in ordered]
    article = rf"(?!(?<=\bA) (?!(?:{_AFTER_A})\b)[a-z])"
    return rf"(?<![\w/])(?<!\d\.)(?:{'|'.join(spelt)})(?!\w|\.\d){article}"
