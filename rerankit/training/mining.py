"""Hard negatives for training lists, and a teacher's scores.

A reranker learns most from wrong passages that look right. ``mine`` takes those that dense retrieval finds, and leaves
out what is probably right and only was not judged: a candidate that the teacher scores above ``margin`` times the
relevant passage: TopK-PercPos of Moreira et al., "NV-Retriever: improving text embedding models with effective
hard-negative mining" (2024, arXiv:2407.15831), with their 95 %.

A percentage needs a zero. Probabilities, relevances and cosines have one. Other scores (logits, z-scores, BM25) may be
negative or have no fixed zero, and so may the cosine of a relevant passage be negative: there the lowest score of the
list counts as zero, so that neither shift nor stretch of the scale changes what is dropped.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError
from rerankit.models.protocols import Embedder
from rerankit.rag.chroma import ChromaRetriever
from rerankit.rerankers.base import Reranker
from rerankit.training.lists import TrainingList
from rerankit.training.lists_files import query_key
from rerankit.training.mining_search import Finder, Matrix, finder
from rerankit.types import Passage

__all__ = ["mine", "with_teacher"]

logger = logging.getLogger(__name__)

_WITH_ZERO = frozenset({"probability", "relevance", "cosine"})

T = TypeVar("T")


def mine(
    lists: Sequence[TrainingList],
    passages: Iterable[Passage] | ChromaRetriever,
    *,
    embedder: Embedder | None = None,
    teacher: Reranker | None = None,
    depth: int = 100,
    negatives: int = 15,
    margin: float | None = 0.95,
    skip_top: int = 0,
    random_share: float = 0.0,
    seed: int = 0,
    batch: int = 64,
    progress: Callable[[int], None] = lambda _: None,
    tell: Callable[[str], None] | None = None,
) -> list[TrainingList]:
    """The lists with up to ``negatives`` more passages of grade 0.

    Never a negative: a passage of the list itself, one that is relevant to the same query in any of the lists, or any
    passage with the text of one of these. The passages of a list come back in order of their cosine, which is their
    ``score``, and with their vectors; a teacher's scores are dropped, as the new passages have none (see
    :func:`with_teacher`). A list without a relevant passage stays as it is: nothing says what to stay below.

    Args:
        lists: of :func:`~rerankit.training.lists.read_lists`.
        passages: the corpus, or a store. Vectors that passages carry are used where they are the embedder's.
        embedder: finds candidates; the embedded model by default, and the store's own for a store.
        teacher: judges candidates and relevant passages. The lowest score of the relevant passages with the best grade
            is the one to stay below. By default the embedder's own cosine judges: that is quick, but leaves no
            negative which retrieval puts before the relevant passage, the very mistakes that a reranker is to mend. A
            better judge than the embedder keeps them.
        depth: candidates per list that are looked at.
        negatives: most new passages per list.
        margin: share of the relevant passage's score above which a candidate is dropped, 0 to 1; None keeps all.
        skip_top: so many of the nearest candidates are passed over unseen.
        random_share: share of the negatives that is drawn from the corpus at random, outside the candidates.
        seed: of that draw.
        batch: lists that are worked on together.
        progress: called with the number of lists just finished.
        tell: is given one sentence on lists that got fewer negatives than asked for; logged by default.

    Raises:
        InputError: a number is out of range, or there is no passage.
        StoreError: the store cannot be read.
    """
    check_whole(0, skip_top=skip_top, seed=seed)
    check_whole(1, depth=depth, negatives=negatives, batch=batch)
    _check_share(margin=1.0 if margin is None else margin, random_share=random_share)
    miner = _Miner(
        finder(passages, embedder), teacher, depth, skip_top, negatives, random_share, margin, seed, _relevant(lists)
    )
    mined: list[TrainingList] = []
    for group in _batches(lists, batch):
        mined += miner.mine(group)
        progress(len(group))
    asked = [len(new.passages) - len(old.passages) for new, old in zip(mined, lists, strict=True) if old.relevant]
    if short := sum(got < negatives for got in asked):
        (tell or logger.warning)(
            f"{short} of {len(asked)} lists got fewer than {negatives} negatives, {asked.count(0)} of them none: "
            "raise depth or margin, or take random ones too"
        )
    return mined


def with_teacher(
    lists: Sequence[TrainingList],
    reranker: Reranker | None = None,
    *,
    batch: int = 64,
    progress: Callable[[int], None] = lambda _: None,
) -> list[TrainingList]:
    """The lists with the scores that a reranker gives their passages, for distillation.

    Args:
        lists: grades play no part.
        reranker: the teacher; ``rerankit.load("default")`` by default, which needs neither labels nor a network. Its
            scores are taken as they are: those of the default are z-scores within each list.
        batch: lists per call.
        progress: called with the number of lists just scored.

    Raises:
        InputError: the reranker left passages unscored, such as a cascade does with what its first stage cuts.
        RerankitError: it failed.
    """
    check_whole(1, batch=batch)
    if reranker is None:
        import rerankit

        reranker = rerankit.load("default")
    taught: list[TrainingList] = []
    for group in _batches(lists, batch):
        scores = _scores(reranker, [(item.query, item.passages) for item in group])
        taught += [replace(item, teacher=tuple(row.tolist())) for item, row in zip(group, scores, strict=True)]
        progress(len(group))
    return taught


@dataclass(frozen=True)
class _Miner:
    """The settings of one call, checked."""

    finder: Finder
    teacher: Reranker | None
    depth: int
    skip_top: int
    negatives: int
    random_share: float
    margin: float | None
    seed: int
    relevant: dict[str, list[Passage]]

    def mine(self, group: Sequence[TrainingList]) -> list[TrainingList]:
        """One batch of lists."""
        lists = self._equipped([item for item in group if item.relevant])
        if not lists:
            return list(group)
        texts = [item.query for item in lists]
        vectors = self.finder.queries(texts)
        most = max(len(item.passages) + len(self.relevant[query_key(item.query)]) for item in lists)
        found = self.finder.find(texts, vectors, self.depth + self.skip_top + most)
        seen = [_Seen([*item.passages, *self.relevant[query_key(item.query)]]) for item in lists]
        near = [list(known.fresh(candidates)) for known, candidates in zip(seen, found, strict=True)]
        near = [candidates[self.skip_top : self.skip_top + self.depth] for candidates in near]
        kept = self._below(lists, near, vectors)
        mined = iter([self._extended(*row) for row in zip(lists, kept, seen, vectors, strict=True)])
        return [next(mined) if item.relevant else item for item in group]

    def _equipped(self, lists: Sequence[TrainingList]) -> list[TrainingList]:
        """The lists, all passages with vectors."""
        passages = iter(self.finder.equipped([passage for item in lists for passage in item.passages]))
        return [replace(item, passages=tuple(islice(passages, len(item.passages)))) for item in lists]

    def _below(
        self, lists: Sequence[TrainingList], near: Sequence[list[Passage]], vectors: Matrix
    ) -> list[list[Passage]]:
        """The candidates that are not suspected to be relevant."""
        if self.margin is None:
            return list(near)
        best = [_best(item) for item in lists]
        both = [[*right, *candidates] for right, candidates in zip(best, near, strict=True)]
        if self.teacher is None:
            scores = [_cosines(vector, row) for vector, row in zip(vectors, both, strict=True)]
        else:
            scores = _scores(self.teacher, [(item.query, row) for item, row in zip(lists, both, strict=True)])
        scale = "cosine" if self.teacher is None else self.teacher.scale
        kept = []
        for right, candidates, row in zip(best, near, scores, strict=True):
            limit = _limit(row, len(right), self.margin, scale)
            kept.append([p for p, score in zip(candidates, row[len(right) :], strict=True) if score <= limit])
        return kept

    def _extended(self, item: TrainingList, near: list[Passage], seen: _Seen, vector: Matrix) -> TrainingList:
        """The list with the nearest of ``near`` and with random passages, in order of the cosine."""
        drawn = self._drawn(item, seen, round(self.negatives * self.random_share))
        mined = [*near[: self.negatives - round(self.negatives * self.random_share)], *drawn]
        passages = [*item.passages, *mined]
        grades = [*item.grades, *[0.0] * len(mined)]
        cosines = _cosines(vector, passages)
        order = np.argsort(-cosines, kind="stable")
        ranked = tuple(passages[i].replace(score=float(cosines[i])) for i in order)
        return replace(item, passages=ranked, grades=tuple(grades[i] for i in order), teacher=None)

    def _drawn(self, item: TrainingList, seen: _Seen, count: int) -> list[Passage]:
        """Random passages; the same for the same seed and query, whatever other lists there are."""
        if not count:
            return []
        digest = hashlib.sha256(query_key(item.query).encode("utf-8", "replace")).digest()
        random = np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])
        pool = self.finder.pool
        drawn = random.choice(len(pool), size=min(len(pool), count + len(seen)), replace=False)
        return self.finder.equipped(list(islice(seen.fresh(pool[i] for i in drawn), count)))


class _Seen:
    """Passages that must not be taken (again), by id and by text."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._keys: set[tuple[str, str]] = set()
        for _ in self.fresh(passages):
            pass

    def __len__(self) -> int:
        return len(self._keys)

    def fresh(self, passages: Iterable[Passage]) -> Iterator[Passage]:
        """Those of ``passages`` that were not there before; once looked at, they are."""
        for passage in passages:
            keys = {("id", passage.id), ("text", query_key(passage.text))}
            new = not keys & self._keys
            self._keys |= keys
            if new:
                yield passage


def _relevant(lists: Iterable[TrainingList]) -> dict[str, list[Passage]]:
    """Per query, what is relevant in any list."""
    relevant: dict[str, list[Passage]] = defaultdict(list)
    for item in lists:
        relevant[query_key(item.query)] += item.relevant
    return relevant


def _best(item: TrainingList) -> list[Passage]:
    """The passages with the list's best grade."""
    best = max(item.grades)
    return [passage for passage, grade in zip(item.passages, item.grades, strict=True) if grade == best]


def _cosines(vector: Matrix, passages: Sequence[Passage]) -> NDArray[np.float64]:
    """Of passages with unit vectors and a query's unit vector."""
    return np.array([p.embedding for p in passages], np.float64).reshape(len(passages), -1) @ vector


def _limit(scores: NDArray[np.float64], positives: int, margin: float, scale: str) -> float:
    """The highest score of a negative; ``scores`` are those of the positives first, then of the candidates."""
    positive = float(scores[:positives].min())
    zero = 0.0 if scale in _WITH_ZERO and positive > 0.0 else float(scores.min())
    return zero + margin * (positive - zero)


def _scores(reranker: Reranker, requests: Sequence[tuple[str, Sequence[Passage]]]) -> list[NDArray[np.float64]]:
    """Per request the scores in input order."""
    longest = max((len(passages) for _, passages in requests), default=0)
    rankings = reranker.rank_many(requests, top_k=max(1, longest))
    found = []
    for ranking, (query, passages) in zip(rankings, requests, strict=True):
        scores = {hit.prior_rank: hit.score for hit in ranking if hit.score is not None}
        if ranking.status != "scored" or len(scores) < len(passages):
            raise InputError(
                f"The teacher {ranking.model!r} scored {len(scores)} of {len(passages)} passages of {query!r:.80} "
                f"({ranking.reason or 'an earlier stage cut the rest'}); take one that scores whole lists"
            )
        found.append(np.array([scores[place] for place in range(1, len(passages) + 1)], np.float64))
    return found


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _check_share(**options: float) -> None:
    for name, value in options.items():
        if not is_number(value) or not 0.0 <= value <= 1.0:
            raise InputError(f"{name} lies between 0 and 1, got {value!r}")
