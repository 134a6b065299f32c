"""What the MCP tools work with: the rerankers that were allowed at the start, and the collections of one store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rerankit.errors import InputError
from rerankit.models.protocols import Embedder
from rerankit.rag.chroma import ChromaRetriever
from rerankit.rag.collection import read_facts
from rerankit.rag.store import Store
from rerankit.rerankers.base import Reranker
from rerankit.server.mcp_results import Collection, NamedReranker
from rerankit.server.problems import Problem
from rerankit.spec import check, load

if TYPE_CHECKING:
    import chromadb
    from chromadb.api import ClientAPI

__all__ = ["OFFLINE", "Bounds", "Library", "Rerankers"]

logger = logging.getLogger(__name__)

OFFLINE = {"default": "default", "dense": "dense", "lexical": "lexical", "none": "none"}
"""What is allowed unless told otherwise: all of it works without a network."""

_PREFERRED = "rerankit"
_SAMPLE_IDS = 5


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller may ask of one tool call.

    Attributes:
        passages: candidates, given or fetched.
        characters: query, titles and texts together.
        top_k: passages to give back.
        text_characters: of each passage given back; the rest is cut.
        rerankers: in one comparison.
        seconds: for reranking and answering; what is not done by then is left out and said so.
        calls: at the same time; more are refused.
    """

    passages: int = 200
    characters: int = 1_000_000
    top_k: int = 50
    text_characters: int = 4_000
    rerankers: int = 6
    seconds: float = 60.0
    calls: int = 16


class Rerankers:
    """The rerankers by name, each loaded when it is first asked for. Nothing else can be loaded through it.

    Args:
        specs: name -> spec or reranker; the first is the default.

    Raises:
        SpecError: a spec, or an option in one, is wrong.
        MissingExtraError: a family needs a package that is not installed.
        InputError: there is none.
    """

    def __init__(self, specs: Mapping[str, str | Reranker]) -> None:
        if not specs:
            raise InputError("At least one reranker must be allowed")
        self._stages = {name: _families(spec) for name, spec in specs.items()}
        self._specs, self._lock = dict(specs), threading.Lock()
        self._loaded: dict[str, Reranker] = {}
        self.default = next(iter(specs))

    @property
    def names(self) -> list[str]:
        """In the order in which they were given."""
        return list(self._specs)

    def get(self, name: str) -> Reranker:
        """The reranker of that name; may take as long as loading a model does.

        Raises:
            InputError: it is not among those allowed.
            Problem: it cannot be loaded. Why is in the log: the error may tell of the machine.
        """
        if name not in self._specs:
            raise InputError(f"There is no reranker {name!r:.80} here; there are: {', '.join(self.names)}")
        with self._lock:
            if name not in self._loaded:
                try:
                    self._loaded[name] = load(self._specs[name])
                except Exception as error:
                    logger.error("The reranker %s cannot be loaded: %s", name, error)
                    said = f"The reranker {name!r} cannot be loaded; the server's log says why"
                    raise Problem(500, said) from error
            return self._loaded[name]

    def listing(self) -> list[NamedReranker]:
        """All of them. The specs stay here: there may be a key or a path in one."""
        return [
            NamedReranker(name=name, stages=stages, is_default=name == self.default, is_loaded=name in self._loaded)
            for name, stages in self._stages.items()
        ]

    def close(self) -> None:
        """Free the models that were loaded from specs."""
        with self._lock:
            for name, reranker in self._loaded.items():
                if reranker is not self._specs[name]:
                    reranker.close()
            self._loaded.clear()


class Library:
    """The collections of one Chroma store that may be searched; nothing is ever written.

    Args:
        store: a folder, a server's address, or a chromadb client.
        collections: the only ones to show; none means all that are there.
        embedder: of queries; by default the embedded model.
    """

    def __init__(
        self,
        store: str | Path | ClientAPI | chromadb.Collection,
        collections: Sequence[str] = (),
        embedder: Embedder | None = None,
    ) -> None:
        self._where, self._allowed, self._embedder = store, tuple(collections), embedder
        self._store, self._lock = Store(store), threading.Lock()
        self._retrievers: dict[str, ChromaRetriever] = {}

    def names(self) -> list[str]:
        """The collections that are there and may be searched.

        Raises:
            StoreError: the store cannot be opened.
        """
        with self._lock:
            there = self._store.names()
        return [name for name in there if not self._allowed or name in self._allowed]

    def choose(self, name: str | None) -> str:
        """``name`` if there is such a collection; without one the only one there, or the one called ``rerankit``.

        Raises:
            InputError: there is none of that name, or the choice is not clear.
        """
        there = self.names()
        if name in there:
            return str(name)
        if name is None and (len(there) == 1 or _PREFERRED in there):
            return _PREFERRED if _PREFERRED in there else there[0]
        known = f"there are: {', '.join(there)}" if there else "there is none"
        said = "Name a collection" if name is None else f"There is no collection {name!r:.80} here"
        raise InputError(f"{said}; {known}")

    def retriever(self, name: str) -> ChromaRetriever:
        """The retriever of a chosen collection."""
        with self._lock:
            if name not in self._retrievers:
                self._retrievers[name] = ChromaRetriever(self._where, collection=name, embedder=self._embedder)
            return self._retrievers[name]

    def describe(self, name: str) -> Collection:
        """Size, model and a few ids.

        Raises:
            StoreError: the collection cannot be read.
        """
        with self._lock:
            collection = self._store.collection(name)
        facts = read_facts(collection)
        ids = collection.get(limit=_SAMPLE_IDS, include=[])["ids"]
        return Collection(
            name=name, count=collection.count(), embedder=facts.embedder, dimension=facts.dim, space=facts.space,
            sample_ids=list(ids),
        )  # fmt: skip

    def close(self) -> None:
        """Release the store."""
        with self._lock:
            for retriever in self._retrievers.values():
                retriever.close()
            self._retrievers.clear()
            self._store.close()


def _families(spec: str | Reranker) -> list[str]:
    return [stage.family for stage in check(spec)] if isinstance(spec, str) else [type(spec).__name__]
