"""From ranked hits to the context of a prompt: without duplicates, inside a token budget, with the evidence kept."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np

from rerankit.errors import InputError
from rerankit.rag.sentences import sentences
from rerankit.types import Hit, Passage

__all__ = ["Block", "Context", "CountTokens", "Dropped", "Order", "PackOptions", "estimate_tokens", "pack"]

Order = Literal["rank", "lost_in_the_middle", "source"]
CountTokens: TypeAlias = Callable[[str], int]

_SHINGLE = 5
_NEAR_DUPLICATE = 0.9
_NEGATIONS = frozenset(("no", "not", "never", "none", "without", "cannot"))


class PackOptions(TypedDict, total=False):
    """The options of :func:`pack` that a pipeline hands on."""

    budget: int
    count_tokens: CountTokens
    order: Order
    drop_duplicates: bool


@dataclass(frozen=True, slots=True)
class Block:
    """One numbered piece of the context: ``text == passage.text[start:end]``.

    Attributes:
        number: from 1, in printed order; what a citation ``[number]`` means.
        hit: where it comes from.
        text: the passage, or the part of it that fits.
        start: where ``text`` begins in the passage's text, in characters.
        end: where it ends, exclusive.
    """

    number: int
    hit: Hit
    text: str
    start: int
    end: int

    @property
    def passage(self) -> Passage:
        """The whole passage."""
        return self.hit.passage

    @property
    def is_cut(self) -> bool:
        """Whether something of the passage is missing."""
        return len(self.text) < len(self.passage.text.strip())

    def __str__(self) -> str:
        title = " ".join(self.passage.title.split())
        return f"[{self.number}] {title}\n{self.text}" if title else f"[{self.number}] {self.text}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A hit that did not make it into the context, and why."""

    hit: Hit
    reason: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a generator reads.

    Attributes:
        blocks: in printed order.
        tokens: of :attr:`text`, by the counter that ``pack`` was given.
        dropped: the hits left out, each with its reason.
    """

    blocks: tuple[Block, ...] = ()
    tokens: int = 0
    dropped: tuple[Dropped, ...] = ()

    @property
    def text(self) -> str:
        """The blocks, one after the other, an empty line between them."""
        return "\n\n".join(map(str, self.blocks))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary; passages are named by their ids."""
        return {
            "blocks": [
                {"number": b.number, "passage_id": b.hit.id, "start": b.start, "end": b.end, "text": b.text}
                for b in self.blocks
            ],
            "tokens": self.tokens,
            "dropped": [{"passage_id": d.hit.id, "reason": d.reason} for d in self.dropped],
        }


def estimate_tokens(text: str) -> int:
    """A cheap estimate of sub-word tokens: 1.3 per word, but at least one per 4.5 bytes (scripts without spaces, code).

    Pass the generator's own tokenizer to :func:`pack` where the budget has to be exact.
    """
    return math.ceil(max(1.3 * len(text.split()), len(text.encode("utf-8", "replace")) / 4.5))


def pack(
    hits: Sequence[Hit],
    *,
    budget: int = 1500,
    count_tokens: CountTokens = estimate_tokens,
    order: Order = "rank",
    drop_duplicates: bool = True,
    limit: int | None = None,
) -> Context:
    """Choose, cut and number passages.

    Hits are taken best first as long as they fit. One that does not fit is cut at sentence borders around its best
    evidence span (its beginning if it has none); one of which no sentence fits is dropped, except the very first, which
    is then cut at a word. ``Context.tokens`` never exceeds ``budget``.

    Args:
        hits: best first.
        budget: largest number of tokens of ``Context.text``.
        count_tokens: how many tokens a text has; should not shrink when text is added.
        order: how the blocks are printed: ``rank``; ``lost_in_the_middle`` puts the best at both ends, where models
            read best (Liu et al., 2023, arXiv:2307.03172); ``source`` keeps passages of one source together and in
            their own order (metadata ``source``, ``page``, ``start``).
        drop_duplicates: leave out a passage if nine tenths of its word 5-grams, its title's included, are in what is
            shown of a better one and the others hold neither a number nor a negation.
        limit: largest number of blocks; a hit that is dropped makes room for the next one.

    Raises:
        InputError: ``budget`` or ``limit`` is no number of at least 1, or ``order`` is unknown.
    """
    if not _is_size(budget) or not (limit is None or _is_size(limit)):
        raise InputError(
            f"A context needs a budget and a limit of at least 1, got {budget!r} tokens and {limit!r} blocks"
        )
    if order not in get_args(Order):
        raise InputError(f"order is one of {', '.join(get_args(Order))}; got {order!r}")
    packer = _Packer(budget, count_tokens, order, drop_duplicates)
    for hit in hits:
        if packer.size == limit:
            break
        packer.offer(hit)
    return packer.context()


def _is_size(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and bool(value >= 1)


class _Packer:
    def __init__(self, budget: int, count_tokens: CountTokens, order: Order, drop_duplicates: bool) -> None:
        self._budget, self._count, self._order = budget, count_tokens, order
        self._drop_duplicates = drop_duplicates
        self._kept: list[Block] = []
        self._known: list[frozenset[tuple[str, ...]]] = []
        self._dropped: list[Dropped] = []

    @property
    def size(self) -> int:
        return len(self._kept)

    def offer(self, hit: Hit) -> None:
        reason = self._refusal(hit) or self._add(hit)
        if reason:
            self._dropped.append(Dropped(hit, reason))

    def context(self) -> Context:
        blocks = _ordered(self._kept, self._order)
        return Context(blocks, self._count(_text(blocks)) if blocks else 0, tuple(self._dropped))

    def _refusal(self, hit: Hit) -> str:
        if not hit.text.strip():
            return "empty"
        if not self._drop_duplicates:
            return ""
        new = _shingles(hit, hit.text)
        for block, known in zip(self._kept, self._known, strict=True):
            if _says_nothing_new(new, known):
                return f"duplicate of {block.hit.id}"
        return ""

    def _add(self, hit: Hit) -> str:
        span = self._whole(hit) or self._excerpt(hit)
        if span is None:
            return "no room in the token budget"
        block = _block(hit, *span)
        self._kept.append(block)
        if self._drop_duplicates:
            self._known.append(_shingles(hit, block.text))
        return ""

    def _fits(self, hit: Hit, start: int, end: int) -> bool:
        """Tried in printed order, since the numbers and with them the tokens depend on it."""
        blocks = _ordered([*self._kept, _block(hit, start, end)], self._order)
        return self._count(_text(blocks)) <= self._budget

    def _whole(self, hit: Hit) -> tuple[int, int] | None:
        text = hit.text
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        return (start, end) if self._fits(hit, start, end) else None

    def _excerpt(self, hit: Hit) -> tuple[int, int] | None:
        spans = sentences(hit.text)
        focus = hit.evidence[0].start if hit.evidence else 0
        first = last = next((i for i, (_, end) in enumerate(spans) if end > focus), len(spans) - 1)
        if not self._fits(hit, *spans[first]):
            return None if self._kept else self._words(hit, *spans[first])
        grown = True
        while grown:
            grown = False
            if last + 1 < len(spans) and self._fits(hit, spans[first][0], spans[last + 1][1]):
                last, grown = last + 1, True
            if first > 0 and self._fits(hit, spans[first - 1][0], spans[last][1]):
                first, grown = first - 1, True
        return spans[first][0], spans[last][1]

    def _words(self, hit: Hit, start: int, end: int) -> tuple[int, int] | None:
        """As many whole words of a sentence as fit, from the evidence on."""
        if hit.evidence and start < hit.evidence[0].start < end:
            start = hit.evidence[0].start
        words = [match.span() for match in re.compile(r"\S+").finditer(hit.text, start, end)]
        low, high = 0, len(words)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits(hit, words[0][0], words[middle - 1][1]) else (low, middle - 1)
        return (words[0][0], words[low - 1][1]) if low else None


def _block(hit: Hit, start: int, end: int) -> Block:
    return Block(0, hit, hit.text[start:end], start, end)


def _text(blocks: Sequence[Block]) -> str:
    return Context(tuple(blocks)).text


def _ordered(blocks: Sequence[Block], order: Order) -> tuple[Block, ...]:
    """Blocks (best first) in printed order, numbered."""
    arranged = list(blocks)
    if order == "lost_in_the_middle":
        arranged = arranged[::2] + arranged[1::2][::-1]
    elif order == "source":
        best = {_source(block): place for place, block in reversed(list(enumerate(arranged)))}
        arranged.sort(key=lambda block: (best[_source(block)], _position(block)))
    return tuple(dataclasses.replace(block, number=number) for number, block in enumerate(arranged, 1))


def _source(block: Block) -> str:
    return str(block.passage.metadata.get("source", block.passage.id))


def _position(block: Block) -> tuple[float, ...]:
    found = [block.passage.metadata.get(key, 0) for key in ("page", "start")]
    return tuple(float(value) if isinstance(value, (int, float)) else 0.0 for value in found)


def _shingles(hit: Hit, text: str) -> frozenset[tuple[str, ...]]:
    """Word 5-grams of the title, which tells short texts apart, and of ``text``: what is shown of the passage."""
    found: set[tuple[str, ...]] = set()
    for part in filter(str.strip, (hit.passage.title, text)):
        folded = part.casefold().replace("n't", " not")
        words = re.findall(r"\w+", folded) or folded.split()
        found |= {tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}
    return frozenset(found)


def _says_nothing_new(shingles: frozenset[tuple[str, ...]], known: frozenset[tuple[str, ...]]) -> bool:
    new = shingles - known
    few = len(new) <= (1 - _NEAR_DUPLICATE) * len(shingles)
    return few and not any(word.isdigit() or word in _NEGATIONS for shingle in new for word in shingle)
