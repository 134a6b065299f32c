"""Checks of options, the same for all families: a message names the option, what it takes and what was given."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from numbers import Real
from typing import TypeGuard

from rerankit.errors import InputError, RerankitError

__all__ = ["check_bool", "check_choice", "check_whole", "is_number", "is_whole", "nearest"]


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known one it is most like, if any is."""
    names = list(known)
    for written in (word.replace("_", "-"), word):
        if near := difflib.get_close_matches(written, names, 1, 0.5):
            return f"; did you mean {near[0]!r}?"
    return "."


def check_choice(name: str, value: object, known: Iterable[str], error: type[RerankitError] = InputError) -> None:
    """Refuse a word that is not among the known ones.

    Raises:
        InputError: or ``error``; the message names the nearest.
    """
    words = list(known)
    if not isinstance(value, str):
        raise error(f"{name} is one of {', '.join(words)}; got {value!r:.80}")
    if value not in words:
        raise error(f"{name} is one of {', '.join(words)}; got {value!r:.80}{nearest(value, words)}")


def check_whole(least: int, /, *, or_none: bool = False, **options: object) -> None:
    """Refuse options that are no whole numbers of at least ``least``.

    Args:
        least: the smallest that will do.
        or_none: None will do too.
        options: by name.

    Raises:
        InputError: one is another number or no whole number; True and False are none.
    """
    for name, value in options.items():
        if value is None and or_none:
            continue
        if not is_whole(value) or operator.index(value) < least:  # type: ignore[arg-type]
            none = " or None" if or_none else ""
            raise InputError(f"{name} must be a whole number of at least {least}{none}, got {value!r:.80}")


def check_bool(**options: object) -> None:
    """Refuse options that are neither True nor False.

    Raises:
        InputError: one is something else.
    """
    for name, value in options.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} must be True or False, got {value!r:.80}")


def is_whole(value: object) -> bool:
    """Whether it is an integer, Python's or numpy's."""
    return hasattr(value, "__index__") and getattr(value, "ndim", 0) == 0 and not _is_truth(value)


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, Python's or numpy's."""
    return isinstance(value, Real) and not _is_truth(value)


def _is_truth(value: object) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool", "bool_")
