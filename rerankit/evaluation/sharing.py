"""Score once what several arms have in common, and charge every arm as if it had worked alone.

Each part of a cascade or fusion is wrapped in :class:`Shared`. The first arm that needs a part's verdict on a list pays
for it; the next ones are given the same ranking and the seconds that it took, so that latencies stay comparable.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from rerankit.models.files import content_key
from rerankit.rerankers.base import Candidates, Reranker
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.compose import Cascade, Fusion
from rerankit.types import Passage, Ranking

__all__ = ["Memo", "Shared", "share"]


@dataclass
class Memo:
    """Verdicts on one query's candidates, and what their reuse saved since ``saved_seconds`` was last reset."""

    verdicts: dict[bytes, Ranking] = field(default_factory=dict)
    saved_seconds: float = 0.0

    def clear(self) -> None:
        """Forget all verdicts, for the next query."""
        self.verdicts.clear()
        self.saved_seconds = 0.0


class Shared(Reranker):
    """A reranker whose verdicts are looked up first."""

    def __init__(self, inner: Reranker, memo: Memo) -> None:
        super().__init__(top_k=inner.top_k, on_error=inner.on_error)
        self.inner, self.memo = inner, memo
        self.model, self.scale, self.rearranges = inner.model, inner.scale, inner.rearranges

    @property
    def fingerprint(self) -> str:
        """The inner reranker's."""
        return self.inner.passage_fingerprint

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """The inner reranker's hook; ``rank_whole`` is what composites call."""
        return self.inner.score_lists(requests, call)

    def rank_whole(
        self,
        requests: Sequence[tuple[str, Candidates]],
        deadline: float | None,
        cancelled: threading.Event | None = None,
    ) -> list[Ranking]:
        """The inner verdicts, remembered."""
        return [self._one(query, passages, deadline, cancelled) for query, passages in requests]

    def close(self) -> None:
        """Close the inner reranker."""
        self.inner.close()

    def _one(
        self, query: str, passages: Candidates, deadline: float | None, cancelled: threading.Event | None
    ) -> Ranking:
        key = _key(self.inner, query, passages)
        known = self.memo.verdicts.get(key)
        if known is not None:
            self.memo.saved_seconds += known.usage.seconds
            return known
        saved_before = self.memo.saved_seconds
        (ranking,) = self.inner.rank_whole([(query, passages)], deadline, cancelled)
        # What inner parts saved belongs to the price of this verdict, for the arms that will be given it.
        seconds = ranking.usage.seconds + self.memo.saved_seconds - saved_before
        self.memo.verdicts[key] = ranking.with_usage(dataclasses.replace(ranking.usage, seconds=seconds))
        return ranking


def share(reranker: Reranker, memo: Memo) -> Reranker:
    """The same reranker, its parts (and itself) looked up in ``memo`` first; the original stays as it is."""
    inner = copy.copy(reranker)
    if isinstance(inner, Cascade):
        inner.stages = tuple(share(stage, memo) for stage in inner.stages)
    elif isinstance(inner, Fusion):
        inner.members = tuple(share(member, memo) for member in inner.members)
    return Shared(inner, memo)


def _key(reranker: Reranker, query: str, passages: Candidates) -> bytes:
    """Everything that the verdict depends on. Scores of the stage before count only where the family reads them."""
    identities = [_identity(passage, reranker.by_text) for passage in passages]
    return content_key(reranker.passage_fingerprint, query, *identities)


def _identity(passage: Passage | str, by_text: bool) -> str:
    if isinstance(passage, str):
        return passage
    return passage.id if by_text else f"{passage.id}\x00{passage.score!r}"
