"""Passage, Hit, Ranking, Usage: the plain values that travel through rerankit.

All are frozen, compare by value, pickle, and convert to JSON-ready dictionaries and back. Identity of a candidate
is its *position* in the input, never its text or id, so duplicates survive.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError

__all__ = ["Hit", "HitStatus", "Passage", "Ranking", "RankingStatus", "Scale", "Span", "Usage", "as_passages"]

Scale: TypeAlias = str
"""What a score means: ``logit``, ``probability``, ``wins``, ``attention``, ``cosine``, ``order``, ``maxsim``, ``bm25``,
``z-score``, ``exp``, ``rrf``, ``points``, ``rating``, or a plug-in's own word. Only ``probability`` can be compared
between models."""

HitStatus = Literal["scored", "cached", "unscored"]
RankingStatus = Literal["scored", "partial", "fallback"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Passage:
    """One candidate: what a first stage found.

    Attributes:
        id: the caller's identifier; a string.
        text: the passage itself.
        title: shown to models before the text; not part of evidence offsets.
        metadata: JSON-like values, copied on construction.
        score: first-stage score, higher is better, or None.
        embedding: first-stage vector, shape ``[dim]``, or None. Not part of equality, hash or ``repr``.
        embedding_model: ``model_id`` of the embedder that made ``embedding``. A model uses the vector only if the two
            ids agree, or if this is empty: then the caller vouches for it.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    score: float | None = None
    embedding: NDArray[np.floating] | None = field(default=None, compare=False, repr=False)
    embedding_model: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "text", "title"):
            if not isinstance(value := getattr(self, name), str):
                raise InputError(f"Passage.{name} must be a string, got {type(value).__name__}: {value!r:.80}")
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"Passage.metadata must be a mapping, got {type(self.metadata).__name__} ({self.id!r})")
        object.__setattr__(self, "metadata", dict(self.metadata))
        if self.score is not None:
            object.__setattr__(self, "score", _number(self.score, self.id))
        if self.embedding is not None:
            object.__setattr__(self, "embedding", _vector(self.embedding, self.id))

    def replace(self, **changes: Any) -> Passage:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary; the embedding is left out (it belongs to the store)."""
        return {
            "id": self.id,
            "text": self.text,
            "title": self.title,
            "metadata": dict(self.metadata),
            "score": self.score,
            "embedding_model": self.embedding_model,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Passage:
        """Inverse of :meth:`to_dict`; unknown keys are an error, so that a typo is not silently lost."""
        known = {item.name for item in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise InputError(f"Unknown passage field(s) {unknown}; known: {sorted(known)}")
        return _built(cls, data)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters ``[start, end)`` of a passage's text, with the weight they carried."""

    start: int
    end: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost. Usages add up; shared work of a batched call is split without loss or double counting.

    Attributes:
        seconds: wall time.
        forward_passes: model batches run locally.
        input_tokens, output_tokens: tokens read and generated (padding not counted).
        llm_calls: requests to a generating model.
        cache_hits: (query, passage window) pairs answered by the score cache.
        cache_misses: pairs that had to be scored although a cache was there.
        cost: money, in the currency of the endpoint's price list, 0 if unknown.
    """

    seconds: float = 0.0
    forward_passes: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    llm_calls: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)))

    @property
    def cache_hit_rate(self) -> float | None:
        """Share of pairs found in the score cache, or None without a cache."""
        asked = self.cache_hits + self.cache_misses
        return self.cache_hits / asked if asked else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage in its new place.

    Attributes:
        passage: the caller's own passage.
        rank: new position, from 1.
        score: on the ranking's scale; None when the model did not score it.
        prior_rank: position in the input, from 1.
        prior_score: the first-stage score.
        probability: calibrated probability of relevance, or None without a calibrator.
        status: ``scored``, ``cached`` (all of it came from the score cache) or ``unscored`` (deadline, cut by an
            earlier stage, or an empty passage, which carries the floor score).
        truncated_tokens: tokens of the passage that no model saw.
        evidence: spans of ``passage.text`` that carried the score, best first.
    """

    passage: Passage
    rank: int
    score: float | None
    prior_rank: int
    prior_score: float | None = None
    probability: float | None = None
    status: HitStatus = "scored"
    truncated_tokens: int = 0
    evidence: tuple[Span, ...] = ()

    @property
    def id(self) -> str:
        """The passage's id."""
        return self.passage.id

    @property
    def text(self) -> str:
        """The passage's text."""
        return self.passage.text

    @property
    def moved(self) -> int:
        """Places gained (positive) or lost (negative) against the input order."""
        return self.prior_rank - self.rank

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["passage"] = self.passage.to_dict()
        data["evidence"] = [dataclasses.asdict(span) for span in self.evidence]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Hit:
        """Inverse of :meth:`to_dict`."""
        spans = tuple(_built(Span, span) for span in data.get("evidence", ()))
        return _built(cls, {**data, "passage": Passage.from_dict(data.get("passage", {})), "evidence": spans})


@dataclass(frozen=True, slots=True)
class Ranking(Sequence[Hit]):
    """The answer to one ``rank`` call: hits, best first, and how they came to be.

    Attributes:
        query: the query as given.
        hits: best first. All candidates, unless ``top_k`` or a slice cut the view.
        model: which reranker made the order.
        scale: the meaning of ``Hit.score``.
        status: ``scored`` (all as planned), ``partial`` (a deadline left a marked tail) or ``fallback``
            (the model failed; the input order was kept).
        reason: why the status is not ``scored``; empty otherwise.
        usage: what it cost.
        stages: the whole ranking of every stage, for composed rerankers.
        trace: what a language model wrote beside its answers, in the order it was asked: first what had to be repaired,
            then per prompt the ids of the passages it saw and its reasoning. Empty where a model wrote none.
    """

    query: str
    hits: tuple[Hit, ...]
    model: str
    scale: Scale
    status: RankingStatus = "scored"
    reason: str = ""
    usage: Usage = field(default_factory=Usage)
    stages: tuple[Ranking, ...] = ()
    trace: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> Ranking: ...

    def __getitem__(self, index: int | slice) -> Hit | Ranking:
        if isinstance(index, slice):
            return dataclasses.replace(self, hits=self.hits[index])
        return self.hits[index]

    def with_usage(self, usage: Usage) -> Ranking:
        """The same ranking with its cost filled in."""
        return dataclasses.replace(self, usage=usage)

    @property
    def passages(self) -> list[Passage]:
        """The passages in their new order."""
        return [hit.passage for hit in self.hits]

    def above(self, probability: float) -> Ranking:
        """Only the hits whose calibrated probability is at least ``probability``.

        Raises:
            InputError: if the ranking is not calibrated; raw scores of different models are not comparable.
        """
        if not 0.0 <= probability <= 1.0:
            raise InputError(f"A probability threshold lies between 0 and 1, got {probability}")
        if any(hit.probability is None and hit.status != "unscored" for hit in self.hits):
            raise InputError(
                f"The scores of {self.model!r} are not calibrated, so a probability threshold has no meaning. "
                "Fit one with rerankit.Calibrator.fit(...) and pass it as load(..., calibrator=...)."
            )
        kept = tuple(hit for hit in self.hits if hit.probability is not None and hit.probability >= probability)
        return dataclasses.replace(self, hits=kept)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready dictionary."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["hits"] = [hit.to_dict() for hit in self.hits]
        data["usage"] = self.usage.to_dict()
        data["stages"] = [stage.to_dict() for stage in self.stages]
        data["trace"] = list(self.trace)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Ranking:
        """Inverse of :meth:`to_dict`."""
        return _built(
            cls,
            {
                **data,
                "hits": tuple(Hit.from_dict(hit) for hit in data.get("hits", ())),
                "usage": _built(Usage, data.get("usage", {})),
                "stages": tuple(cls.from_dict(stage) for stage in data.get("stages", ())),
                "trace": tuple(data.get("trace", ())),
            },
        )

    def to_trec(self, run_id: str = "rerankit", query_id: str = "1") -> str:
        """The ranking as lines of a TREC run: ``query-id Q0 passage-id rank score run-id``.

        Evaluation tools sort by score, so the score column is ``len - rank + 1``: the order survives whatever the
        scale, ties and unscored tails included.

        Raises:
            InputError: an id is empty, holds white space or occurs twice, which the format cannot carry.
        """
        ids = [hit.id for hit in self.hits]
        for name in (run_id, query_id, *ids):
            if not name or any(character.isspace() for character in name):
                raise InputError(f"A TREC run cannot hold the id {name!r}: it is empty or has white space")
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise InputError(f"A TREC run cannot hold the passage id {twice!r} twice for query {query_id!r}")
        count = len(ids)
        return "".join(f"{query_id} Q0 {name} {rank} {count - rank + 1} {run_id}\n" for rank, name in enumerate(ids, 1))


def _number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"Passage.score must be a number, got {value!r:.80} (passage {name!r})") from error


def _vector(value: Any, name: str) -> NDArray[np.floating]:
    vector = np.asarray(value)
    if vector.ndim != 1 or vector.dtype.kind not in "fiu":
        raise InputError(f"Passage.embedding must be one vector of numbers, got {value!r:.80} (passage {name!r})")
    return vector if vector.dtype.kind == "f" else vector.astype(np.float32)


def _built(kind: type[T], values: Mapping[str, Any]) -> T:
    """A value from a dictionary that may come from anywhere."""
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"This is no {kind.__name__}: {error}") from error


def as_passages(passages: Sequence[Passage | str]) -> list[Passage]:
    """Passages from passages or plain strings; a string's id is its position from 0.

    Raises:
        InputError: an element is neither, or ``passages`` is itself a string.
    """
    if isinstance(passages, (str, bytes)):
        raise InputError("passages must be a sequence of passages or strings, not one string; wrap it in a list")
    if not isinstance(passages, Iterable):
        raise InputError(f"passages must be a sequence of passages or strings, got {type(passages).__name__}")
    result = []
    for position, item in enumerate(passages):
        if isinstance(item, Passage):
            result.append(item)
        elif isinstance(item, str):
            result.append(Passage(str(position), item))
        else:
            raise InputError(f"Passage {position} must be a Passage or a string, got {type(item).__name__}")
    return result
