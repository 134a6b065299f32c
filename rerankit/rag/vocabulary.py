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

import itertools
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.rag.terms import is_function_word

__all__ = ["Conflict", "Name", "Vocabulary"]

_WORD = re.compile(r"[^\W_]+")
_WITHIN = re.compile(r"[^\w.,;:!?\u2026\u3002\uff0c\u3001\"\u201c\u201d()\[\]{}<>/|]{1,2}|_")
"""What may stand between the words of one name: a blank, a hyphen, an apostrophe, a vowel sign; no punctuation."""
_SIBILANT = ("s", "x", "z", "ch", "sh", "o")
_MOST_WORDS = 10
_LARGEST_FILE = 8_000_000
_KEYS = ("kinds", "general", "exclusive")

_Words = tuple[str, ...]
_Meanings = dict[tuple[str, bool], set[str]]
"""Kinds, by their group and whether the name is a general one."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name in a text.

    Attributes:
        words: it, in lower case.
        group: of its kinds.
        kinds: what it can mean.
        general: whether it is a word for several kinds at once, as "poultry" is.
    """

    words: tuple[str, ...]
    group: str
    kinds: frozenset[str]
    general: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """A question and a passage about different kinds of one group, named as they are there, in lower case."""

    asked: tuple[str, ...]
    found: tuple[str, ...]

    def __str__(self) -> str:
        """One clause: what the passage is about, and what not."""
        return f"about {_listed(self.found)}, not about {_listed(self.asked)}"


class Vocabulary:
    """The kinds of things that a domain's questions are about, by all their names.

    Names are letters and figures, compared as whole words without case; a hyphen is a space, and punctuation ends a
    name. Of singular names the English plurals in -s, -es and -ies are understood. Where several begin, the longest
    counts, so that "corn salad" is no corn. In a question the last words of a longer name may mean it: "armyworm" is no
    other thing than the fall armyworm.

    Args:
        groups: ``{group: {"kinds": {kind: [other name, ...]}, "general": {name: [kind, ...]}, "exclusive": true}}``.
            ``general`` holds the words for several kinds, which count only where none is named; it and ``exclusive``
            may be left out. A name may stand for several kinds, and then means each of them.

    Raises:
        InputError: the groups have another form, a general name is for a kind that is not there, two kinds of a group
            have the same first name, or a name has no letter or over ten words.
    """

    def __init__(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        self._names: dict[_Words, _Meanings] = {}
        self._exclusive: set[str] = set()
        for group, content in _object(groups, "'groups'").items():
            self._add_group(group, _object(content, f"The group {group!r:.80}"))
        self._longest = max(map(len, self._names), default=0)
        self._longer = _compounds(self._names)

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """From a JSON file that holds ``{"groups": ...}``.

        Raises:
            InputError: the file is not there, over 8 MB, no such JSON, or wrong inside.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(_LARGEST_FILE + 1)
            if len(content) > _LARGEST_FILE:
                raise InputError(f"it has over {_LARGEST_FILE:,} bytes")
            return cls.from_dict(json.loads(content.decode("utf-8-sig"), object_pairs_hook=_once))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"The vocabulary {str(path)!r} cannot be read: {error}") from error

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Vocabulary:
        """From ``{"groups": ...}``.

        Raises:
            InputError: it has another form.
        """
        return cls(_object(_object(data, "A vocabulary").get("groups"), "'groups'"))

    def names(self, text: str) -> list[Name]:
        """The names in ``text``, in order; one that means things of several groups is there once for each."""
        text = unicodedata.normalize("NFKC", text)
        words = list(_WORD.finditer(text))
        folded = [word[0].casefold() for word in words]
        joined = [bool(_WITHIN.fullmatch(text, a.end(), b.start())) for a, b in itertools.pairwise(words)]
        found: list[Name] = []
        at = 0
        while at < len(words):
            run = next((n for n in range(1, self._longest) if not all(joined[at + n - 1 : at + n])), self._longest)
            key, meanings = self._longest_name(folded[at : at + run])
            found.extend(Name(key, group, frozenset(kinds), wide) for (group, wide), kinds in meanings.items())
            at += max(1, len(key))
        return found

    def kinds(self, text: str) -> list[str]:
        """What ``text`` names, each thing by its first name and once; general names are left out."""
        names = (name for name in self.names(text) if not name.general)
        return list(dict.fromkeys(kind for name in names for kind in sorted(name.kinds)))

    def conflict(self, question: str, passage: str) -> Conflict | None:
        """Why ``passage`` is about something else than ``question``; None if the names do not say so."""
        for asked, found in self._compared(question, passage):
            if not self._meant(asked) & _kinds(found):
                return Conflict(_written(asked), _written(found))
        return None

    def agree(self, question: str, passage: str) -> bool:
        """Whether the names say that ``passage`` is about the same as ``question``."""
        common = [bool(self._meant(asked) & _kinds(found)) for asked, found in self._compared(question, passage)]
        return bool(common) and all(common)

    def _compared(self, question: str, passage: str) -> Iterator[tuple[list[Name], list[Name]]]:
        """The names of both, for each exclusive group that both name something of."""
        held = dict(_by_group(self.names(passage)))
        for group, asked in _by_group(self.names(question)):
            if group in self._exclusive and group in held:
                yield asked, held[group]

    def _meant(self, names: list[Name]) -> frozenset[str]:
        """The kinds of ``names``, and those that they can be short for."""
        return _kinds(names).union(*(self._longer.get((name.words, name.group), set()) for name in names))

    def _add_group(self, group: str, content: Mapping[str, Any]) -> None:
        if unknown := [key for key in content if key not in _KEYS]:
            raise InputError(f"The group {group!r:.80} has {unknown[0]!r:.80}; it may have {', '.join(_KEYS)}")
        exclusive = content.get("exclusive", True)
        if not isinstance(exclusive, bool):
            raise InputError(f"'exclusive' of the group {group!r:.80} must be true or false")
        if exclusive:
            self._exclusive.add(group)
        kinds = _object(content.get("kinds"), f"'kinds' of the group {group!r:.80}")
        first: dict[_Words, str] = {}
        for kind, others in kinds.items():
            if (other := first.setdefault(_name(kind), kind)) != kind:
                raise InputError(f"{other!r:.80} and {kind!r:.80} are the same name; give one of them another")
            for name in (kind, *_strings(others, kind)):
                self._add(name, group, kind, general=False)
        for name, members in _object(content.get("general", {}), f"'general' of the group {group!r:.80}").items():
            for kind in _strings(members, name):
                if kind not in kinds:
                    raise InputError(f"{name!r:.80} is general for {kind!r:.80}, which is no kind of {group!r:.80}")
                self._add(name, group, kind, general=True)

    def _add(self, name: str, group: str, kind: str, *, general: bool) -> None:
        *before, last = _name(name)
        for form in _forms(last):
            meanings = self._names.setdefault((*before, form), {})
            meanings.setdefault((group, general), set()).add(kind)

    def _longest_name(self, words: list[str]) -> tuple[_Words, _Meanings]:
        """The longest name that ``words`` begin with, and what it means; nothing if there is none."""
        for length in range(len(words), 0, -1):
            if meanings := self._names.get(key := tuple(words[:length])):
                return key, meanings
        return (), {}


def _compounds(names: Mapping[_Words, _Meanings]) -> dict[tuple[_Words, str], set[str]]:
    """By the last words of longer names, and their group: the kinds that these name."""
    found: dict[tuple[_Words, str], set[str]] = defaultdict(set)
    for words, meanings in names.items():
        for (group, general), kinds in meanings.items():
            for start in range(1, 1 if general else len(words)):
                found[words[start:], group] |= kinds
    return dict(found)


def _forms(word: str) -> Iterator[str]:
    """A word and its regular English plurals, but for those that are other words: a doe is no does."""
    yield word
    plurals = [
        f"{word}s",
        f"{word}es" if word.endswith(_SIBILANT) else "",
        f"{word[:-1]}ies" if word[-1] == "y" else "",
    ]
    yield from (plural for plural in plurals if plural and not is_function_word(plural))


def _by_group(names: list[Name]) -> Iterator[tuple[str, list[Name]]]:
    """The names of each group: those of single kinds, or the general ones where there are no others."""
    groups = defaultdict(list)
    for name in names:
        groups[name.group].append(name)
    for group, members in groups.items():
        yield group, [name for name in members if not name.general] or members


def _kinds(names: list[Name]) -> frozenset[str]:
    return frozenset().union(*(name.kinds for name in names))


def _written(names: list[Name]) -> tuple[str, ...]:
    """Each thing as it is named first."""
    first: dict[frozenset[str], str] = {}
    for name in names:
        first.setdefault(name.kinds, " ".join(name.words))
    return tuple(first.values())


def _listed(names: tuple[str, ...], most: int = 3) -> str:
    return " and ".join(filter(None, [", ".join(names[:most][:-1]), names[:most][-1]]))


def _name(name: object) -> _Words:
    if not isinstance(name, str):
        raise InputError(f"A name in a vocabulary must be a string, got {type(name).__name__}")
    words = tuple(word.casefold() for word in _WORD.findall(unicodedata.normalize("NFKC", name)))
    if not 0 < len(words) <= _MOST_WORDS:
        raise InputError(f"A name must have one to {_MOST_WORDS} words of letters or figures, got {name!r:.80}")
    return words


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{what} must be an object, got {type(value).__name__}")
    return value


def _strings(value: object, what: object) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InputError(f"What stands under {what!r:.80} must be a list of names, got {type(value).__name__}")
    return list(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose keys may be there twice: the first would be lost without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise InputError(f"{next(key for key in keys if keys.count(key) > 1)!r:.80} stands there twice")
    return found
