"""Training lists as vectors: every distinct query and passage encoded once, lists as rows of one matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.rerankers.compressed_inputs import CompressedInputs, PassageVectors, Query
from rerankit.training.lists import TrainingList
from rerankit.types import Passage

__all__ = ["Bank", "Item", "build_bank"]

_GROUP = 256
"""Texts encoded at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A list as numbers.

    Attributes:
        query: its place among the bank's queries.
        rows: int64 ``[n]``: the bank's vectors of its passages; of long ones, the window nearest to the query.
        grades: float32 ``[n]``.
        teacher: float32 ``[n]``, of mean 0 and standard deviation 1; None without a teacher.
        weight: of the list.
        words: float32 ``[n]``: how well each passage matches the query's words; None where the model does not ask.
    """

    query: int
    rows: NDArray[np.int64]
    grades: NDArray[np.float32]
    teacher: NDArray[np.float32] | None
    weight: float
    words: NDArray[np.float32] | None = None


@dataclass(slots=True)
class Bank:
    """Lists over one encoder.

    Attributes:
        name: of the data.
        items: the lists.
        queries: the distinct ones, encoded.
        query_texts: the same as texts.
        vectors: unit vectors of all windows, float32 ``[N, dim]``.
        texts: those windows as texts; empty where the encoder stays as it is.
        fingerprint: names queries, vectors, grades and teacher.
    """

    name: str
    items: list[Item]
    queries: list[Query]
    query_texts: list[str]
    vectors: NDArray[np.float32]
    texts: list[str]
    fingerprint: str = field(default="")

    def __post_init__(self) -> None:
        digest = hashlib.sha256("\n".join(self.query_texts).encode("utf-8", "replace") + self.vectors.tobytes())
        for item in self.items:
            digest.update(f"{item.query} {item.weight}".encode())
            for column in (item.rows, item.grades, item.teacher, item.words):
                digest.update(b"-" if column is None else column.tobytes())
        self.fingerprint = digest.hexdigest()[:16]

    def cosines(self, item: Item) -> NDArray[np.float32]:
        """Of the query and each passage, ``[n]``."""
        return np.asarray(self.vectors[item.rows] @ self.queries[item.query].vector)

    def hard(self) -> list[int]:
        """The lists that retrieval gets wrong: a passage comes before one of a better grade (or teacher's score)."""
        return [i for i, item in enumerate(self.items) if _misordered(self.cosines(item), _target(item))]


def build_bank(
    name: str,
    lists: Sequence[TrainingList],
    inputs: CompressedInputs,
    *,
    keep_texts: bool = False,
    words: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Bank:
    """Encode what the lists hold.

    Args:
        name: of the data, for messages and metrics.
        lists: at least one.
        inputs: the encoder, and where its vectors are kept: with a file, another run finds them there.
        keep_texts: the encoder will be trained: keep the texts, and do not take vectors from the passages.
        words: match words too.
        progress: called with how many texts are done, of how many.

    Raises:
        InputError: there is no list, or a passage's vector is refused.
    """
    if not lists:
        raise InputError(f"There is no list in {name}")
    texts = list(dict.fromkeys(item.query for item in lists))
    distinct = {_key(passage): passage for item in lists for passage in item.passages}
    count, done = len(texts) + len(distinct), 0
    queries: list[Query] = []
    for start in range(0, len(texts), _GROUP):
        queries += [_lean(query) for query in inputs.queries(texts[start : start + _GROUP])]
        progress(done := len(queries), count)
    found: list[PassageVectors] = []
    passages = list(distinct.values())
    for start in range(0, len(passages), _GROUP):
        found += _vectors(passages[start : start + _GROUP], inputs, keep_texts)
        progress(done + len(found), count)
    first = np.cumsum([0, *(len(one.windows) for one in found)])
    vectors = np.concatenate([one.windows for one in found])
    places = {key: (first[i], one) for i, (key, one) in enumerate(zip(distinct, found, strict=True))}
    by_text = {text: i for i, text in enumerate(texts)}
    items = [_item(item, by_text[item.query], queries[by_text[item.query]], places) for item in lists]
    if words:
        matches = [inputs.matches(item.query, item.passages) for item in lists]
        items = [replace(item, words=row) for item, row in zip(items, matches, strict=True)]
    windows = [text for passage in passages for text in inputs.texts(passage)[0]] if keep_texts else []
    return Bank(name, items, queries, texts, vectors, windows)


def _vectors(passages: Sequence[Passage], inputs: CompressedInputs, fresh: bool) -> list[PassageVectors]:
    stored = [None if fresh else inputs.stored(passage) for passage in passages]
    missing = [passage for passage, vector in zip(passages, stored, strict=True) if vector is None]
    made = iter(inputs.encoded(missing))
    return [next(made) if vector is None else vector for vector in stored]


def _item(
    item: TrainingList, place: int, query: Query, places: dict[tuple[str, str], tuple[int, PassageVectors]]
) -> Item:
    rows = []
    for passage in item.passages:
        first, found = places[_key(passage)]
        rows.append(first + int(np.argmax(found.windows @ query.vector)))
    teacher = None if item.teacher is None else _standard(np.array(item.teacher, np.float64))
    return Item(place, np.array(rows, np.int64), np.array(item.grades, np.float32), teacher, item.weight)


def _standard(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scores of any scale with mean 0 and standard deviation 1; all 0 where they are equal."""
    spread = scores.std()
    return np.asarray((scores - scores.mean()) / (spread if spread > 1e-9 else 1.0), np.float32)


def _lean(query: Query) -> Query:
    """Token states at half the memory; there may be very many queries."""
    return Query(query.tokens.astype(np.float16), query.vector)


def _key(passage: Passage) -> tuple[str, str]:
    return passage.title, passage.text


def _target(item: Item) -> NDArray[np.float32]:
    return item.grades if item.teacher is None or item.grades.any() else item.teacher


def _misordered(cosines: NDArray[np.float32], target: NDArray[np.float32]) -> bool:
    ranked = target[np.argsort(-cosines, kind="stable")]
    return bool((np.diff(ranked) > 0).any())
