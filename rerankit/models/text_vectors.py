"""One vector per text, kept between queries; shared by all families that use the same encoder."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rerankit.models.encoder import Kind, TextEncoder
from rerankit.models.files import content_key
from rerankit.models.meter import Meter
from rerankit.models.queries import query_parts
from rerankit.models.vector_cache import KeepsVectors, VectorCache


def encoder_fingerprint(encoder: TextEncoder) -> str:
    """Everything that a vector depends on besides its text: model files, precision, length limit, pooling, prompts."""
    prompts = encoder.prompts["passage"], encoder.prompts["query"]
    engine = encoder.engine
    setting = f"{engine.checkpoint.reading_digest[:12]}:{engine.choice.dtype}:{encoder.max_tokens}:{encoder.pooling}"
    return f"{encoder.model_id}:{setting}" + (f":{prompts!r}" if any(prompts) else "")


def text_key(encoder: TextEncoder, text: str, kind: Kind = "passage") -> bytes:
    """Where a cache keeps the vector of a text."""
    return content_key(encoder_fingerprint(encoder), kind, text)


@functools.cache
def query_cache() -> VectorCache:
    """The latest queries' vectors, in memory: the families that a query passes through encode it once."""
    return VectorCache(memory_bytes=16 * 2**20)


def text_vectors(
    encoder: TextEncoder,
    texts: Sequence[str],
    cache: KeepsVectors,
    *,
    kind: Kind = "passage",
    meter: Meter | None = None,
) -> NDArray[np.float32]:
    """Unit vectors ``[n, dim]`` of texts that fit the model, from the cache where it has them."""
    keys = [text_key(encoder, text, kind) for text in texts]
    known = cache.get_many(keys)
    wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if wanted:
        fresh = encoder.encode(list(wanted.values()), kind=kind, meter=meter)
        known.update((key, (row.copy(),)) for key, row in zip(wanted, fresh, strict=True))
        cache.put_many({key: known[key] for key in wanted if np.isfinite(known[key][0]).all()})
    return np.stack([known[key][0] for key in keys]) if texts else np.zeros((0, encoder.dim), np.float32)


def query_vector(encoder: TextEncoder, query: str, *, meter: Meter | None = None) -> NDArray[np.float32]:
    """Unit vector ``[dim]`` of a query; of one longer than the model can take, the mean direction of its parts.

    Raises:
        InputError: the query is far too long.
    """
    prompt = encoder.prompts["query"]
    parts = query_parts(encoder, query, reserve=encoder.count_tokens([prompt])[0] if prompt else 0)
    mean = text_vectors(encoder, parts, query_cache(), kind="query", meter=meter).mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
