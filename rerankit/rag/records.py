"""How a passage is kept in a Chroma record, and how it comes back unchanged.

A record's id is the passage's id, its document the text, its metadata the passage's metadata and title. Names that
begin with ``rerankit:`` are this library's own: they never reach a passage's metadata, but for ``rerankit:distance``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from rerankit.errors import InputError
from rerankit.rerankers.prepare import clean
from rerankit.types import Passage

__all__ = [
    "DISTANCE",
    "EMBEDDER",
    "HASH",
    "STAMP",
    "content_hash",
    "embedded_text",
    "from_record",
    "is_too_deep",
    "to_metadata",
]

_Container = TypeVar("_Container", list[Any], dict[str, Any])

_OURS = "rerankit:"
HASH = _OURS + "hash"
EMBEDDER = _OURS + "embedder"
STAMP = _OURS + "stamp"
DISTANCE = _OURS + "distance"
_TITLE = _OURS + "title"
_JSON = _OURS + "json"
_LISTS = _OURS + "lists"
_MOST_VALUES = 1000
"""Of one record. Chroma writes each as several of SQLite's 32,766 variables; one record with more ruins the store."""
_MOST_LEVELS = 64


def embedded_text(passage: Passage) -> str:
    """What an embedder sees of a passage: its title, then its text."""
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def content_hash(passage: Passage, metadata: Mapping[str, Any]) -> str:
    """Changes when anything of a record changes: text, title, metadata, or a vector that came with the passage."""
    content = json.dumps([passage.text, passage.title, metadata], sort_keys=True)
    digest = hashlib.sha256(content.encode())
    if passage.embedding is not None:
        digest.update(np.asarray(passage.embedding, dtype=np.float32).tobytes())
    return digest.hexdigest()[:32]


def to_metadata(passage: Passage) -> dict[str, Any]:
    """Metadata that Chroma accepts.

    What it cannot hold (None, nested or mixed values, more than 1,000 values in all, of which each item of a list is
    one) travels as JSON: it comes back, but no filter finds it.

    Raises:
        InputError: a value is nested too deeply.
    """
    kept: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    room = _MOST_VALUES
    for key, value in passage.metadata.items():
        if is_too_deep(value):
            raise InputError(f"Passage {passage.id!r}: its metadata {key!r:.80} are nested too deeply; flatten them")
        name, plain = clean(str(key)), _plain(value)
        if name.startswith(_OURS):
            continue
        size = len(plain) if isinstance(plain, list) else 1
        if size <= room and _fits(name, plain):
            kept[name], room = plain, room - size
        else:
            rest[name] = plain
    if lists := sorted(name for name, value in kept.items() if isinstance(value, list)):
        kept[_LISTS] = json.dumps(lists)
    if rest:
        kept[_JSON] = json.dumps(rest, sort_keys=True, default=str)
    if "title" in passage.metadata:
        kept[_TITLE] = passage.title
    elif passage.title:
        kept["title"] = passage.title
    return kept


def from_record(
    key: str, document: str | None, metadata: Mapping[str, Any] | None, *, distance: float | None = None
) -> Passage:
    """The passage of a record. In a collection made by others, ``title`` is read and the metadata stay as they are."""
    found = dict(metadata or {})
    title = found.get("title", "")
    if _TITLE in found:
        title = found[_TITLE]
    elif HASH in found:
        found.pop("title", None)
    # Lists of a deleted collection can reappear on records written later (chroma issue 7594): ours are named.
    lists = _parsed(found.get(_LISTS), list) if HASH in found else found
    kept = {
        name: value
        for name, value in found.items()
        if not name.startswith(_OURS) and (name in lists or not isinstance(value, list))
    }
    kept.update(_parsed(found.get(_JSON), dict))
    if distance is not None:
        kept[DISTANCE] = distance
    return Passage(key, document or "", title if isinstance(title, str) else "", kept)


def _parsed(text: object, kind: type[_Container]) -> _Container:
    """What ``to_metadata`` wrote as JSON. Anyone may write such a key: what is not of this ``kind`` counts as empty."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, kind) else kind()


def is_too_deep(value: object, levels: int = _MOST_LEVELS) -> bool:
    """Whether lists and dicts are nested in more than ``levels`` levels: what walks over them is recursive."""
    if not isinstance(value, (dict, list, tuple)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_too_deep(item, levels - 1) for item in items)


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's own, strings cleaned, tuples as lists."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _fits(name: str, value: Any) -> bool:
    """Whether Chroma keeps this entry as it is (it drops non-finite numbers and rounds huge ones)."""
    if not name or name[0] in "#$" or name.startswith("chroma:"):
        return False
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        return len(kinds) == 1 and not isinstance(value[0], list) and all(_fits(name, item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str)
