"""What adapters to other frameworks share: the reranker that they hold, and what they keep of a hit."""

from __future__ import annotations

import asyncio
import copy
import math
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rerankit.errors import InputError
from rerankit.redaction import public_options, public_spec
from rerankit.spec import load
from rerankit.types import Hit, Ranking

if TYPE_CHECKING:
    from rerankit.rerankers.base import Reranker

__all__ = [
    "METADATA_KEY", "HeldReranker", "finite_or_none", "hit_record", "public_options", "public_spec",
    "with_record",
]  # fmt: skip

METADATA_KEY = "rerankit"
"""The one metadata key that adapters write to."""

_OPENERS = ("resolve_value", "get_secret_value")
"""How a key is taken out of Haystack's ``Secret`` and of pydantic's ``SecretStr``."""


class HeldReranker:
    """A reranker by its configuration: loaded once, at first use, by whichever thread comes first.

    A deep copy holds the configuration alone and loads the model again; a pickle does too, without secrets.

    Args:
        reranker: a spec or a built reranker.
        options: of :func:`rerankit.load`; keys may be wrapped as frameworks do, and are opened when it loads.
    """

    def __init__(self, reranker: str | Reranker, options: Mapping[str, Any]) -> None:
        self._reranker, self._options = reranker, dict(options)
        self._loaded: Reranker | None = None
        self._lock = threading.Lock()

    def get(self) -> Reranker:
        """The reranker.

        Raises:
            RerankitError: the spec or an option is wrong, or the model cannot be loaded.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = load(self._reranker, **_opened(self._options))
            return self._loaded

    async def aget(self) -> Reranker:
        """:meth:`get` without blocking the event loop while the model loads."""
        return self._loaded if self._loaded is not None else await asyncio.to_thread(self.get)

    def spec(self) -> str:
        """The spec.

        Raises:
            InputError: there is none, because a built reranker was given.
        """
        if not isinstance(self._reranker, str):
            raise InputError(
                f"{self._reranker!r} was built already and can be neither serialised nor copied deeply; "
                "make the adapter with a spec, such as 'default', instead"
            )
        return self._reranker

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldReranker:
        return HeldReranker(self.spec(), copy.deepcopy(self._options, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return HeldReranker, (public_spec(self.spec()), public_options(self._options))


def with_record(metadata: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """A document's metadata with its place in the ranking: lists and dictionaries copied, all other values shared."""
    return {**{key: _copied(value) for key, value in metadata.items()}, METADATA_KEY: dict(record)}


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


def _copied(value: Any) -> Any:
    """A copy of what has JSON's shape; objects of other kinds may be large or refuse a copy, and are shared."""
    try:
        return _json_copy(value)
    except RecursionError:  # deeper than any JSON, or it holds itself
        return value


def _json_copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_copy(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(_json_copy(item) for item in value)
    return [_json_copy(item) for item in value] if isinstance(value, list) else value


def _opened(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _opened(value) if isinstance(value, dict) else _secret(value) for name, value in options.items()}


def _secret(value: Any) -> Any:
    opener = next((found for name in _OPENERS if callable(found := getattr(value, name, None))), None)
    return value if opener is None else opener()
