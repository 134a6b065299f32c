"""From rankings and answers to what MCP tools give: strict JSON without control characters or lone surrogates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rerankit.rag.collection import UNKNOWN
from rerankit.rag.events import RagResult
from rerankit.rag.records import DISTANCE
from rerankit.redaction import without_addresses
from rerankit.rerankers.prepare import clean
from rerankit.server.mcp_results import AskResult, Candidate, Citation, Found, Ranked
from rerankit.types import Hit, Passage, Ranking

__all__ = ["candidate", "cited_answer", "found_passage", "judged", "ranked"]

_FAILED = "the model failed; the order in which the passages came was kept"
"""Why it failed is in the server's log: the error of a model may tell of the machine."""


def judged(name: str, ranking: Ranking, found: Sequence[Passage] = ()) -> dict[str, Any]:
    """How the ranking came to be, and what is doubtful about the passages that were found: fields of ``Judged``."""
    reason = _FAILED if ranking.status == "fallback" else clean(ranking.reason)
    return {
        "reranker": name,
        "model": without_addresses(ranking.model),
        "scale": ranking.scale,
        "status": ranking.status,
        "reason": _joined(reason, _doubts(found)),
        "seconds": round(ranking.usage.seconds, 4),
    }


def ranked(hit: Hit) -> Ranked:
    """A hit without its text, which the caller has."""
    return Ranked(
        rank=hit.rank, index=hit.prior_rank - 1, id=clean(hit.id), score=hit.score, probability=hit.probability,
        status=hit.status,
    )  # fmt: skip


def found_passage(hit: Hit, most: int) -> Found:
    """A hit with at most so many characters of its text."""
    text = clean(hit.text)
    return Found(
        rank=hit.rank, id=clean(hit.id), title=clean(hit.passage.title), text=text[:most], is_cut=len(text) > most,
        metadata=_metadata(hit.passage), score=hit.score, probability=hit.probability, status=hit.status,
        found_rank=hit.prior_rank, found_score=hit.prior_score,
    )  # fmt: skip


def candidate(index: int, passage: Passage, most: int) -> Candidate:
    """A compared passage with at most so many characters of its text."""
    return Candidate(
        index=index, id=clean(passage.id), title=clean(passage.title), text=clean(passage.text)[:most]
    )  # fmt: skip


def cited_answer(result: RagResult, collection: str, reranker: str, generator: str) -> AskResult:
    """The answer, each citation with title and metadata of its passage."""
    answer = result.answer
    passages = {passage.id: passage for passage in result.candidates}
    citations = [
        Citation(
            number=item.number, passage_id=clean(item.passage_id), title=clean(passages[item.passage_id].title),
            quote=clean(item.quote), start=item.start, end=item.end, metadata=_metadata(passages[item.passage_id]),
        )
        for item in answer.citations
    ]  # fmt: skip
    return AskResult(
        answer=clean(answer.text), abstained=answer.abstained,
        reason=_joined(clean(answer.reason), _doubts(result.candidates)),
        confidence=answer.confidence, citations=citations, collection=collection, reranker=reranker,
        generator=without_addresses(answer.model or generator),
        seconds={name: round(seconds, 4) for name, seconds in result.timings.items()},
    )  # fmt: skip


def _doubts(found: Sequence[Passage]) -> str:
    if any(passage.embedding_model == UNKNOWN for passage in found):
        return "the collection seems to be made with another embedder than this server's: what was found may be poor"
    return ""


def _joined(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)


def _metadata(passage: Passage) -> dict[str, Any]:
    """What strict JSON can hold of a passage's metadata."""
    return {clean(name): _plain(value) for name, value in passage.metadata.items() if name != DISTANCE}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {clean(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int)) else clean(str(value))
