"""An answer in words: what a short reply says, in whatever dress, and nothing where it says something else.

A reply that is the answer is read: bare, quoted, "Answer: B", "The answer is passage B.", "7 out of 10", followed
by its reasons, or alone on the last line. An answer somewhere in prose is not one: refusals name labels and numbers.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["refuses", "undressed", "without_reasoning", "written_answer"]

_LONG = 2000  # characters of a reply that are searched: answers stand at its beginning or its end

_REFUSAL = re.compile(
    r"\b(?:sorry|afraid|unable|apologi[sz]e|as an ai)\b"
    r"|\bI(?:'m|\s+am)\s+not\b"
    r"|\bI\s+(?:cannot|can\s?not|can't|will\s+not|won't|would\s+not|wouldn't|do\s+not\s+know|don't\s+know"
    r"|have\s+no|see\s+no|refuse|decline|must\s+(?:refuse|decline))\b",
    re.IGNORECASE,
)

_MARKS = r"[\s*_`\"'\u201c\u201d\u2018(\[{:=]"
_NAME = (
    r"(?:(?:the|my)\s+)?(?:(?:final|correct|best|better|more\s+relevant|most\s+relevant)\s+)?"
    r"(?:answer|choice|verdict|output|label|score|rating|relevance|judge?ment|passage|document|option)(?:\s+score)?"
    r"(?:\s+is|\s+would\s+be)?"
)
_SPEAKER = (
    r"I(?:'d|\s+would)?\s+(?:choose|pick|select|prefer|say|rate|give)"
    r"(?:\s+(?:it|this|(?:this|the)\s+(?:passage|document)))?(?:\s+(?:as|at|with))?(?:\s+an?)?"
)
_LEAD = rf"{_MARKS}*(?:(?i:{_NAME}|{_SPEAKER}){_MARKS}+){{0,4}}"
"""What may stand before an answer without changing what it says."""

_END = r"[*_`\"'\u201c\u201d\u2019)\]}]*"
_WEAK = r",|\s+(?i:because|since)\b|\s+[(\u2013\u2014-]|\s+(?i:is\s+(?:the\s+)?(?:more|most|better|best))\b"


def written_answer(reply: str, answer: str, unit: str = "") -> str | None:
    """The answer that a reply is, or None.

    Args:
        reply: as the model wrote it; reasoning is passed over.
        answer: regular expression of the possible answers, without groups.
        unit: what may follow one and belongs to it, such as "/10".
    """
    text = unicodedata.normalize("NFKC", without_reasoning(reply)).replace("\u2019", "'").strip()
    if len(text) > _LONG:
        text = f"{text[: _LONG // 2]}\n{text[-_LONG // 2 :]}"
    if refuses(text):
        return None
    spelt = rf"(?P<answer>{answer}){_END}(?:{unit}){_END}"
    opening = re.match(rf"{_LEAD}{spelt}(?:\s*\Z|[.!;:](?=\W|\Z)|\s*\n|(?P<weak>{_WEAK}))", text)
    if opening is not None and opening["weak"] and _names_another(text[opening.end() :], answer, opening["answer"]):
        opening = None
    closing = re.search(rf"(?:\n|\b(?i:answer|choice|verdict|score|rating)(?:\s+is\b|\s*:)){_LEAD}{spelt}\W*\Z", text)
    found = {match["answer"] for match in (opening, closing) if match is not None}
    return found.pop() if len(found) == 1 else None


def undressed(reply: str) -> str:
    """A reply without its reasoning and the words that lead to an answer."""
    text = unicodedata.normalize("NFKC", without_reasoning(reply)).strip()
    return re.sub(rf"\A{_LEAD}", "", text[:_LONG]) + text[_LONG:]


def refuses(text: str) -> bool:
    """Whether the writer declines to answer, or says what it would not choose."""
    return _REFUSAL.search(text.replace("\u2019", "'")) is not None


def without_reasoning(reply: str) -> str:
    """What follows ``</think>``; nothing of reasoning that was cut off."""
    after = reply.rpartition("</think>")[2]
    return after.partition("<think>")[0] if "<think>" in after else after


def _names_another(text: str, answer: str, own: str) -> bool:
    return any(other.casefold() != own.casefold() for other in re.findall(answer, text))
