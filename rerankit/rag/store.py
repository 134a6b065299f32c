"""Opening a Chroma store, and saying plainly what is wrong with it when it fails."""

from __future__ import annotations

import inspect
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import httpx

from rerankit.errors import InputError, StoreError, require
from rerankit.rag.guard import GuardedCollection, store_errors
from rerankit.rag.records import STAMP

if TYPE_CHECKING:
    from chromadb import Collection
    from chromadb.api import ClientAPI

__all__ = ["MEMORY", "Space", "Store"]

logger = logging.getLogger(__name__)

Space = Literal["cosine", "ip", "l2"]
"""How Chroma measures: ``1 - cosine``, ``1 - dot product``, or squared Euclidean distance."""

MEMORY = "memory"
"""Names the store that lives inside this process and is gone with it."""

_DATABASE = "chroma.sqlite3"
_HOST_AND_PORT = re.compile(r"[^/\\]+:\d+(/.*)?")
_CONNECT_SECONDS = 10.0
_MAX_BATCH = 1000


class Store:
    """A place with Chroma collections, opened when it is first needed.

    Args:
        where: a folder, ``"memory"``, the ``http(s)://`` address of a Chroma server, a chromadb client or a collection.
        timeout_s: longest wait for an answer of a server that is given by its address.

    Raises:
        InputError: ``where`` is none of these, or ``timeout_s`` is no positive number.
    """

    def __init__(self, where: object, timeout_s: float = 60.0) -> None:
        if not isinstance(timeout_s, (int, float)) or not timeout_s > 0:
            raise InputError(f"timeout_s must be a positive number of seconds, got {timeout_s!r:.80}")
        self._where, self._timeout_s = where, timeout_s
        self._collection = None if isinstance(where, (str, Path)) else _given_collection(where)
        self._client: Any = None if isinstance(where, (str, Path)) or self._collection is not None else where
        self.place = _place(where, self._collection is not None)

    def collection(self, name: str) -> GuardedCollection:
        """An existing collection, with its current metadata.

        Raises:
            StoreError: the store cannot be opened, or has no such collection.
        """
        if self._collection is not None:
            return GuardedCollection(self._collection, self.place)
        self._check_there()
        from chromadb.errors import NotFoundError

        with store_errors(self.place):
            try:
                found = self._open().get_collection(name, embedding_function=None)
                return GuardedCollection(found, self.place)
            except (NotFoundError, ValueError) as error:  # ValueError: chromadb 1.0
                there = self.names()
                if name in there:
                    raise
                known = f"it has: {', '.join(there)}" if there else "it has none"
                raise StoreError(f"No collection {name!r} in {self.place}; {known}. Index into it first.") from error

    def names(self) -> list[str]:
        """The collections that are there, sorted.

        Raises:
            StoreError: the store cannot be opened.
        """
        if self._collection is not None:
            return [self._collection.name]
        self._check_there()
        with store_errors(self.place):
            return sorted(item.name for item in self._open().list_collections())

    def create(self, name: str, *, space: Space) -> GuardedCollection:
        """The collection ``name``, made (and marked as ours) if it is not there.

        Raises:
            StoreError: the store cannot be opened or written.
        """
        if self._collection is not None:
            return GuardedCollection(self._collection, self.place)
        from chromadb.api.collection_configuration import CreateCollectionConfiguration, CreateHNSWConfiguration

        # Chroma's own sizes (100 and 16) lose neighbours of clustered vectors; benchmarks/chroma.py prints the recall.
        index = CreateHNSWConfiguration(space=space, ef_search=200, max_neighbors=32)
        with store_errors(self.place):
            made = self._open().get_or_create_collection(
                name,
                configuration=CreateCollectionConfiguration(hnsw=index),
                metadata={STAMP: ""},
                embedding_function=None,
            )
        return GuardedCollection(made, self.place)

    def drop(self, name: str) -> None:
        """Delete a collection; a store handed over as a collection has to be emptied by its owner."""
        if self._collection is not None:
            raise StoreError(f"{self.place} was handed over as it is; delete it through its own client.")
        collection = self.collection(name)
        # Record by record first: deleting a collection leaves list metadata behind (chroma issue 7594).
        while page := collection.get(limit=self.max_batch, include=[])["ids"]:
            collection.delete(ids=page)
        with store_errors(self.place):
            self._open().delete_collection(name)

    @property
    def max_batch(self) -> int:
        """Most records of one write."""
        return int(self._client.get_max_batch_size()) if self._client is not None else _MAX_BATCH

    def close(self) -> None:
        """Release a client that this store opened itself."""
        if isinstance(self._where, (str, Path)) and self._client is not None and self._where != MEMORY:
            closing = getattr(self._client, "close", lambda: None)  # chromadb 1.0 has no close
            self._client = None
            closing()

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._where, str | Path) or self._where == MEMORY:
            raise InputError(f"{self.place} cannot be copied or pickled; name a folder or the address of a server")
        return {**self.__dict__, "_client": None}

    @property
    def _folder(self) -> Path | None:
        is_folder = isinstance(self._where, Path) or (isinstance(self._where, str) and not _is_special(self._where))
        return Path(str(self._where)).expanduser() if is_folder else None

    def _check_there(self) -> None:
        """Refuse a folder without a store: Chroma would make one, in whatever folder was named by mistake."""
        if self._client is None and (path := self._folder) is not None and not (path / _DATABASE).exists():
            raise StoreError(f"There is no Chroma store in {path}. Check the path, or index passages into it first.")

    def _open(self) -> ClientAPI:
        if self._client is None:
            chromadb = require("chromadb", extra="chroma", purpose="The Chroma store")
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._client = _persistent(str(self._folder))
            elif self._where == MEMORY:
                self._client = chromadb.EphemeralClient()
            else:
                self._client = _connect(str(self._where), self._timeout_s)
        client: ClientAPI = self._client
        return client


def _is_special(where: str) -> bool:
    return where == MEMORY or where.lower().startswith(("http://", "https://"))


def _check_name(where: str) -> None:
    """Refuse what would be made as a folder by mistake; a ``Path`` says that a folder is meant."""
    if not where.strip():
        raise InputError("The store is an empty string; name a folder, 'memory' or the http:// address of a server")
    if "://" in where or _HOST_AND_PORT.fullmatch(where):
        raise InputError(  # does not repeat it: there may be a password in it
            "The store looks like an address that does not begin with http:// or https://; write for example "
            "'http://localhost:8000'. If it is a folder, pass pathlib.Path(...)."
        )


def _given_collection(where: object) -> Collection | None:
    """``where`` if it is a collection, None if it is a client."""
    chromadb = require("chromadb", extra="chroma", purpose="The Chroma store")
    if isinstance(where, chromadb.Collection):
        collection: Collection = where
        return collection
    opener = getattr(where, "get_collection", None)
    if opener is None or inspect.iscoroutinefunction(opener):
        raise InputError(
            "A store is a folder, 'memory', the http:// address of a Chroma server, a chromadb client (not an async "
            f"one: aretrieve works with the others) or a chromadb collection; got {type(where).__name__}"
        )
    return None


def _place(where: object, is_collection: bool) -> str:
    """What messages call the store; never holds credentials."""
    if is_collection:
        return f"the collection {getattr(where, 'name', '')!r}"
    if not isinstance(where, (str, Path)):
        return "the given Chroma client"
    if where == MEMORY:
        return "the in-memory Chroma store"
    if isinstance(where, Path) or not _is_special(where):
        if isinstance(where, str):
            _check_name(where)
        return f"the Chroma store in {Path(where).expanduser()}"
    try:
        address = urlsplit(where)
        usable = bool(address.hostname) and address.port != 0
    except ValueError:  # not repeated: there may be a password in it
        raise InputError("The address of the Chroma server has no valid port; write 'http://host:8000'") from None
    if address.username or address.password:
        raise InputError("Pass credentials through chromadb.HttpClient(headers=...), and that client as the store")
    if not usable:
        raise InputError(f"The address {where!r} names no host or port; write for example 'http://localhost:8000'")
    return f"the Chroma server at {where}"


def _persistent(path: str) -> ClientAPI:
    import chromadb

    # chromadb shares clients by the path's text, so a relative one would go on meaning the folder it first meant.
    path = os.path.abspath(path)
    # Default settings on purpose: Chroma refuses a second client of one place with other settings.
    try:
        return chromadb.PersistentClient(path=path)
    except AttributeError:
        # chromadb keeps a client that failed to open, half made, for the next one to use; this attempt threw it away.
        return chromadb.PersistentClient(path=path)


def _connect(url: str, timeout_s: float) -> ClientAPI:
    import chromadb

    address = urlsplit(url)
    secure = address.scheme == "https"
    host, port = address.hostname or "localhost", address.port or (443 if secure else 8000)
    # Chroma's own client waits for ever; one short request first finds a server that is down or hangs ...
    heartbeat = httpx.URL(scheme=address.scheme, host=host, port=port, path="/api/v2/heartbeat")
    httpx.get(heartbeat, timeout=_CONNECT_SECONDS).raise_for_status()
    client = chromadb.HttpClient(host=host, port=port, ssl=secure)
    # ... and its HTTP session, which chromadb has no setting for, gets a limit for all that follow.
    session = getattr(getattr(client, "_server", None), "_session", None)
    if isinstance(session, httpx.Client):
        session.timeout = httpx.Timeout(timeout_s)
    return client
