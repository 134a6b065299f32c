"""From a written reply to identifiers or ratings: one reader for all listwise formats, which never invents an order.

A reply may hold reasoning, be cut off, repeat itself, name passages that were not shown, or refuse. What can be read is
read, what cannot is counted, and :func:`completed` makes a permutation of it, whatever the reply.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rerankit.models.written_answer import refuses

__all__ = ["Ratings", "Reading", "completed", "read_identifiers", "read_ratings", "split_reasoning"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The passages that a reply names.

    Attributes:
        named: their places in the prompt, from 0, as the reply lists them, each once.
        dropped: identifiers that were out of range or repeated.
    """

    named: tuple[int, ...]
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings by place in the prompt, from 0; ``dropped`` ones were out of range or of passages not shown."""

    by_place: dict[int, float]
    dropped: int = 0


def completed(first: Sequence[int], items: Iterable[int]) -> tuple[int, ...]:
    """A permutation of the items: ``first``, which are some of them, then the others in their order."""
    chosen = set(first)
    return (*first, *(item for item in items if item not in chosen))


_TAG = re.compile(r"(</?(?:think|thinking|reason|reasoning)>)", re.IGNORECASE)


def split_reasoning(reply: str) -> tuple[str, str]:
    """What was thought, and what was said.

    A block without its end was cut off, so nothing was said after it; an end without its beginning closes reasoning
    that the prompt had opened.
    """
    thought: list[str] = []
    said: list[str] = []
    thinking = False
    for i, piece in enumerate(_TAG.split(reply)):
        if i % 2 == 0:
            (thought if thinking else said).append(piece.strip())
            continue
        if piece.startswith("</") and not thinking:
            thought, said = thought + said, []
        thinking = not piece.startswith("</")
    return "\n".join(filter(None, thought)), "\n".join(filter(None, said))


_ANSWER = r"<answer>(.*?)(?:</answer>|\Z)"


def _answer(said: str, pattern: str) -> str:
    """The last answer group that holds anything; the whole text where there is none."""
    for regex in (pattern, _ANSWER):
        groups = [found[1] for found in re.finditer(regex, said, re.DOTALL | re.IGNORECASE)] if regex else []
        if filled := [group for group in groups if group.strip()]:
            return filled[-1]
    return said


def _plain(text: str) -> str:
    """In the usual characters, with single spaces: no pattern here takes long on what is left, whatever it is."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


_WORD = r"(?:(?:passage|document|doc|candidate|option)s?\s*)?"
_LIST_MARK = re.compile(r"(?m)^[ \t]*[0-9]{1,4}[.)][ \t]+(?=\S)")


def read_identifiers(said: str, identifiers: Sequence[str], answer: str = "") -> Reading:
    """The identifiers that a reply lists.

    In this order of trust: ``[3] > [1]`` (the longest such chain, the last of them where several are as long), a JSON
    list, identifiers in brackets, "Document 3, Document 1", and identifiers alone if the text is nothing else.
    A number in running prose is no answer, unless one passage alone is named as such ("Passage 3 is ...").
    What a refusal or a negation mentions is no answer either.

    Args:
        said: the reply without its reasoning, see :func:`split_reasoning`.
        identifiers: what the passages were called, in the order they were shown: numbers or single letters.
        answer: regular expression whose first group is the answer; ``<answer>`` tags are known without.
    """
    answered = _answer(said, answer)
    text = _plain(_LIST_MARK.sub("", answered))
    affirmed = text if _LIST_MARK.search(answered) else _plain(_affirmed(answered))  # numbered lines say their order
    one = r"[0-9]{1,9}" if identifiers and identifiers[0].isdecimal() else r"[A-Za-z]"
    places = {name: place for place, name in enumerate(identifiers)}
    named: list[int] = []
    dropped = 0
    for token in _listed(text, affirmed, one):
        place = places.get(token.upper() if token.isalpha() else str(int(token)))
        if place is None or place in named:
            dropped += 1
        else:
            named.append(place)
    return Reading(tuple(named), dropped)


_NEGATION = re.compile(r"\b(?:not|neither|none|no)\b|n['\u2019]t\b", re.IGNORECASE)
_CLAUSE_END = re.compile(
    r"[.;!?](?=\s)|\n|,\s(?=not\b)|\s(?:but|while|whereas|because|since|although|though|however|except)\s",
    re.IGNORECASE,
)


def _affirmed(text: str) -> str:
    """A text without the clauses that negate something: what they name is not the answer."""
    return " ".join(clause for clause in _CLAUSE_END.split(text) if not _NEGATION.search(clause))


def _listed(text: str, affirmed: str, one: str) -> list[str]:
    """Identifiers as they are written, by the most telling form that occurs."""
    bare = rf"(?<![\w.]){one}(?![\w.]\w|\w)"
    item = rf"{_WORD}(?:\[\s*{one}\s*\]|{bare})"
    chains = re.findall(rf"(?i:{item}(?:\s*(?:>|≻|=)+\s*{item})+)", text)
    if chains:
        return _tokens(_longest(chains, one), one)
    lists = re.findall(rf"\[\s*[\"']?{one}[\"']?(?:\s*,\s*[\"']?{one}[\"']?)+\s*\]", text)
    if lists:
        return _tokens(_longest(lists, one), one)
    if refuses(text):
        return []
    if bracketed := re.findall(rf"\[\s*({one})\s*\]", affirmed):
        return bracketed
    noun = rf"(?:passage|document|doc)\s+{one}(?!\w)"
    nouns = rf"(?i:{noun}(?:(?:\s*[,;]|\s*\.\.\.)+\s*{noun})+)"
    if lists := re.findall(nouns, text):
        return _tokens(_longest(lists, one), one)
    alone = rf"(?i:\W*(?:(?:ranking|answer|order)\s*:\s*)?{item}(?:[\s,;.]+{item})*\W*)"
    if re.fullmatch(alone, text):
        return _tokens(text, one)
    if _NEGATION.search(text):
        return []
    mentioned = set(re.findall(rf"(?i:\b(?:passage|document|doc)\s+)({one})(?!\w)", text))
    return list(mentioned) if len(mentioned) == 1 else []


def _longest(pieces: Sequence[str], one: str) -> str:
    """The piece with most identifiers, the last of equals."""
    return max(reversed(pieces), key=lambda piece: len(_tokens(piece, one)))


def _tokens(text: str, one: str) -> list[str]:
    return re.findall(rf"(?<!\w){one}(?!\w)", text)


_RATING = re.compile(r"[\"']?\[?\s*([0-9]{1,9})\s*\]?[\"']?\s*:\s*[\"']?(-?[0-9]{1,9}(?:\.[0-9]+)?)")


def read_ratings(said: str, identifiers: Sequence[str], highest: float, answer: str = "") -> Ratings:
    """The ratings in a JSON object, whole or cut off; what is missing stays missing, the last of several counts.

    Args:
        said: the reply without its reasoning.
        identifiers: the passages' numbers, in the order they were shown.
        highest: ratings outside 0 to ``highest`` are dropped.
        answer: as in :func:`read_identifiers`.
    """
    text = _plain(_answer(said, answer))
    places = {name: place for place, name in enumerate(identifiers)}
    found: dict[int, float] = {}
    dropped = 0
    for number, value in _RATING.findall(text[max(text.find("{"), 0) :]):
        place = places.get(str(int(number)))
        if place is None or not 0.0 <= float(value) <= highest:
            dropped += 1
        else:
            found[place] = float(value)
    return Ratings(found, dropped)
