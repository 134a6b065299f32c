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

__all__ = ["label_position", "named_label", "read_labels"]

_MARKUP = "\u0120\u2581*_`\"'()[]{}<>.,:;!#-\u2018\u2019\u201c\u201d\u00ab\u00bb"
"""What may surround a label: the space marks of tokenizers that leak, markdown, quotes, brackets, punctuation."""

_LONG = 2000  # characters of a reply that are searched: choices stand at its beginning or its end

_LEAST_REST = 1e-6
"""Servers round: what is left of the probability mass is not known more finely than this."""


def read_labels(reply: Reply, labels: Sequence[str]) -> LabelScores:
    """The labels' shares of the first position that names one; what the text says where there are no such shares."""
    found = label_position(reply.positions, labels)
    if found is not None:
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
    """The position of the label that a written reply chooses; None if it names none, or several without choosing.

    A reply chooses by being a label, by opening with one as a sentence of its own ("B. The other ..."), by "the answer
    is ...", or by naming one label only. Reasoning is passed over, and so is a reply cut off inside it.
    """
    text = _without_reasoning(reply).strip()
    if len(text) > _LONG:
        text = f"{text[: _LONG // 2]}\n{text[-_LONG // 2 :]}"
    text = unicodedata.normalize("NFKC", text)
    exact = _match(_bare(text), labels)
    if exact is not None:
        return exact
    label = _pattern(labels)
    chosen = [
        *re.findall(rf"\A{_LEAD}{label}[*\"'\])]*(?:[.:;!)]|\s*\n|\s*\Z)", text),
        *re.findall(rf"(?i:answer|choice|verdict)(?i:\s+is)?\W*{_LEAD}{label}", text)[-1:],
    ]
    mentioned = list(dict.fromkeys(re.findall(label, text)))
    if not chosen and (len(mentioned) != 1 or re.search(rf"(?i:\bnot|n't|neither)\s+{_LEAD}{label}", text)):
        return None
    return _match((chosen or mentioned)[0], labels)


_LEAD = r"[*_`\"'(\[\s]*(?:(?i:the|passage|document|option|answer|is)[\s*:\"'(\[]+)*"
"""Words that may stand before a label without changing what it says."""


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


def _pattern(labels: Sequence[str]) -> str:
    """A group that matches any label as a word of its own, longer ones first.

    Single letters keep their case, and "A" before an ordinary word is an article.
    """
    ordered = sorted({_bare(label) or label for label in labels}, key=len, reverse=True)
    spelt = [re.escape(label) if len(label) == 1 else f"(?i:{re.escape(label)})" for label in ordered]
    article = rf"(?!(?<=\bA) (?!(?:{_AFTER_A})\b)[a-z])"
    return rf"(?<![\w/])(?<!\d\.)({'|'.join(spelt)})(?!\w|\.\d){article}"


def _without_reasoning(reply: str) -> str:
    after = reply.rpartition("</think>")[2]
    return after.partition("<think>")[0] if "<think>" in after else after
