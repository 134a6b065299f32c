"""Many-sided questions: split into aspects by rules, and their rankings merged so that each aspect is covered.

After RichRAG (Wang et al., 2024, arXiv:2406.12566): sub-aspects, retrieval for each, and a list that serves them all.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from itertools import chain, zip_longest

from rerankit.rag.conversation import PRONOUN, content_words
from rerankit.rag.sentences import sentences
from rerankit.types import Hit, Ranking, RankingStatus, Usage

__all__ = ["covering", "split"]

_CLAUSE = re.compile(
    r"\s*(?:,|;)?\s+and\s+(?=(?:(?:at|by|from|for|in|on|to|with)\s+)?"
    r"(?:how|when|what|which|where|why|who|does|do|can|should|is|are|will)\b)",
    re.IGNORECASE,
)
_ALONE = 3  # content words with which a clause can be searched for on its own
_ASKED = re.compile(
    r"\b(?:(?P<word>how|when|what|which|where|why|who|whose)\b.*?)?"
    r"(?:\b(?:is|are|was|were|do|does|did|can|could|should|shall|will|would|may|must|has|have|had)\b"
    r"|(?:(?<=what)|(?<=who))\s+\w{3,}s\b)(?P<about>.*)",
    re.IGNORECASE | re.DOTALL,
)
"""A question word, a verb ("what is", "what causes"), and what is asked about."""
_GIVEN = re.compile(r"\b(?:i|we|you|the)\b", re.IGNORECASE)


def split(question: str) -> list[str]:
    """The separate questions in ``question``, each once and with the sentences that lead to it; at least one.

    "How deep do I sow wheat, and how often?" gives "How deep do I sow wheat" and "how often? (deep sow wheat)".
    "What is lime for?" is complete and stays as it is.
    """
    # One blank between words: the pattern of clauses takes cubic time over many.
    spans = [" ".join(question[start:end].split()) for start, end in sentences(question)]
    lead = " ".join(span for span in spans if not span.endswith("?"))
    asked = [clause for span in spans if span.endswith("?") for clause in _CLAUSE.split(span) if content_words(clause)]
    if len(asked) < 2:
        return [question]
    first = " ".join(content_words(asked[0]))
    whole = [asked[0], *(clause if _complete(clause) else f"{clause} ({first})" for clause in asked[1:])]
    return list(dict.fromkeys(f"{lead} {clause}".strip() for clause in whole))


def _complete(clause: str) -> bool:
    """Whether a clause can be searched for on its own: by its many words, or as a short question about something.

    "How often?", "what does it cost?", "what is the dose?" and "when do I spray?" are not about anything by themselves.
    """
    if len(content_words(clause)) >= _ALONE:
        return True
    asked = _ASKED.search(clause)
    if asked is None or PRONOUN.search(clause):
        return False
    needed = 2 if _GIVEN.search(asked["about"]) or not asked["word"] else 1
    return len(content_words(asked["about"])) >= needed


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
