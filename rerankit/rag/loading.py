"""From files to passages: text, Markdown, HTML, PDF, JSON lines, CSV; a file, a folder, a glob, or a list of them.

What cannot be read is reported by name and skipped: one broken file never stops the others, and none is lost
silently. Everything streams: a folder may hold more than fits into memory.
"""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rerankit.errors import InputError, MissingExtraError
from rerankit.rag.chunking import Chunking, chunks, count_words
from rerankit.rag.documents import Problem, Section, read_html, read_markdown, read_pdf, read_text
from rerankit.rag.rows import read_csv, read_jsonl
from rerankit.rag.seen import Seen
from rerankit.types import Passage

__all__ = ["FORMATS", "Chunking", "Loaded", "Problem", "iter_passages", "load"]

logger = logging.getLogger(__name__)

_DOCUMENTS: dict[str, Callable[[bytes, str], Iterator[Section | Problem]]] = {
    ".txt": read_text,
    ".text": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".pdf": read_pdf,
}
_ROWS: dict[str, Callable[[Path, str, int, str | None], Iterator[Section | Problem]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
}
FORMATS = (*_DOCUMENTS, *_ROWS)
"""The file name endings that can be read."""

DEFAULT_CHUNKING = Chunking()
MAX_BYTES = 64 * 1024 * 1024
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|\\(?=[xu][0-9a-f]{2})")
"""What no id may hold, and a backslash that would look like the escape of it."""
_LONGEST_TITLE = 300  # characters: each passage holds a copy, so that a heading of a megabyte would become gigabytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """What :func:`load` found: the passages, and what could not be read as it stands."""

    passages: list[Passage]
    problems: list[Problem]


def load(
    paths: str | Path | Iterable[str | Path],
    *,
    chunking: Chunking | None = DEFAULT_CHUNKING,
    text_column: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Loaded:
    """All passages of ``paths`` and all problems, as lists. Arguments and errors as in :func:`iter_passages`."""
    problems: list[Problem] = []
    passages = iter_passages(
        paths, chunking=chunking, on_problem=problems.append, text_column=text_column, max_bytes=max_bytes
    )
    return Loaded(list(passages), problems)


def iter_passages(
    paths: str | Path | Iterable[str | Path],
    *,
    chunking: Chunking | None = DEFAULT_CHUNKING,
    on_problem: Callable[[Problem], None] | None = None,
    text_column: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Passage]:
    """The passages of files, one after the other.

    A passage's id is ``relative/path#0001``: the path is relative to the folder, the fixed part of the glob, or the
    common parent of a list, so it is the same on every machine. A JSON or CSV row with an id keeps it, unless another
    row had it before: then the row is named by path and line, as one without an id is, and a problem per file says so.
    A row is cut only if it is longer than two chunks, a title behind its 300th character. Metadata hold ``source``,
    ``start`` and ``end`` (characters of the source's text; of the page in a PDF, with ``page``; of the visible text in
    HTML), and ``line`` for rows.

    Args:
        paths: a file, a folder (recursive; hidden names are left out), a glob pattern, or several of these.
        chunking: how texts are cut; None keeps every section, page and row whole.
        on_problem: called with each problem as it is met; by default problems are logged as warnings.
        text_column: the column or key that holds the text of CSV and JSON rows.
        max_bytes: largest file (for rows: largest line) that is read. A CSV field must be within
            ``csv.field_size_limit()`` besides.

    Raises:
        InputError: a path does not exist, a pattern matches nothing, or ``paths`` is empty or no paths.
        MissingExtraError: a format needs a package that is not installed.
    """
    roots = [paths] if isinstance(paths, (str, Path)) or not isinstance(paths, Iterable) else list(paths)
    if wrong := [root for root in roots if not isinstance(root, (str, os.PathLike))]:
        raise InputError(f"Paths to load must be strings or pathlib.Path, got {wrong[0]!r:.80}")
    report = on_problem or _log
    found = [_expand(root, report) for root in roots]  # here, so that a wrong path fails before anything is read
    if not found:
        raise InputError("There is nothing to load: no path was given")
    base = Path(os.path.commonpath([folder for folder, _ in found]))
    files = itertools.chain.from_iterable(files for _, files in found)
    return _passages(files, base, report, chunking, text_column, max_bytes)


def _passages(
    files: Iterable[Path],
    base: Path,
    report: Callable[[Problem], None],
    chunking: Chunking | None,
    text_column: str | None,
    max_bytes: int,
) -> Iterator[Passage]:
    seen: set[Path] = set()
    others: Counter[str] = Counter()
    with Seen() as taken:
        for path in files:
            if path in seen:
                continue
            seen.add(path)
            if path.suffix.lower() in FORMATS:
                source = _relative(path, base)
                yield from _named(_read(path, source, text_column, max_bytes), source, taken, report, chunking)
            else:
                others[path.suffix.lower() or path.name] += 1
    if others:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in others.most_common(8))
        report(Problem(str(base), f"files of other formats: {kinds}; readable are {' '.join(FORMATS)}"))


def _named(
    items: Iterable[Section | Problem],
    source: str,
    taken: Seen,
    report: Callable[[Problem], None],
    chunking: Chunking | None,
) -> Iterator[Passage]:
    """The passages of one file, no two of a run with one id; ``taken`` knows where each id was met first."""
    numbers, told = itertools.count(1), False
    for item in items:
        if isinstance(item, Problem):
            report(item)
            continue
        place = source if item.row is None else f"{source}:{item.row}"
        if item.id and (before := taken.add(item.id, place)) is not None:
            if not told:
                reason = f"the id {item.id!r} is that of {before} already; such rows are named by their lines"
                report(Problem(source, reason, item.row, skipped=False))
            item, told = replace(item, id=""), True
        for passage in _cut(item, source, numbers, chunking):
            if passage.id == item.id or (before := taken.add(passage.id, place)) is None:
                yield passage
            else:  # an id that was made, and that a row had chosen
                report(Problem(source, f"the id {passage.id!r} is that of {before} already", item.row))


def _log(problem: Problem) -> None:
    logger.warning("%s", problem)


def _relative(path: Path, base: Path) -> str:
    """The name of a file in ids: of no two files the same, and without what an id may not hold."""
    return _UNUSABLE.sub(lambda found: _escape(ord(found[0])), path.relative_to(base).as_posix())


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _expand(root: str | Path, report: Callable[[Problem], None]) -> tuple[Path, Iterable[Path]]:
    """The folder that names are relative to, and the files, in the order of their names."""
    text = os.path.abspath(os.path.expanduser(root))
    if os.path.isdir(text):
        return Path(text), _walk(Path(text), report)
    if os.path.lexists(text):
        return Path(text).parent, [Path(text)]
    if not glob.has_magic(text):
        raise InputError(f"There is no file or folder {str(root)!r} (looked for {text})")
    matches = sorted(Path(match) for match in glob.iglob(text, recursive=True) if os.path.isfile(match))
    if not matches:
        raise InputError(f"No file matches {str(root)!r} (looked for {text})")
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(text).parts)
    return Path(*fixed), matches


def _walk(folder: Path, report: Callable[[Problem], None]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        report(Problem(str(error.filename), f"the folder cannot be read ({error.strerror})"))

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def _read(path: Path, source: str, text_column: str | None, max_bytes: int) -> Iterator[Section | Problem]:
    """The sections of one file; whatever is wrong with it comes out as a problem."""
    empty = True
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError("not a regular file")
        suffix = path.suffix.lower()
        if suffix in _ROWS:
            items = _ROWS[suffix](path, source, max_bytes, text_column)
        elif status.st_size > max_bytes:
            raise InputError(f"{status.st_size:,} bytes are more than max_bytes={max_bytes:,}")
        else:
            items = _DOCUMENTS[suffix](path.read_bytes(), source)
        for item in items:
            empty = empty and (not item.text.strip() if isinstance(item, Section) else not item.skipped)
            yield item
        if empty:
            raise InputError("the file is empty")
    except MissingExtraError:
        raise
    except OSError as error:
        yield Problem(source, f"cannot be read ({error.strerror or error})")
    except InputError as error:
        yield Problem(source, str(error))
    except Exception as error:  # a parser of hostile files fails in ways that cannot be listed; the others must load
        logger.debug("Reading %s failed", path, exc_info=True)
        yield Problem(source, f"cannot be read ({type(error).__name__}: {error})")


def _cut(section: Section, source: str, numbers: Iterator[int], chunking: Chunking | None) -> Iterator[Passage]:
    metadata = {"source": source, **section.metadata}
    title, stem = section.title[:_LONGEST_TITLE], source
    if section.row is not None:
        stem, numbers = section.id or f"{source}#{section.row:04d}", itertools.count(1)
        if chunking is None or count_words(section.text) <= 2 * chunking.words:
            yield Passage(stem, section.text, title, metadata)
            return
    for start, end in chunks(section.text, chunking) if chunking else _whole(section.text):
        offsets = {"start": section.start + start, "end": section.start + end}
        yield Passage(f"{stem}#{next(numbers):04d}", section.text[start:end], title, metadata | offsets)


def _whole(text: str) -> list[tuple[int, int]]:
    body = text.strip()
    start = text.find(body)
    return [(start, start + len(body))] if body else []
