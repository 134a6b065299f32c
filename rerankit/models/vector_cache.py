"""VectorCache: what an encoder said about a text, kept between queries: in memory, and on disk if asked.

An entry is a small tuple of arrays (token vectors with their character offsets, or one text vector) under a key that
names the model, its settings and the text. A cache may lose entries; it never returns a wrong one: each carries a
checksum on disk.
"""

from __future__ import annotations

import functools
import io
import logging
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.models.files import cache_folder
from rerankit.models.sqlite_file import SqliteFile

logger = logging.getLogger(__name__)

Entry: TypeAlias = tuple[NDArray[Any], ...]

DEFAULT_MEMORY = 512 * 2**20
DEFAULT_DISK = 4 * 2**30
"""Bytes. A passage of 200 tokens in 384 dimensions takes 150 kB in float16, half of that in 8 bit."""

_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, data BLOB NOT NULL)"
_BATCH = 500  # below every sqlite build's limit on bound variables


@runtime_checkable
class KeepsVectors(Protocol):
    """Where arrays are kept by key: a :class:`VectorCache`, or anything of its shape."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The entries that are known among ``keys``."""
        ...

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Remember entries; what is already known is kept."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


class VectorCache:
    """Arrays by key; the least recently used leave memory first, the oldest leave the disk first.

    Args:
        path: a file to keep entries in between processes, True for one in the user's cache folder (or
            ``$RERANKIT_CACHE``), None for memory only.
        memory_bytes: bound of what is held in memory.
        disk_bytes: bound of the file.

    Safe between threads, and the file between processes. A damaged file is put aside and begun anew; where it cannot
    be written, only memory is used.
    """

    def __init__(
        self,
        path: str | Path | bool | None = None,
        *,
        memory_bytes: int = DEFAULT_MEMORY,
        disk_bytes: int = DEFAULT_DISK,
    ) -> None:
        if memory_bytes < 0 or disk_bytes < 1:
            raise InputError(f"A cache's bounds are positive, got memory_bytes={memory_bytes}, disk_bytes={disk_bytes}")
        self.memory_bytes, self.disk_bytes = memory_bytes, disk_bytes
        self.held_bytes = 0
        self._known: OrderedDict[bytes, Entry] = OrderedDict()
        self._lock = threading.Lock()
        place = cache_folder("vectors") / "vectors.sqlite" if path is True else path
        self._file = SqliteFile(place, _SCHEMA) if place else None

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The entries that are known among ``keys``; their arrays are read-only."""
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
            for key in found:
                self._known.move_to_end(key)
        if missing := [key for key in keys if key not in found]:
            from_disk = self._read(missing)
            self._remember(from_disk)
            found.update(from_disk)
        return found

    def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Remember entries; what is already known is kept."""
        self._remember(entries)
        if (file := self._disk()) is None or not entries:
            return
        rows = [(key, _pack(entry)) for key, entry in entries.items()]
        file.run("INSERT OR IGNORE INTO vectors (key, data) VALUES (?, ?)", rows, many=True)
        self._shrink(file)

    def clear_memory(self) -> None:
        """Forget what is in memory; the file keeps its entries."""
        with self._lock:
            self._known.clear()
            self.held_bytes = 0

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        if self._file is not None:
            self._file.close()

    def _remember(self, entries: Mapping[bytes, Entry]) -> None:
        with self._lock:
            for key, entry in entries.items():
                if key in self._known:
                    continue
                for array in entry:
                    array.flags.writeable = False
                self._known[key] = entry
                self.held_bytes += _size(entry)
            while self.held_bytes > self.memory_bytes:
                self.held_bytes -= _size(self._known.popitem(last=False)[1])

    def _disk(self) -> SqliteFile | None:
        """The file, unless it turned out to be unusable: a second copy in memory would help nobody."""
        return None if self._file is None or self._file.in_memory else self._file

    def _read(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        found: dict[bytes, Entry] = {}
        if (file := self._disk()) is None:
            return found
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            marks = ",".join("?" * len(part))
            for key, data in file.run(f"SELECT key, data FROM vectors WHERE key IN ({marks})", part):  # noqa: S608 (marks only)
                if (entry := _unpack(data)) is not None:
                    found[key] = entry
                else:
                    logger.warning("An entry of the cache file %s was damaged; it is computed again", file.path)
                    file.run("DELETE FROM vectors WHERE key = ?", (key,))
        return found

    def _shrink(self, file: SqliteFile) -> None:
        """Let the oldest tenth go while the pages in use pass the bound; sqlite uses freed pages again."""
        while True:
            (pages,), (free,), (size,) = (
                file.run(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size")
            )
            if (pages - free) * size <= self.disk_bytes:
                return
            (count,) = file.run("SELECT count(*) FROM vectors")[0]
            if count == 0:
                return
            oldest = "SELECT id FROM vectors ORDER BY id LIMIT ?"
            file.run(f"DELETE FROM vectors WHERE id IN ({oldest})", (count // 10 + 1,))  # noqa: S608 (constant)


@functools.cache
def shared_cache() -> VectorCache:
    """The process's own cache, in memory: families that read the same texts with the same model share the work."""
    return VectorCache()


def open_cache(source: KeepsVectors | str | Path | bool | None) -> VectorCache:
    """:func:`open_vectors`, for what is more than one vector per text: only a VectorCache has room for it.

    For any other keeper, such as a collection of text vectors, the process's own cache steps in.
    """
    found = open_vectors(source)
    return found if isinstance(found, VectorCache) else shared_cache()


def open_vectors(source: KeepsVectors | str | Path | bool | None) -> KeepsVectors:
    """A keeper as it is, a cache over a file (True: in the user's cache folder), or the process's own.

    Raises:
        InputError: ``source`` keeps nothing.
    """
    if source is None or isinstance(source, (str, Path, bool)):
        return VectorCache(source) if source else shared_cache()
    if not isinstance(source, KeepsVectors):
        raise InputError(f"vectors is a file, True, a VectorCache, SideVectors or None; got {source!r:.80}")
    return source


def _size(entry: Entry) -> int:
    return sum(array.nbytes for array in entry) + 256  # key, headers, list cells


def _pack(entry: Entry) -> bytes:
    """crc32 of what follows: the arrays, one after another, in numpy's own file format."""
    buffer = io.BytesIO()
    for array in entry:
        np.save(buffer, array, allow_pickle=False)
    data = buffer.getvalue()
    return zlib.crc32(data).to_bytes(4, "little") + data


def _unpack(data: bytes) -> Entry | None:
    """The arrays of a packed entry, or None if it is damaged."""
    if zlib.crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        return None
    buffer = io.BytesIO(data)
    buffer.seek(4)
    arrays = []
    while buffer.tell() < len(data):
        arrays.append(np.load(buffer, allow_pickle=False))
    return tuple(arrays)
