"""One OpenTelemetry span per call, under OpenInference's RERANKER names.

Nothing is imported and nothing happens unless the application itself has loaded OpenTelemetry; without a tracer
provider its own no-op span is used. Passage texts stay out of the trace unless ``RERANKIT_TRACE_CONTENT=1``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from rerankit.types import Hit, Ranking

Record = Callable[[Sequence[Ranking]], None]


@contextlib.contextmanager
def rerank_span(model: str, queries: Sequence[str], top_k: int | None) -> Iterator[Record]:
    """Open the span around a call; the yielded function writes the outcome into it."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield lambda rankings: None
        return
    with trace.get_tracer("rerankit").start_as_current_span("rerank") as span:
        span.set_attribute("openinference.span.kind", "RERANKER")
        span.set_attribute("reranker.model_name", model)
        if top_k is not None:
            span.set_attribute("reranker.top_k", top_k)
        if len(queries) == 1:
            span.set_attribute("reranker.query", queries[0])

        def record(rankings: Sequence[Ranking]) -> None:
            if not span.is_recording():
                return
            span.set_attribute("rerankit.queries", len(rankings))
            span.set_attribute("rerankit.status", ",".join(sorted({ranking.status for ranking in rankings})))
            span.set_attribute("rerankit.cache_hits", sum(ranking.usage.cache_hits for ranking in rankings))
            if len(rankings) == 1:
                span.set_attributes(_documents(rankings[0], top_k))

        yield record


def _documents(ranking: Ranking, top_k: int | None) -> dict[str, str | float]:
    attributes: dict[str, str | float] = {}
    before = sorted(ranking.hits, key=lambda hit: hit.prior_rank)
    for side, hits in (("input", before), ("output", ranking.hits[:top_k])):
        for i, hit in enumerate(hits):
            prefix = f"reranker.{side}_documents.{i}.document"
            attributes |= _document(prefix, hit, hit.prior_score if side == "input" else hit.score)
    return attributes


def _document(prefix: str, hit: Hit, score: float | None) -> dict[str, str | float]:
    attributes: dict[str, str | float] = {f"{prefix}.id": hit.id}
    if score is not None:
        attributes[f"{prefix}.score"] = score
    if os.environ.get("RERANKIT_TRACE_CONTENT") == "1":
        attributes[f"{prefix}.content"] = hit.text
    return attributes
