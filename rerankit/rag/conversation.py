"""Follow-ups made standalone by rules and the embedded model: what a language model does better, and this does free.

Three kinds are told apart. "What about barley?" puts barley in the place of the nearest word of the last question.
A question that begins with "and", is "how often?" or the like, has no content words, or a pronoun without anything to
refer to, gets the topic of the last answer and the last question's words behind it; so does one of one or two content
words, or with any pronoun, if the embedded model finds it to be about the same. Everything else stays as it is. The
words known are English.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rerankit.models.protocols import Embedder
from rerankit.rag.memory import Remembered
from rerankit.rag.terms import is_function_word, terms

__all__ = ["PRONOUN", "condense", "content_words", "dangling"]

_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_SWAP = re.compile(r"(?:and|but|or)?\s*(?:what|how)\s+about\s+(.+)|(?:and|but|or)\s+(.+)", re.IGNORECASE | re.DOTALL)
_ASKS = re.compile(
    r"(?:how|when|what|which|where|why|who|whose|does|do|did|is|are|was|were|can|could|should|shall|will|would|may|if)\b",
    re.IGNORECASE,
)
_LEADING = re.compile(r"(?:(?:what|how)\s+about|on|in|for|with|at|by|of|the|a|an|my|our|to)\s+", re.IGNORECASE)
PRONOUN = re.compile(r"\b(?:its?|they|them|their|these|those|this|that|s?he|her|him|his|ones?)\b", re.IGNORECASE)
_CONJUNCTION = re.compile(r"\s*(?:and|but|or|then|so)\b", re.IGNORECASE)
_HOW = re.compile(r"\s*(?:(?:and|but|or|then|so|for)\s+)?how\s+[^\W_]+\W*", re.IGNORECASE)
_DANGLING = re.compile(
    _ASKS.pattern + r"(?:(?!\b(?:and|or|but|so|if|when|while|that|what|which|who|than|as)\b)[^.,;:?!])*?"
    r"\b(it\b(?!.*\bto\b)|they\b|them\b|s?he\b|him\b|(?:this|that|these|those)(?=\W*\Z))",
    re.IGNORECASE,
)
"""A question whose first clause has a pronoun. Not "is it best to ...", nor "this wheat", which refer to nothing."""
_ADDED = re.compile(r" \([^()]*\)$")
_PLACE = re.compile(r"\b(?:on|in|for|with|at|by|into|under|after|before)\s+(?:(?:the|a|an|my|our)\s+)?", re.IGNORECASE)
_AFTER_PLACE = re.compile(_PLACE.pattern + r"\Z", re.IGNORECASE)
_VAGUE = frozenset({"one", "ones", "thing", "things", "please", "ok", "okay", "then", "again"})

_NEAR_SLOT = 0.25  # cosine below which no word of the last question is what the new word replaces
_SAME_TOPIC = 0.35  # cosine with the last exchange above which a short question continues it
_SHORT = 2  # content words that do not make a question of its own
_REPLY = 5  # content words of a reply to a question back


def condense(question: str, history: Sequence[Remembered], embedder: Embedder) -> str:
    """``question`` as it can be understood without the conversation; as it is if there is none or it needs none."""
    if not history:
        return question
    last = history[-1]
    before = _ADDED.sub("", last.standalone)
    if last.kind == "question" and len(content_words(question)) <= _REPLY:
        return f"{before} ({_bare(question)})"
    swap = _SWAP.fullmatch(question.strip())
    if swap and not _ASKS.match(_stripped(found := swap[1] or swap[2])):
        return _swapped(before, found, embedder)
    if _is_bare(question):
        named = (turn for turn in reversed(history) if turn.kind == "answer" and not _is_bare(turn.question))
        return f"{question} ({_topic(question, next(named, last))})"
    if _continues(question, last, before, embedder):
        return f"{question} ({_topic(question, last)})"
    return question


def dangling(question: str) -> str:
    """The pronoun of a short question in which nothing is named that it could refer to; empty if there is none."""
    found = _DANGLING.match(question)
    return found[1] if found and len(content_words(question)) <= _SHORT else ""


def content_words(text: str) -> list[str]:
    """The words of ``text`` that an answer could turn on."""
    words = _WORD.findall(text)
    return [word for word in words if not is_function_word(word) and word.casefold() not in _VAGUE]


def _is_bare(question: str) -> bool:
    """Whether a question is about nothing by itself: "Why?", "How often?"."""
    return not content_words(question) or bool(_HOW.fullmatch(question))


def _continues(question: str, last: Remembered, before: str, embedder: Embedder) -> bool:
    words, pronoun = content_words(question), PRONOUN.search(question)
    if _CONJUNCTION.match(question):
        return True
    if pronoun and len(content_words(question[: pronoun.start()])) <= _SHORT:
        return True
    if len(words) > _SHORT and not pronoun:
        return False
    asked, earlier = embedder.encode([question, f"{before} {last.topic}"], kind="query")
    return float(asked @ earlier) >= _SAME_TOPIC


def _topic(question: str, last: Remembered) -> str:
    """The title of what the last answer rests on, and the content words of the last question, none twice."""
    before = _ADDED.sub("", last.standalone)
    known, kept = set(terms(question)), []
    for word in [*_WORD.findall(last.topic), *content_words(before)]:
        if not known.issuperset(found := terms(word)):
            known.update(found)
            kept.append(word)
    return " ".join(kept) or before


def _swapped(before: str, said: str, embedder: Embedder) -> str:
    """The last question with what is ``said`` in place of the word nearest to it, or behind it if none is near.

    "On the road" can only replace what stands behind a preposition, as in "in the field".
    """
    new = _bare(said)
    slots = [match for match in _WORD.finditer(before) if not is_function_word(match[0])]
    if _PLACE.match(said.strip()):
        slots = [slot for slot in slots if _AFTER_PLACE.search(before[: slot.start()])] or slots
    if not slots:
        return f"{before} ({new})"
    wanted, *found = embedder.encode([new, *(slot[0] for slot in slots)], kind="passage")
    cosines = [float(vector @ wanted) for vector in found]
    best = max(range(len(slots)), key=cosines.__getitem__)
    if cosines[best] < _NEAR_SLOT:
        return f"{before} ({new})"
    return _joined(before[: slots[best].start()], new, before[slots[best].end() :])


def _joined(left: str, new: str, right: str) -> str:
    """``new`` in its place, without what it would say twice: "into [dry soil] soil" is "into dry soil"."""
    before, words, after = ([*_WORD.finditer(part)] for part in (left, new, right))
    if left.endswith(" ") and (count := _overlap(before, words)):
        left = left[: before[-count].start()]
    if right.startswith(" ") and (count := _overlap(words, after)):
        right = right[after[count - 1].end() :]
    return f"{left}{new}{right}"


def _overlap(first: Sequence[re.Match[str]], second: Sequence[re.Match[str]]) -> int:
    """How many words end the first and begin the second."""
    ending, beginning = ([match[0].casefold() for match in words] for words in (first, second))
    longest = min(len(ending), len(beginning))
    return next((count for count in range(longest, 0, -1) if ending[-count:] == beginning[:count]), 0)


def _bare(text: str) -> str:
    """A noun phrase without the small words around it."""
    words = _stripped(text).split()
    kept = [word for word in words if word.casefold() not in _VAGUE]
    return " ".join(kept or words)


def _stripped(text: str) -> str:
    text = text.strip(" \t\n?!.,")
    while match := _LEADING.match(text):
        text = text[match.end() :]
    return text
