"""A domain's own words: which names mean the same thing, and which things are not each other.

A small encoder finds "quail" near "hens", and "chooks" far from them. Where that decides whether a passage answers, a
list of names helps, such as a thesaurus of the domain has:

    {"groups": {"animals": {
        "kinds": {"chicken": ["hen", "chook", "pullet"], "quail": [], "sheep": ["ewe", "lamb"]},
        "general": {"poultry": ["chicken", "quail"]}}}}

A passage that names kinds of a group, and none of those that the question names in it, is about something else; in a
group with ``"exclusive": false`` that tells nothing, as where kinds are mostly named in passing. What no list holds is
left to the encoder.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankit.errors import InputError

__all__ = ["Conflict", "Name", "Vocabulary"]

_WORD = re.compile(r"[^\W_]+")
_Words = tuple[str, ...]
_Meanings = dict[tuple[str, bool], set[str]]
"""Kinds, by their group and whether the name is a general one."""
_SIBILANT = ("s", "x", "z", "ch", "sh", "o")


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a text.

    Attributes:
        start, end: its characters.
        group: of its kinds.
        kinds: what it can mean.
        general: whether it is a word for several kinds at once, as "poultry" is.
    """

    start: int
    end: int
    group: str
    kinds: frozenset[str]
    general: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """A question and a passage about different kinds of one group, each as it is named there."""

    asked: tuple[str, ...]
    found: tuple[str, ...]

    def __str__(self) -> str:
        """One clause: what the passage is about, and what not."""
        return f"about {_listed(self.found)}, not about {_listed(self.asked)}"


class Vocabulary:
    """The kinds of things that a domain's questions are about, by all their names.

    Words are compared whole and without case; English plurals in -s, -es and -ies are understood, and a hyphen is a
    space. Where names overlap the longest counts, so that "corn salad" is no corn.

    Args:
        groups: ``{group: {"kinds": {kind: [other name, ...]}, "general": {name: [kind, ...]}, "exclusive": true}}``.
            ``general`` holds the words for several kinds, which count only where none is named; it and ``exclusive``
            may be left out.

    Raises:
        InputError: the groups have another form, or a general name is for a kind that is not there.
    """

    def __init__(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        self._names: dict[_Words, _Meanings] = {}
        self._exclusive: set[str] = set()
        for group, content in _mapping(groups, "groups").items():
            content = _mapping(content, f"group {group!r}")
            if content.get("exclusive", True):
                self._exclusive.add(group)
            kinds = _mapping(content.get("kinds"), f"kinds of group {group!r}")
            for kind, others in kinds.items():
                for name in (kind, *_strings(others, kind)):
                    self._add(name, group, kind, general=False)
            for name, members in _mapping(content.get("general", {}), f"general names of group {group!r}").items():
                for kind in _strings(members, name):
                    if kind not in kinds:
                        raise InputError(
                            f"The general name {name!r:.80} is for {kind!r:.80}, which {group!r:.80} lacks"
                        )
                    self._add(name, group, kind, general=True)
        self._longest = max(map(len, self._names), default=0)
        self._longer = _compounds(self._names)

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """From a JSON file that holds ``{"groups": ...}``.

        Raises:
            InputError: the file is not there, no such JSON, or wrong inside.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8-sig")))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"The vocabulary {str(path)!r} cannot be read: {error}") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """From ``{"groups": ...}``.

        Raises:
            InputError: it has another form.
        """
        return cls(_mapping(data, "vocabulary").get("groups"))  # type: ignore[arg-type]  # checked there

    def names(self, text: str) -> list[Name]:
        """The names in ``text``, in order; one that several groups have stands there once for each."""
        words = [(match[0].casefold(), *match.span()) for match in _WORD.finditer(text)]
        found, at = [], 0
        while at < len(words):
            length, meanings = self._longest_at(words, at)
            for (group, general), kinds in meanings.items():
                found.append(Name(words[at][1], words[at + length - 1][2], group, frozenset(kinds), general))
            at += length
        return found

    def kinds(self, text: str) -> list[str]:
        """What ``text`` names, each thing by its first name and once; general names are left out."""
        names = (name for name in self.names(text) if not name.general)
        return list(dict.fromkeys(kind for name in names for kind in sorted(name.kinds)))

    def conflict(self, question: str, passage: str) -> Conflict | None:
        """Why ``passage`` is about something else than ``question``; None if the names do not say so."""
        held = dict(_by_group(self.names(passage)))
        for group, asked in _by_group(self.names(question)):
            found = held.get(group)
            if group in self._exclusive and found and not self._meant(asked, question) & _kinds(found):
                return Conflict(_written(asked, question), _written(found, passage))
        return None

    def _meant(self, names: list[Name], text: str) -> frozenset[str]:
        """The kinds of ``names``, and those that they can be short for: "armyworm" for the fall armyworm."""
        words = (tuple(_words(text[name.start : name.end])) for name in names)
        longer = (self._longer.get((key, name.group), set()) for key, name in zip(words, names, strict=True))
        return _kinds(names).union(*longer)

    def _add(self, name: str, group: str, kind: str, *, general: bool) -> None:
        words = tuple(_words(name))
        if not words:
            raise InputError(f"A name must hold a letter or a figure, got {name!r:.80} in {group!r:.80}")
        for last in _forms(words[-1]):
            meanings = self._names.setdefault((*words[:-1], last), {})
            meanings.setdefault((group, general), set()).add(kind)

    def _longest_at(self, words: list[tuple[str, int, int]], at: int) -> tuple[int, _Meanings]:
        """How many words the longest name that begins there has, and what it means; one word if there is none."""
        for length in range(min(self._longest, len(words) - at), 0, -1):
            if meanings := self._names.get(tuple(word for word, _, _ in words[at : at + length])):
                return length, meanings
        return 1, {}


def _compounds(names: Mapping[_Words, _Meanings]) -> dict[tuple[_Words, str], set[str]]:
    """By the last words of longer names, and their group: the kinds that these name."""
    found: dict[tuple[_Words, str], set[str]] = defaultdict(set)
    for words, meanings in names.items():
        for (group, general), kinds in meanings.items():
            for start in range(1, 1 if general else len(words)):
                found[words[start:], group] |= kinds
    return found


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _forms(word: str) -> Iterator[str]:
    """A word and its regular English plurals."""
    yield word
    yield f"{word}s"
    if word.endswith(_SIBILANT):
        yield f"{word}es"
    if word.endswith("y"):
        yield f"{word[:-1]}ies"


def _by_group(names: list[Name]) -> Iterator[tuple[str, list[Name]]]:
    """The names of each group: those of single kinds, or the general ones where there are no others."""
    groups = defaultdict(list)
    for name in names:
        groups[name.group].append(name)
    for group, members in groups.items():
        yield group, [name for name in members if not name.general] or members


def _kinds(names: list[Name]) -> frozenset[str]:
    return frozenset().union(*(name.kinds for name in names))


def _written(names: list[Name], text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text[name.start : name.end].casefold() for name in names))


def _listed(names: tuple[str, ...], most: int = 3) -> str:
    return " and ".join(filter(None, [", ".join(names[:most][:-1]), names[:most][-1]]))


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"The {what} of a vocabulary must be an object, got {value!r:.80}")
    return value


def _strings(value: object, what: str) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise InputError(f"What stands under {what!r:.80} in a vocabulary must be a list of names, got {value!r:.80}")
    return list(value)
