"""Each visitor's own documents: read within limits, indexed in memory, seen by nobody else, deleted on demand."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from rerankit.demo.settings import Limits
from rerankit.errors import InputError, RerankitError
from rerankit.rag.chroma import ChromaRetriever
from rerankit.rag.loading import FORMATS, Problem, iter_passages
from rerankit.types import Passage

__all__ = ["Advance", "Library", "Shelf", "limits_text"]

_PROBLEMS = 5
"""Told of one file at most."""

Advance = Callable[[int, int], None]
"""Told how many passages of how many are indexed."""


class Library:
    """The documents of one visitor. Made by :meth:`Shelf.library`."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._files: dict[str, list[Passage]] = {}
        self._used = time.monotonic()
        self.retriever = ChromaRetriever("memory", collection=f"demo-{secrets.token_hex(16)}")

    @property
    def idle_s(self) -> float:
        """Seconds since something was added or deleted, as far as nothing is being indexed."""
        return 0.0 if self._lock.locked() else time.monotonic() - self._used

    @property
    def files(self) -> dict[str, int]:
        """Passages per file."""
        return {name: len(passages) for name, passages in list(self._files.items())}  # a copy: others may be adding

    def add(self, paths: Sequence[Path], advance: Advance) -> list[str]:
        """Read files and index them; a file of a name that is there already replaces it.

        Returns:
            What could not be read, in words.

        Raises:
            RerankitError: they could not be indexed; then all is as it was before.
        """
        problems: list[str] = []
        with self._lock:
            before = dict(self._files)
            for path in paths:
                try:
                    self._files[path.name] = self._read(path, problems)
                except RerankitError as error:
                    problems.append(f"{path.name}: {_without_folder(error, path)}")
                except OSError:  # the same file of another visitor may have been taken away with it
                    problems.append(f"{path.name}: the upload is gone; drop the file here again")
            try:
                self._index(advance)
            except Exception:
                self._files = before
                self._index_or_forget()
                raise
        return problems

    def remove(self, name: str) -> None:
        """Forget one file, and what was indexed of it; if that fails, everything."""
        with self._lock:
            self._files.pop(name, None)
            self._index_or_forget()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._files.clear()
            self._index(lambda *_: None)

    def _read(self, path: Path, problems: list[str]) -> list[Passage]:
        self._check(path)
        room = self._limits.passages - sum(count for name, count in self.files.items() if name != path.name)
        found: list[Problem] = []
        passages = iter_passages(path, on_problem=found.append, max_bytes=self._limits.file_bytes)
        read = list(islice(_in_time(passages, self._limits.reading_s), max(0, room) + 1))
        if len(read) > room:
            raise InputError(f"it would be more than the {self._limits.passages} passages that fit here; split it")
        if not read:
            raise InputError(found[0].reason if found else "it holds no text")
        problems.extend(f"{path.name}: {problem.reason}" for problem in found[:_PROBLEMS])
        # Rows name themselves, so that two files may use the same ids.
        return [passage.replace(id=f"{path.name}/{passage.id}") for passage in read]

    def _check(self, path: Path) -> None:
        if path.suffix.lower() not in FORMATS:
            raise InputError(f"files of this kind cannot be read; these can: {' '.join(FORMATS)}")
        if path.name not in self._files and len(self._files) >= self._limits.files:
            raise InputError(f"there are {self._limits.files} files already; delete one first")
        if path.stat().st_size > self._limits.file_bytes:
            raise InputError(f"it is larger than {self._limits.file_bytes // 2**20} MB; split it")

    def _index(self, advance: Advance) -> None:
        """Bring the index to what the files hold; what is there unchanged is not embedded again."""
        self._used = time.monotonic()
        passages = [passage for group in self._files.values() for passage in group]
        if not passages:
            self._drop()
            return
        done = 0
        advance(0, len(passages))

        def told(count: int) -> None:
            nonlocal done
            done += count
            advance(done, len(passages))

        self.retriever.index(passages, prune=True, batch=32, progress=told)

    def _index_or_forget(self) -> None:
        """Whatever fails, what the files do not hold must not be found."""
        try:
            self._index(lambda *_: None)
        except Exception:
            self._files.clear()
            self._drop()
            raise

    def _drop(self) -> None:
        try:
            self.retriever.drop()
        except RerankitError:
            return  # nothing was indexed


class Shelf:
    """All libraries, one for each visitor, so that their number is bounded."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._libraries: dict[str, Library] = {}

    def __len__(self) -> int:
        return len(self._libraries)

    def library(self, owner: str) -> Library:
        """The owner's, which is new and empty the first time.

        Raises:
            InputError: there are enough.
        """
        with self._lock:
            if owner not in self._libraries:
                self._close_forgotten()
                if len(self._libraries) >= self._limits.libraries:
                    raise InputError("Too many visitors have documents here at the moment; try again in some minutes.")
                self._libraries[owner] = Library(self._limits)
            return self._libraries[owner]

    def _close_forgotten(self) -> None:
        """Delete what nobody uses, should the page that shows it have gone without a word."""
        for owner, library in list(self._libraries.items()):
            if library.idle_s > self._limits.library_s:
                del self._libraries[owner]
                library.clear()

    def close(self, library: Library | None) -> None:
        """Delete a visitor's documents, if there are any."""
        if library is not None:
            with self._lock:
                self._libraries = {owner: other for owner, other in self._libraries.items() if other is not library}
            library.clear()


def _in_time(passages: Iterator[Passage], seconds: float) -> Iterator[Passage]:
    end = time.monotonic() + seconds
    for passage in passages:
        if time.monotonic() > end:
            raise InputError(f"reading it takes more than {seconds:g} seconds; split it")
        yield passage


def _without_folder(error: RerankitError, path: Path) -> str:
    """The message without the folder of the upload, which means nothing to a visitor."""
    return str(error).replace(f"{path.parent}/", "")


def limits_text(limits: Limits) -> str:
    """What may be uploaded, in words."""
    return (
        f"At most {limits.files} files of {limits.file_bytes // 2**20} MB, {limits.passages} passages together. "
        "Only you see them; they stay in memory and are deleted when you press Delete, or "
        f"{limits.library_s // 60} minutes after you last added or deleted one."
    )
