"""What adapters to other frameworks share: what they keep of a hit, and how settings are written without secrets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rerankit.types import Hit, Ranking

__all__ = ["METADATA_KEY", "finite_or_none", "hit_record", "public_options", "public_spec"]

METADATA_KEY = "rerankit"
"""The one metadata key that adapters write to."""

_SECRET = re.compile(r"api_?key|secret|passw|authorization|credential|headers|bearer|(^|_)(key|token)$", re.IGNORECASE)
_BRACKETS = re.compile(r"\[([^\[\]]*=[^\[\]]*)\]")
_USER_INFO = re.compile(r"(?<=://)[^/\s|]*@")


def hit_record(ranking: Ranking, hit: Hit) -> dict[str, Any]:
    """What a framework's document keeps of its place in a ranking: JSON-ready, without the passage.

    Both scores and ranks, the calibrated probability, status and evidence of the hit, and ``model``, ``scale`` and
    ``reason`` of the ranking, so that the number never travels without its meaning.
    """
    record = hit.to_dict()
    del record["passage"]
    return {**record, "model": ranking.model, "scale": ranking.scale, "reason": ranking.reason}


def finite_or_none(score: object) -> float | None:
    """A first-stage score as a plain finite number, or None: frameworks hold anything there."""
    if isinstance(score, bool):
        return None
    try:
        number = float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of :func:`rerankit.load` without keys, tokens, passwords and headers, also nested ones."""
    return {
        name: public_options(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
        if not _SECRET.search(str(name))
    }


def public_spec(spec: str) -> str:
    """``spec`` without options that carry a secret and without user names and passwords in addresses."""

    def kept(match: re.Match[str]) -> str:
        items = [item for item in match[1].split(",") if not _SECRET.search(item.partition("=")[0].strip())]
        return f"[{','.join(items)}]" if items else ""

    return _USER_INFO.sub("", _BRACKETS.sub(kept, spec))
