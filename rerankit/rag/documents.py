"""Reading one document (text, Markdown, HTML, PDF) as titled sections of plain text."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rerankit.errors import InputError, require
from rerankit.rerankers.prepare import clean

__all__ = ["UTF_16_MARKS", "Problem", "Section", "decode", "read_html", "read_markdown", "read_pdf", "read_text"]


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a source that is chunked on its own.

    Attributes:
        text: plain text, cleaned.
        title: of the section, with that of the document before it.
        start: where ``text`` begins in the source's text.
        row: the line of a file of rows, from 1, or None.
        id: the row's own id, or empty.
        metadata: what else the source says.
    """

    text: str
    title: str = ""
    start: int = 0
    row: int | None = None
    id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a source that could not be read as it stands.

    Attributes:
        source: path of the file or folder.
        reason: what is wrong.
        line: line or page, from 1, or None for the whole source.
        skipped: False if the content was used all the same.
    """

    source: str
    reason: str
    line: int | None = None
    skipped: bool = True

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return f"{place}: {self.reason}{'; skipped' if self.skipped else ''}"


UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BINARY = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*)$")
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$\n?", re.DOTALL | re.MULTILINE)
_FRONT_TITLE = re.compile(r"^title:(.*)$", re.MULTILINE)
_LONGEST_TITLE = 100


def decode(data: bytes) -> tuple[str, str]:
    """Text and its encoding: UTF-8, UTF-16 with a mark, else Windows-1252, else Latin-1.

    Raises:
        InputError: the bytes are no text.
    """
    marked = data.startswith(UTF_16_MARKS)
    for encoding in ("utf-16",) if marked else ("utf-8-sig", "cp1252", "latin-1"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        sample = text[:100_000]
        if (strange := len(_BINARY.findall(sample))) > 3 and strange * 100 > len(sample):
            raise InputError("the content is binary, not text")
        return text, encoding.removesuffix("-sig")
    raise InputError("the content is not valid UTF-16 text")


def _decoded(data: bytes, source: str) -> tuple[str, list[Problem]]:
    text, encoding = decode(data)
    doubtful = encoding in {"cp1252", "latin-1"}
    guess = [Problem(source, f"not UTF-8; read as {encoding}", skipped=False)] if doubtful else []
    return clean(text), guess


def read_text(data: bytes, source: str) -> Iterator[Section | Problem]:
    """Plain text; a short first line above an empty one is the title."""
    text, problems = _decoded(data, source)
    yield from problems
    first, _, rest = text.partition("\n")
    headed = 0 < len(first.strip()) <= _LONGEST_TITLE and rest.lstrip(" \t\r").startswith("\n")
    titled = headed and first.rstrip()[-1] not in ".!?:;,"
    start = len(first) if titled else 0
    yield Section(text[start:], first.strip() if titled else "", start)


def read_markdown(data: bytes, source: str) -> Iterator[Section | Problem]:
    """Markdown, cut at its headings, which become titles ("Document > Section > Subsection")."""
    text, problems = _decoded(data, source)
    yield from problems
    front = _FRONT_MATTER.match(text)
    title = _FRONT_TITLE.search(front[1]) if front else None
    yield from by_heading(text, title[1].strip(" \t\r\"'") if title else "", front.end() if front else 0)


def by_heading(text: str, title: str = "", start: int = 0, *, fences: bool = True) -> Iterator[Section]:
    """The sections of a text with ``#`` headings; with ``fences``, those inside fenced code do not count."""
    path = [(0, title)] if title else []
    body, fenced = start, False
    for begin, end in _line_spans(text, start):
        line = text[begin:end]
        if fences and _FENCE.match(line):
            fenced = not fenced
        heading = None if fenced else _HEADING.match(line.rstrip())
        if not heading:
            continue
        yield Section(text[body:begin], _joined(path), body)
        level = len(heading[1])
        path = [(depth, name) for depth, name in path if depth < level]
        path.append((level, _name(heading[2])))
        body = end
    yield Section(text[body:], _joined(path), body)


def _name(heading: str) -> str:
    """A heading without the ``#`` that may close it; "C#" keeps its own."""
    opened = heading.rstrip("#")
    return opened.strip() if opened[-1:].isspace() else heading.strip()


def _line_spans(text: str, start: int) -> Iterator[tuple[int, int]]:
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        yield start, end
        start = end


def _joined(path: list[tuple[int, str]]) -> str:
    """Titles from the outside in, each once: a front-matter title is often the first heading again."""
    return " > ".join(dict.fromkeys(name for _, name in path if name))


_DROPPED = frozenset({"script", "style", "nav", "noscript", "template", "svg", "iframe", "object", "head"})
_UNCLOSED = re.compile(rb"<(?=[^<>]*(?:<|\Z))")
_MANY_UNCLOSED = 1000
_MOST_TAGS = 200_000
"""Parsing takes seconds for so many, and nothing stops it once it has begun."""
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]|header|"
    "hr|li|main|ol|p|pre|section|summary|table|tbody|tfoot|thead|tr|ul"
)


def read_html(data: bytes, source: str) -> Iterator[Section | Problem]:
    """The visible text of a page, cut at its headings. Nothing is run and nothing is fetched.

    Raises:
        InputError: the content is binary, or has too many tags.
    """
    bs4 = require("bs4", extra="files", purpose="Reading HTML files")
    decode(data)  # refuses binary content; the page's own charset declaration decides below
    data = _harmless(data)
    if (tags := data.count(b"<")) > _MOST_TAGS:
        raise InputError(f"the page has {tags:,} tags; at most {_MOST_TAGS:,} are read, so split it or save it as text")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an XHTML declaration, or a text that resembles a file name
        page = bs4.BeautifulSoup(data, "html.parser")
    title = " ".join(page.title.get_text().split())[:_LONGEST_TITLE] if page.title else ""
    lines = (line.strip(" |") for line in clean("".join(_visible(page, bs4.NavigableString))).split("\n"))
    yield from by_heading(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), clean(title), fences=False)


def _harmless(data: bytes) -> bytes:
    """Without comments, and without masses of unclosed tags: Python's parser takes quadratic time over both.

    As in browsers, an unclosed comment runs to the end.
    """
    kept, position = [], 0
    while (start := data.find(b"<!--", position)) >= 0:
        kept.append(data[position:start])
        end = data.find(b"-->", start + 2)
        position = len(data) if end < 0 else end + 3
    data = b"".join([*kept, data[position:]])
    return _UNCLOSED.sub(b"&lt;", data) if len(_UNCLOSED.findall(data)) > _MANY_UNCLOSED else data


def _visible(page: Any, text_type: type) -> Iterator[str]:
    """Pieces of text and line breaks. A loop over a stack: pages may be nested deeper than Python may recurse."""
    stack = [(iter(page.children), "")]
    while stack:
        children, closing = stack[-1]
        node = next(children, None)
        if node is None:
            yield closing
            stack.pop()
        elif isinstance(node, text_type):
            if type(node) is text_type:  # its subclasses are comments, declarations and the like
                yield re.sub(r"\s+", " ", str(node))
        elif node.name not in _DROPPED:
            opening, closing = _breaks(node.name)
            yield opening
            stack.append((iter(node.children), closing))


def _breaks(name: str) -> tuple[str, str]:
    """What stands before and after the text of a tag."""
    if name == "br":
        return "\n", ""
    if name in {"td", "th"}:
        return "", " | "
    if not _BLOCK.fullmatch(name):
        return "", ""
    return "\n\n" + ("#" * int(name[1]) + " " if name[1:].isdigit() else ""), "\n\n"


def read_pdf(data: bytes, source: str) -> Iterator[Section | Problem]:
    """A PDF page by page; ``start`` counts from the beginning of the page, which is in the metadata.

    Raises:
        InputError: it is no PDF, is encrypted, or has no text.
    """
    pypdf = require("pypdf", extra="files", purpose="Reading PDF files")
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # its lines do not say which file they are about
    if not data:
        return
    if b"%PDF-" not in data[:1024]:
        raise InputError("this is no PDF, whatever its name; rename it after what it is, or get it again")
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise InputError("the PDF is encrypted; remove its password first")
    title = clean(str((reader.metadata or {}).get("/Title") or "")).strip()[:_LONGEST_TITLE]
    found = False
    for number, page in enumerate(reader.pages, 1):
        try:
            text = clean(page.extract_text())
        except Exception as error:  # a damaged page can fail in any of pypdf's many ways
            yield Problem(source, f"the page cannot be read ({type(error).__name__}: {error})", number)
            continue
        found = found or bool(text.strip())
        yield Section(text, title, metadata={"page": number})
    if not found:
        raise InputError("the PDF has no text, perhaps it is a scan; run text recognition on it first")
