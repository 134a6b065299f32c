"""How a model frames its input: ``[CLS] query [SEP] passage [SEP]`` and its relatives, learnt from the tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError

if TYPE_CHECKING:
    import tokenizers


class Piece(NamedTuple):
    """Consecutive tokens: ids and segment (token type) ids, int32 ``[t]`` each."""

    ids: NDArray[np.int32]
    types: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Layout:
    """The fixed tokens around one text (``second_type`` is unused) or a pair.

    Attributes:
        prefix, middle, suffix: fixed tokens before the first text, between the two, and at the end.
        first_type, second_type: segment ids of the texts.
    """

    prefix: Piece
    middle: Piece
    suffix: Piece
    first_type: int = 0
    second_type: int = 0

    @property
    def fixed_tokens(self) -> int:
        """How many tokens the frame itself takes."""
        return len(self.prefix.ids) + len(self.middle.ids) + len(self.suffix.ids)

    def without_types(self) -> Layout:
        """The same for models that know one segment only."""
        return Layout(piece(self.prefix.ids), piece(self.middle.ids), piece(self.suffix.ids))

    def head(self, query: NDArray[np.int32]) -> Piece:
        """Everything in front of the passage; the same for all passages of a query."""
        types = np.full(len(query), self.first_type, np.int32)
        return Piece(
            np.concatenate([self.prefix.ids, query, self.middle.ids]),
            np.concatenate([self.prefix.types, types, self.middle.types]),
        )


class Entry(NamedTuple):
    """One model input in three parts; ``body`` is the only one that truncation may cut.

    The last ``unattended`` tokens are computed but masked out for all others.
    """

    head: Piece
    body: NDArray[np.int32]
    body_type: int
    tail: Piece
    unattended: int = 0

    def size(self) -> int:
        """Tokens in all."""
        return len(self.head.ids) + len(self.body) + len(self.tail.ids)


def piece(ids: Sequence[int] | NDArray[np.int32], segment: int = 0) -> Piece:
    """A piece of one segment."""
    return Piece(np.array(ids, np.int32), np.full(len(ids), segment, np.int32))


def probe(tokenizer: tokenizers.Tokenizer, *, pair: bool) -> Layout:
    """Learn the frame by encoding a tiny text (or pair) and looking at what was added around it.

    Raises:
        ModelError: the tokenizer has no frame for pairs that keeps query before passage.
    """
    for word in ("a", "the", "0", "."):
        encoding = tokenizer.encode(word, word) if pair else tokenizer.encode(word)
        if {0, 1} <= set(encoding.sequence_ids) or (not pair and 0 in encoding.sequence_ids):
            return _split(encoding, pair=pair)
    raise ModelError("The tokenizer does not tell the two texts of a pair apart, so it cannot frame query and passage")


def _split(encoding: tokenizers.Encoding, *, pair: bool) -> Layout:
    sources = encoding.sequence_ids
    ids, types = np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32)
    first, first_end = _extent(sources, 0)
    second, second_end = _extent(sources, 1) if pair else (first_end, first_end)
    if second < first_end:
        raise ModelError("The tokenizer puts the passage before the query; such pair layouts are not supported")

    def cut(start: int, end: int) -> Piece:
        return Piece(ids[start:end], types[start:end])

    return Layout(
        prefix=cut(0, first),
        middle=cut(first_end, second),
        suffix=cut(second_end, len(ids)),
        first_type=int(types[first]),
        second_type=int(types[second]) if pair else 0,
    )


def _extent(sources: Sequence[int | None], which: int) -> tuple[int, int]:
    positions = [i for i, source in enumerate(sources) if source == which]
    return positions[0], positions[-1] + 1
