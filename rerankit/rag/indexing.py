"""Writing passages into a Chroma collection: in batches, and only what is new or changed.

Every batch is one transaction of the store, and each record carries a hash of its content. A run that was killed is
simply run again: what is there is recognised and not embedded twice, what is missing is added.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.rag.collection import update_metadata
from rerankit.rag.guard import GuardedCollection
from rerankit.rag.records import HASH, STAMP, content_hash, to_metadata
from rerankit.rag.seen import Seen
from rerankit.rag.vectors import VectorSource
from rerankit.rerankers.prepare import clean
from rerankit.types import Passage

__all__ = ["IndexReport", "Indexer", "progress_bar"]


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What one ``index`` call did, in passages.

    Attributes:
        added: new in the collection.
        updated: there before with other content.
        unchanged: there before, not embedded again.
        deleted: pruned because they were not among the passages, or there before and now without text.
        skipped: repeated word for word in the input, or without text.
        seconds: wall time.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    skipped: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Entry:
    passage: Passage
    metadata: dict[str, Any]


class Indexer:
    """One run over one collection.

    Args:
        collection: written to.
        source: of the vectors.
        max_batch: most records of one write.
    """

    def __init__(self, collection: GuardedCollection, source: VectorSource, max_batch: int) -> None:
        self._collection, self._source, self._max_batch = collection, source, max_batch
        self._report = IndexReport()
        self._stamped = False

    def run(
        self,
        passages: Iterable[Passage],
        *,
        prune: bool | Callable[[], bool],
        batch: int,
        advance: Callable[[int], None],
    ) -> IndexReport:
        """Index ``passages``; arguments as in :meth:`ChromaRetriever.index`."""
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        started = time.perf_counter()
        with Seen() as seen:
            for group in _batches(passages, min(batch, self._max_batch)):
                entries, empty = self._entries(group, seen)
                self._delete(self._stored(empty))
                self._add(entries)
                advance(len(group))
            if prune() if callable(prune) else prune:
                self._prune(seen)
        if self._stamped:
            self._stamp()
        return replace(self._report, seconds=time.perf_counter() - started)

    def _count(self, **more: int) -> None:
        self._report = replace(self._report, **{name: getattr(self._report, name) + n for name, n in more.items()})

    def _announce(self) -> None:
        """Before the first write."""
        if not self._stamped:
            self._stamp()

    def _stamp(self) -> None:
        """Tell readers, before and after writing, that what they built from this collection is out of date."""
        update_metadata(self._collection, **{STAMP: uuid.uuid4().hex})
        self._stamped = True

    def _entries(self, group: Sequence[Passage], seen: Seen) -> tuple[dict[str, _Entry], list[str]]:
        """The records to be, by id, and the ids of passages without text; these and repeated ones are counted."""
        entries: dict[str, _Entry] = {}
        empty: list[str] = []
        for passage in group:
            _check(passage)
            cleaned = passage.replace(text=clean(passage.text), title=clean(passage.title))
            metadata = to_metadata(cleaned)
            digest = content_hash(cleaned, metadata)
            if not _is_new(seen, passage.id, digest):
                self._count(skipped=1)
            elif not cleaned.text.strip():
                self._count(skipped=1)
                empty.append(passage.id)
            else:
                entries[passage.id] = _Entry(cleaned, {**metadata, HASH: digest})
        return entries, empty

    def _add(self, entries: Mapping[str, _Entry]) -> None:
        if not entries:
            return
        stored = self._stored(list(entries))
        due = {key: entry for key, entry in entries.items() if stored.get(key, {}).get(HASH) != entry.metadata[HASH]}
        self._count(unchanged=len(entries) - len(due))
        self._source.agree([entry.passage for entry in entries.values()])
        if not due:
            return
        vectors = dict(zip(due, self._source.vectors([entry.passage for entry in due.values()]), strict=True))
        self._announce()
        new = {key: entry for key, entry in due.items() if key not in stored}
        changed = {key: entry for key, entry in due.items() if key in stored}
        if new:
            self._collection.upsert(**_columns(new, vectors))
        if changed:
            # Chroma merges metadata; a key that is gone has to be set to None.
            gone = {key: dict.fromkeys(set(stored[key]) - set(entry.metadata)) for key, entry in changed.items()}
            self._collection.update(**_columns(changed, vectors, gone))
        self._count(added=len(new), updated=len(changed))

    def _stored(self, keys: list[str]) -> dict[str, Mapping[str, Any]]:
        if not keys:
            return {}
        found = self._collection.get(ids=keys, include=["metadatas"])
        return {key: meta or {} for key, meta in zip(found["ids"], found["metadatas"] or (), strict=True)}

    def _prune(self, seen: Seen) -> None:
        if not self._report.added + self._report.updated + self._report.unchanged:
            raise InputError("prune=True without any passage would delete the whole collection; use drop() for that")
        offset = 0
        while page := self._collection.get(limit=self._max_batch, offset=offset, include=[])["ids"]:
            gone = [key for key in page if key not in seen]
            offset += len(page) - len(gone)
            self._delete(gone)

    def _delete(self, keys: Iterable[str]) -> None:
        if gone := list(keys):
            self._announce()
            self._collection.delete(ids=gone)
            self._count(deleted=len(gone))


def _is_new(seen: Seen, key: str, digest: str) -> bool:
    """False if the same passage was met before.

    Raises:
        InputError: the id was met with other content.
    """
    before = seen.add(key, digest)
    if before is not None and before != digest:
        raise InputError(
            f"Two different passages have the id {key!r}; ids name a passage, so they must differ. "
            "The batches before this one are indexed; correct the ids and run it again."
        )
    return before is None


def _check(passage: object) -> None:
    if not isinstance(passage, Passage):
        raise InputError(f"Only passages can be indexed, since they have ids; got {type(passage).__name__}")
    if not passage.id or clean(passage.id) != passage.id:
        raise InputError(f"A passage id must be a string without control characters, got {passage.id!r}")


def _columns(
    entries: Mapping[str, _Entry],
    vectors: Mapping[str, NDArray[np.float32]],
    gone: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Parallel lists, as Chroma takes them."""
    return {
        "ids": list(entries),
        "documents": [entry.passage.text for entry in entries.values()],
        "metadatas": [{**(gone or {}).get(key, {}), **entry.metadata} for key, entry in entries.items()],
        "embeddings": np.stack([vectors[key] for key in entries]),
    }


def _batches(passages: Iterable[Passage], size: int) -> Iterator[list[Passage]]:
    stream = iter(passages)
    while group := list(itertools.islice(stream, size)):
        yield group


@contextmanager
def progress_bar(passages: Iterable[Passage]) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; its length is known only for a sized collection of passages."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    total = len(passages) if isinstance(passages, Sized) else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("Indexing", total=total)
        yield lambda count: progress.advance(task, count)
