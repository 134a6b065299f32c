"""What a value in a spec's brackets means, by the annotation of the option that it is written for."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ["as_annotated", "mismatch", "read_value"]


class _Written(str):
    """An option as it was written; what it means depends on what the option takes."""

    __slots__ = ()


def read_value(text: str) -> Any:
    """True, False, None, or what was written, until it is known what the option takes."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    return words.get(text.lower(), _Written(text))


def as_annotated(value: Any, annotation: str) -> Any:
    """A written value as the option takes it: text where it takes text, else a number or several."""
    if not isinstance(value, _Written):
        return value
    takes_text = re.search(r"\b(str|Path|Literal|Any)\b", annotation) is not None
    takes_numbers = re.search(r"\b(int|float|Sequence|tuple)\b", annotation) is not None
    parts = [_number(part) for part in value.split("/")]
    if (takes_text and not takes_numbers) or any(part is None for part in parts):
        return str(value)
    return tuple(parts) if len(parts) > 1 else parts[0]


def mismatch(value: Any, annotation: str) -> str:
    """What an option of numbers or truth values takes, if this is not it; of other options nothing is known here."""
    kinds = set(re.findall(r"\w+", annotation)) - {"class"}
    if not kinds or not kinds <= {"int", "float", "bool", "None"}:
        return ""
    fitting: dict[str, type | tuple[type, ...]] = {
        "int": int, "float": (int, float), "bool": bool, "None": type(None)
    }  # fmt: skip
    fits = "bool" in kinds if isinstance(value, bool) else any(isinstance(value, fitting[kind]) for kind in kinds)
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "None": "none"}
    return "" if fits else " or ".join(words for kind, words in names.items() if kind in kinds)


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else None
    return None
