"""Chroma in front of a reranker: index passages, retrieve candidates, reorder Chroma's own query results."""

from __future__ import annotations

import asyncio
import functools
import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rerankit.errors import InputError, StoreError
from rerankit.models.protocols import Embedder
from rerankit.rag.collection import check_embedder, read_facts
from rerankit.rag.guard import GuardedCollection, is_gone
from rerankit.rag.indexing import Indexer, IndexReport, progress_bar
from rerankit.rag.lexical import LexicalIndex
from rerankit.rag.query_result import rerank_query_result
from rerankit.rag.records import STAMP, embedded_text, from_record
from rerankit.rag.searching import Filters, Found, checked_ids, fuse, get_records, query_collection
from rerankit.rag.store import Space, Store
from rerankit.rag.vectors import VectorSource, embed
from rerankit.rerankers.prepare import clean
from rerankit.types import Passage

if TYPE_CHECKING:
    from chromadb import Collection
    from chromadb.api import ClientAPI

__all__ = ["ChromaRetriever", "IndexReport", "rerank_query_result"]

_PAGE = 5000
_Result = TypeVar("_Result")


class ChromaRetriever:
    """The first stage: candidates for a query from a Chroma collection, and the way passages get into it.

    ``Passage.score`` is a similarity, higher is better, whatever the space of the collection: the cosine in ``cosine``
    space, the dot product in ``ip`` space; in ``l2`` space the cosine if all vectors have length 1, else minus the
    squared distance. In hybrid retrieval it is the reciprocal-rank-fusion score. Chroma's own distance stays in
    ``Passage.metadata["rerankit:distance"]``. Passages keep their vectors for later stages (``embedding``,
    ``embedding_model``).

    The store is opened when it is first used, so wrong paths and servers that are down show up then. Objects may be
    shared between threads. A deep or pickled copy of one that was made with a folder or an address opens it again.

    Args:
        store: a folder, ``"memory"``, the address of a Chroma server (``http://host:port``), a chromadb client, or a
            chromadb collection. There is one memory in a process: who names the same collection in it shares it.
        collection: its name; not used when ``store`` is a collection.
        embedder: of queries and passages; by default the embedded model.
        fetch_k: candidates per query; should be well above what the reranker hands on.
        where: metadata filter of all that is read, by ``get`` and ``passages`` too; not of ``count``.
        hybrid: add lexical (BM25) candidates and fuse both lists by reciprocal rank.
        rrf_k: constant of the fusion.
        space: of a collection that ``index`` makes.
        timeout_s: longest wait for an answer of a server that is given by its address.

    Raises:
        InputError: ``store``, ``where`` or a number makes no sense.
    """

    def __init__(
        self,
        store: str | Path | ClientAPI | Collection,
        *,
        collection: str = "rerankit",
        embedder: Embedder | None = None,
        fetch_k: int = 50,
        where: Mapping[str, Any] | None = None,
        hybrid: bool = False,
        rrf_k: int = 60,
        space: Space = "cosine",
        timeout_s: float = 60.0,
    ) -> None:
        self.fetch_k = _positive(fetch_k, "fetch_k")
        self.hybrid = hybrid
        self._store, self._name, self._space = Store(store, timeout_s), collection, space
        self._where = Filters.of(where, None, None, None).where
        self._rrf_k = _positive(rrf_k, "rrf_k")
        self._chosen = embedder
        self._attached: tuple[GuardedCollection, Space, str] | None = None
        self._lexical: tuple[object, LexicalIndex] | None = None
        self._lock, self._writing = threading.RLock(), threading.RLock()

    @functools.cached_property
    def embedder(self) -> Embedder:
        """The embedder in use."""
        if self._chosen is not None:
            return self._chosen
        from rerankit.models.embedded import embedder

        return embedder()

    @property
    def place(self) -> str:
        """What messages call the store."""
        return self._store.place

    def count(self) -> int:
        """Records in the collection.

        Raises:
            StoreError: the store or the collection cannot be used.
        """
        with self._lock:
            return self._store.collection(self._name).count()

    def retrieve(
        self,
        query: str,
        *,
        k: int | None = None,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[Passage]:
        """The ``k`` nearest passages (``fetch_k`` by default), best first.

        Args:
            query: the question.
            k: how many.
            where: metadata filter in Chroma's language, together with the retriever's own.
            where_document: text filter in Chroma's language.
            ids: only among these records.

        Raises:
            InputError: an empty query, a filter that Chroma does not accept, or an unknown id.
            ModelError: the embedder made something else than finite vectors.
            StoreError: the store cannot be used, or was made with another embedder.
        """
        return self.retrieve_many([query], k=k, where=where, where_document=where_document, ids=ids)[0]

    def retrieve_many(
        self,
        queries: Sequence[str],
        *,
        k: int | None = None,
        where: Mapping[str, Any] | None = None,
        where_document: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[list[Passage]]:
        """:meth:`retrieve` for many queries in one call to Chroma."""
        cleaned = [_checked_query(query) for query in queries]
        wanted = self.fetch_k if k is None else _positive(k, "k")
        filters = Filters.of(self._where, where, where_document, ids)
        if not cleaned or filters.ids == ():
            return [[] for _ in cleaned]

        def search(collection: GuardedCollection, space: Space, model_id: str) -> list[list[Passage]]:
            vectors = embed(self.embedder, cleaned, "query")
            filters.check_ids(collection)
            results = query_collection(collection, space, vectors, wanted, filters)
            if self.hybrid:
                results = self._fused(collection, space, cleaned, results, wanted, filters)
            return [found.passages(model_id) for found in results]

        return self._attached_to(search)

    async def aretrieve(self, query: str, **options: Any) -> list[Passage]:
        """:meth:`retrieve` in a worker thread, for asynchronous programs."""
        return await asyncio.to_thread(functools.partial(self.retrieve, query, **options))

    def get(self, ids: Sequence[str]) -> list[Passage]:
        """Passages by id, in the order asked for; those that are not there, or not in ``where``, are left out.

        Raises:
            InputError: ``ids`` are not strings.
            StoreError: the store or the collection cannot be used.
        """
        unique = checked_ids(ids)

        def fetch(collection: GuardedCollection, _: Space, model_id: str) -> list[Passage]:
            records = get_records(collection, unique, self._where)
            return [records[key].passage(model_id) for key in ids if key in records]

        return self._attached_to(fetch)

    def passages(self) -> Iterator[Passage]:
        """Everything in the collection that the retriever's ``where`` lets through, streamed, without vectors.

        Raises:
            StoreError: the store or the collection cannot be used.
        """
        yield from _all_of(self._store.collection(self._name), self._where)

    def index(
        self,
        passages: Iterable[Passage],
        *,
        prune: bool | Callable[[], bool] = False,
        batch: int = 512,
        progress: bool | Callable[[int], None] = False,
    ) -> IndexReport:
        """Bring passages into the collection, which is made if it is not there.

        Idempotent and resumable: a passage's id is the record's id, a hash of its content is kept beside it, and what
        is there unchanged is neither embedded nor written again. A passage that has no text any more is deleted. A
        vector in ``Passage.embedding`` is used as it is.

        Args:
            passages: any iterable; it is read once and never held as a whole.
            prune: afterwards delete every record of the collection that is not among ``passages``; a function is asked
                when all of them have been read.
            batch: passages that are embedded and written together.
            progress: show a bar on standard error, or call this with the number of passages of each batch.

        Raises:
            InputError: two different passages have one id, or a vector is not usable.
            StoreError: the store cannot be written, or the collection was made with another embedder.
        """
        bar = progress_bar(passages) if progress is True else nullcontext(progress or (lambda _: None))
        model_id = self._chosen.model_id if self._chosen is not None else ""
        with self._writing, bar as advance:
            with self._lock:
                collection = self._store.create(self._name, space=self._space)
                self.refresh()
            source = VectorSource(collection, lambda: self.embedder, model_id)
            return Indexer(collection, source, self._store.max_batch).run(
                passages, prune=prune, batch=_positive(batch, "batch"), advance=advance
            )

    def refresh(self) -> None:
        """Look at the collection again: forget its checked facts and the lexical index.

        Needed only in hybrid retrieval, after another program has changed texts in place without rerankit: Chroma
        offers no cheap sign of that. What ``index`` writes, and every change of the number of records, is noticed.
        """
        with self._lock:
            self._attached = self._lexical = None

    def drop(self) -> None:
        """Delete the collection.

        Raises:
            StoreError: it is not there, or was handed over as a collection.
        """
        with self._writing, self._lock:
            self.refresh()
            self._store.drop(self._name)

    def close(self) -> None:
        """Release the store, if this object opened it; the next call opens it again."""
        with self._writing, self._lock:
            self.refresh()
            self._store.close()

    def __enter__(self) -> ChromaRetriever:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_writing", "embedder")}
        return {**kept, "_attached": None, "_lexical": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock(), _writing=threading.RLock())

    def _attached_to(self, use: Callable[[GuardedCollection, Space, str], _Result]) -> _Result:
        """``use`` of the collection; once more if it was dropped meanwhile and may have been made again."""
        try:
            return use(*self._attach())
        except StoreError as error:
            if not is_gone(error):
                raise
        self.refresh()
        return use(*self._attach())

    def _attach(self) -> tuple[GuardedCollection, Space, str]:
        """The collection, checked once against the embedder: its space, and the id of the vectors in it."""
        with self._lock:
            if self._attached is None:
                collection = self._store.collection(self._name)
                facts = read_facts(collection)
                model_id = check_embedder(collection, facts, self.embedder, strict=False)
                if facts.dim is None:
                    return collection, facts.space, model_id  # still empty: look again next time
                self._attached = collection, facts.space, model_id
            return self._attached

    def _fused(
        self,
        collection: GuardedCollection,
        space: Space,
        queries: Sequence[str],
        dense: Sequence[Found],
        k: int,
        filters: Filters,
    ) -> list[Found]:
        lexical = self._lexical_index()
        among = set(collection.get(include=[], **filters.options())["ids"]) if filters else None
        ranked = [lexical.search(query, k, among=among) for query in queries]
        return fuse(collection, space, dense, ranked, k, self._rrf_k)

    def _lexical_index(self) -> LexicalIndex:
        """BM25 over the whole collection, built when first needed and again when the collection has changed."""
        with self._lock:
            collection = self._store.collection(self._name)
            version = (collection.id, collection.count(), collection.metadata.get(STAMP))
            if self._lexical is None or self._lexical[0] != version:
                texts = {passage.id: embedded_text(passage) for passage in _all_of(collection)}
                self._lexical = version, LexicalIndex(list(texts), list(texts.values()))
            return self._lexical[1]


def _all_of(collection: GuardedCollection, where: Mapping[str, Any] | None = None) -> Iterator[Passage]:
    """All passages that match ``where``, without vectors, page by page."""
    seen, parts = 0, ["documents", "metadatas"]
    while (page := collection.get(where=where, limit=_PAGE, offset=seen, include=parts))["ids"]:
        seen += len(page["ids"])
        columns = zip(page["ids"], page["documents"] or (), page["metadatas"] or (), strict=True)
        yield from itertools.starmap(from_record, columns)


def _checked_query(query: object) -> str:
    if not isinstance(query, str):
        raise InputError(f"A query must be a string, got {type(query).__name__}")
    if not (cleaned := clean(query).strip()):
        raise InputError("The query is empty: there is nothing to search for")
    return cleaned


def _positive(number: int, name: str) -> int:
    try:
        whole = operator.index(number)
    except TypeError as error:
        raise InputError(f"{name} must be a whole number, got {number!r:.80}") from error
    if whole < 1:
        raise InputError(f"{name} must be at least 1, got {number}")
    return whole
