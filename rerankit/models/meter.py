"""Meter: counts what the models do during one call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Meter:
    """Mutable counters that a model adds to while it works; one meter belongs to one call.

    ``padded_tokens`` are the tokens that the processor really computed, padding included, so that
    ``padded_tokens / input_tokens`` is the padding ratio.
    """

    forward_passes: int = 0
    input_tokens: int = 0
    padded_tokens: int = 0
    output_tokens: int = 0
    llm_calls: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    cost: float = 0.0
