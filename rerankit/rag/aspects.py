"""Many-sided questions: split into aspects by rules, and their rankings merged so that each aspect is covered.

After RichRAG (Wang et al., 2024, arXiv:2406.12566): sub-aspects, retrieval for each, and a list that serves them all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from itertools import chain, zip_longest

from rerankit.rag.conversation import content_words
from rerankit.rag.sentences import sentences
from rerankit.types import Hit, Ranking, RankingStatus, Usage

__all__ = ["covering", "split"]

_CLAUSE = re.compile(
    r"\s*(?:,|;)?\s+and\s+(?=(?:(?:at|by|from|for|in|on|to|with)\s+)?"
    r"(?:how|when|what|which|where|why|who|does|do|can|should|is|are|will)\b)",
    re.IGNORECASE,
)
_ALONE = 3  # content words with which a clause can be searched for on its own


def split(question: str, most: int = 3) -> list[str]:
    """The separate questions in ``question``, each with the sentences that lead to it; at least one, at most ``most``.

    "How deep do I sow wheat, and when?" gives "How deep do I sow wheat?" and "when? (deep sow wheat)".
    """
    spans = [question[start:end] for start, end in sentences(question)]
    lead = " ".join(span for span in spans if not span.endswith("?"))
    asked = [clause for span in spans if span.endswith("?") for clause in _CLAUSE.split(span) if content_words(clause)]
    if not 1 < len(asked) <= most:
        return [question]
    first = " ".join(content_words(asked[0]))
    whole = [asked[0], *(c if len(content_words(c)) >= _ALONE else f"{c} ({first})" for c in asked[1:])]
    return [f"{lead} {clause}".strip() for clause in whole]


def covering(question: str, rankings: Sequence[Ranking]) -> Ranking:
    """One ranking from one per aspect: the best of each, then the second of each, every passage once.

    With a single ranking, that one. Otherwise scores are of different questions, so the scale is ``order``.
    """
    if len(rankings) == 1:
        return rankings[0]
    unique: dict[str, Hit] = {}
    for hit in chain.from_iterable(zip_longest(*rankings)):
        if hit is not None:
            unique.setdefault(hit.id, hit)
    count = len(unique)
    hits = tuple(dataclasses.replace(h, rank=n, score=float(count - n)) for n, h in enumerate(unique.values(), 1))
    status: RankingStatus = next((r.status for r in rankings if r.status != "scored"), "scored")
    reason = "; ".join(dict.fromkeys(r.reason for r in rankings if r.reason))
    usage = sum((r.usage for r in rankings), Usage())
    return Ranking(question, hits, rankings[0].model, "order", status, reason, usage)
