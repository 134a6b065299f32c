"""Filters of several conditions, and their bounds: Chroma's query compiler recurses over one, and can crash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rerankit.errors import InputError

__all__ = ["all_of", "check_filter"]

_CONDITIONS = 400
"""Chroma fails at 1,000; the filters of a retriever and of a call are joined."""
_VALUES = 10_000
"""SQLite takes 32,766 variables, of which a condition has several."""
_LEVELS = 16


def all_of(conditions: Iterable[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """One filter that asks for all ``conditions``; empty ones are left out, since Chroma takes them for errors."""
    given = [condition for condition in conditions if condition]
    return {"$and": given} if len(given) > 1 else given[0] if given else None


def check_filter(name: str, given: Mapping[str, Any]) -> None:
    """Refuse what Chroma could choke on: a filter may come from anybody.

    Raises:
        InputError: the filter ``name`` holds too many conditions or values, or is nested too deeply.
    """
    level: list[Any] = [given]
    conditions = values = depth = 0
    while level:
        conditions += sum(len(part) for part in level if isinstance(part, Mapping))
        values += sum(len(part) for part in level if isinstance(part, (list, tuple)))
        depth += 1
        _at_most(name, conditions, _CONDITIONS, "conditions")
        _at_most(name, values, _VALUES, "values")
        _at_most(name, depth, _LEVELS, "levels")
        level = [
            child
            for part in level
            for child in (part.values() if isinstance(part, Mapping) else part)
            if isinstance(child, (Mapping, list, tuple))
        ]


def _at_most(name: str, count: int, most: int, what: str) -> None:
    if count > most:
        raise InputError(f"The filter {name} is too large: it has more than {most} {what}")
