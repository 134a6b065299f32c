"""Queries of any reasonable length: read in parts, never cut in silence."""

from __future__ import annotations

from rerankit.errors import InputError
from rerankit.models.encoder import TextEncoder

MOST_PARTS = 8
"""Windows of the model that a query may fill. More is not a question, and would hold up everyone else's."""

_CHARACTERS_PER_TOKEN = 16
"""More than any language needs: beyond this there is no point in counting tokens."""


def query_parts(encoder: TextEncoder, query: str, *, reserve: int = 0) -> list[str]:
    """The query as pieces that fit the model with ``reserve`` tokens to spare; mostly one.

    Raises:
        InputError: the query is longer than ``MOST_PARTS`` windows of the model.
    """
    longest = MOST_PARTS * encoder.max_tokens
    if len(query) <= longest * _CHARACTERS_PER_TOKEN:
        spans = encoder.windows(query, reserve=reserve)
        if len(spans) <= MOST_PARTS:
            return [query[start:end] for start, end in spans]
    raise InputError(
        f"The query has {len(query):,} characters; {encoder.model_id} can rank by about {longest:,} tokens. "
        "Shorten it, or condense it to its question first."
    )
