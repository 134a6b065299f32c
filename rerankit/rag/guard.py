"""A Chroma collection whose failures say what happened, where, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from rerankit.errors import InputError, RerankitError, StoreError

if TYPE_CHECKING:
    from chromadb import Collection

__all__ = ["GuardedCollection", "is_gone", "store_errors"]


class GuardedCollection:
    """The part of chromadb's ``Collection`` that rerankit uses; every method takes the same keywords.

    Args:
        collection: the real one.
        place: the store's name in messages.

    Raises:
        StoreError: from every method, when the store fails.
        InputError: from ``get`` and ``query``, when Chroma does not accept a filter.
    """

    def __init__(self, collection: Collection, place: str) -> None:
        self._collection, self.place = collection, place
        self.name, self.id = collection.name, collection.id

    @property
    def metadata(self) -> Mapping[str, Any]:
        """As of opening, or of the last ``modify`` of this object."""
        return self._collection.metadata or {}

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The index settings, as plain values."""
        return self._collection.configuration_json or {}

    def count(self) -> int:
        """Number of records."""
        with store_errors(self.place):
            return self._collection.count()

    def get(self, **options: Any) -> Mapping[str, Any]:
        """Records by id or filter."""
        with store_errors(self.place), _filter_errors(options):
            result: Mapping[str, Any] = self._collection.get(**options)
            return result

    def query(self, **options: Any) -> Mapping[str, Any]:
        """The nearest records."""
        with store_errors(self.place), _filter_errors(options):
            result: Mapping[str, Any] = self._collection.query(**options)
            return result

    def upsert(self, **columns: Any) -> None:
        """Add or overwrite records; metadata are merged."""
        with store_errors(self.place):
            self._collection.upsert(**columns)

    def update(self, **columns: Any) -> None:
        """Change records; metadata are merged, None deletes a key."""
        with store_errors(self.place):
            self._collection.update(**columns)

    def delete(self, *, ids: list[str]) -> None:
        """Delete records."""
        with store_errors(self.place):
            self._collection.delete(ids=ids)

    def replace_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the collection's own metadata as a whole."""
        with store_errors(self.place):
            self._collection.modify(metadata=dict(metadata))


@contextmanager
def _filter_errors(options: Mapping[str, Any]) -> Iterator[None]:
    """Blame what Chroma refuses on the filters, if there are any."""
    from chromadb.errors import InvalidArgumentError

    filters = {name: options[name] for name in ("where", "where_document") if options.get(name) is not None}
    try:
        yield
    except (ValueError, TypeError, InvalidArgumentError) as error:
        if not filters:
            raise
        raise InputError(f"Chroma does not accept the filter {filters!r:.200}: {error!s:.200}") from error


@contextmanager
def store_errors(place: str) -> Iterator[None]:
    """Turn whatever Chroma raises into a :class:`StoreError` that names ``place`` and the way out."""
    from chromadb.errors import ChromaError

    try:
        yield
    except RerankitError:
        raise
    except (ChromaError, httpx.HTTPError, ValueError, TypeError, OSError) as error:
        raise StoreError(f"{place[0].upper()}{place[1:]} {_way_out(place, error)}") from error


def is_gone(error: StoreError) -> bool:
    """Whether the collection of a failed call is not there any more."""
    from chromadb.errors import NotFoundError

    return isinstance(error.__cause__, NotFoundError)


def _way_out(place: str, error: Exception) -> str:
    if isinstance(error, httpx.HTTPError) or "Could not connect" in str(error):
        return f"does not answer ({error}). Start it with 'chroma run --path DIR --port N', or check the address."
    damaged = type(error).__name__ == "InternalError"
    if damaged and "store in " in place:
        return (
            f"cannot be used: {error}. If it is damaged, move the folder away and index the passages again, "
            "or restore a copy of it."
        )
    return f"refused the call: {error}"
