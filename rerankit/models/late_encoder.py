"""LateEncoder: texts to unit vectors of their tokens, with the vectors of passages kept between queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError
from rerankit.models.embedded import chosen_embedder
from rerankit.models.encoder import Frame, TextEncoder, TokenStates
from rerankit.models.files import content_key
from rerankit.models.late_style import Style, style_of
from rerankit.models.meter import Meter
from rerankit.models.queries import query_parts
from rerankit.models.text_vectors import encoder_fingerprint, query_cache, text_key
from rerankit.models.vector_cache import Entry, VectorCache

Storage = Literal["float32", "float16", "int8"]
STORAGES: tuple[Storage, ...] = get_args(Storage)


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """The tokens of a passage that may be matched; at least one.

    Attributes:
        vectors: float32, float16 or int8 ``[t, dim]``.
        scales: float32 ``[t]``, what to multiply each vector with to make its length 1.
        offsets: int32 ``[t, 2]``, characters of the text; ``(0, 0)`` for tokens that are not of the text.
    """

    vectors: NDArray[np.float32] | NDArray[np.float16] | NDArray[np.int8]
    scales: NDArray[np.float32]
    offsets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """The tokens of a query.

    Attributes:
        vectors: float32 ``[q, dim]``, length 1 each.
        special: bool ``[q]``: markers, frame and expansion.
    """

    vectors: NDArray[np.float32]
    special: NDArray[np.bool_]


class LateEncoder:
    """Token vectors by an encoder and a style.

    Args:
        encoder: the model underneath.
        style: markers, projection, what counts.
        cache: keeps the vectors of passages.
        storage: of passage vectors: ``float32`` is exact, ``float16`` halves the memory, ``int8`` halves it again.
    """

    def __init__(self, encoder: TextEncoder, style: Style, cache: VectorCache, storage: Storage = "float16") -> None:
        self.encoder, self.style, self.cache, self.storage = encoder, style, cache, storage
        self.fingerprint = f"{encoder_fingerprint(encoder)}:{style.fingerprint}:{storage}"
        layout = encoder.layout
        own = {*style.query.marker_ids, *style.passage.marker_ids}
        self._frame_ids = sorted({*layout.prefix.ids.tolist(), *layout.suffix.ids.tolist(), *own})

    def query(self, text: str, meter: Meter | None = None) -> QueryVectors:
        """Token vectors of a query of any length; a long one is read in windows. The latest ones are kept."""
        return self.queries([text], meter)[0]

    def queries(self, texts: Sequence[str], meter: Meter | None = None) -> list[QueryVectors]:
        """:meth:`query` of many, in batches."""
        keys = [content_key(self.fingerprint, "query", text) for text in texts]
        known = query_cache().get_many(keys)
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if wanted:
            fresh = dict(zip(wanted, self._encode_queries(list(wanted.values()), meter), strict=True))
            query_cache().put_many(fresh)
            known.update(fresh)
        return [QueryVectors(*known[key]) for key in keys]

    def _encode_queries(self, texts: Sequence[str], meter: Meter | None) -> list[Entry]:
        reserve = len(self.style.query.marker_ids) + self._prompt_tokens("query")
        parts = [query_parts(self.encoder, text, reserve=reserve) for text in texts]
        flat = [part for one in parts for part in one]
        states, rows = self.encoder.states_and_vectors(flat, kind="query", meter=meter, frame=self.style.query)
        entries, start = [], 0
        for text, one in zip(texts, parts, strict=True):
            if self.style.name == "plain" and len(one) == 1:
                query_cache().put_many({text_key(self.encoder, text, "query"): (rows[start].copy(),)})
            entries.append(self._query_entry(states[start : start + len(one)]))
            start += len(one)
        return entries

    def _query_entry(self, states: Sequence[TokenStates]) -> Entry:
        keep = [self._counts(state, self.style.query) for state in states]
        vectors = [self._unit(state.vectors[kept]) for state, kept in zip(states, keep, strict=True)]
        special = [state.special[kept] for state, kept in zip(states, keep, strict=True)]
        return np.concatenate(vectors), np.concatenate(special)

    def passages(self, texts: Sequence[str], meter: Meter | None = None) -> list[TokenVectors]:
        """Token vectors of texts that fit the model, from the cache where it has them."""
        keys = [self._key(text) for text in texts]
        known = self.cache.get_many(keys)
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if wanted:
            fresh = self._encode(list(wanted.values()), meter)
            known.update(zip(wanted, fresh, strict=True))
            self.cache.put_many({key: known[key] for key in wanted if _finite(known[key])})
        return [TokenVectors(*known[key]) for key in keys]

    def _key(self, text: str) -> bytes:
        return content_key(self.fingerprint, "passage", text)

    def room(self) -> int:
        """Tokens of text that one passage window may have."""
        limit = min(self.encoder.max_tokens, self.style.passage.max_tokens or self.encoder.max_tokens)
        fixed = self.encoder.layout.fixed_tokens + len(self.style.passage.marker_ids)
        return max(1, limit - fixed - self._prompt_tokens("passage"))

    def _encode(self, texts: Sequence[str], meter: Meter | None) -> list[Entry]:
        states, vectors = self.encoder.states_and_vectors(texts, meter=meter, frame=self.style.passage)
        if self.style.name == "plain":  # the text vectors come free, and the dense family may want them
            rows = {text_key(self.encoder, text): (vector.copy(),) for text, vector in zip(texts, vectors, strict=True)}
            self.cache.put_many({key: row for key, row in rows.items() if _finite(row)})
        return [self._entry(state) for state in states]

    def _entry(self, state: TokenStates) -> Entry:
        keep = self._counts(state, self.style.passage)
        if not self.style.frame_counts:
            keep &= ~state.special
        if self.style.skipped_ids:
            keep &= ~np.isin(state.ids, list(self.style.skipped_ids))
        if not keep.any():  # nothing but punctuation, or nothing that the tokenizer knows
            keep[:] = True
        return (*_stored(self._unit(state.vectors[keep]), self.storage), state.offsets[keep])

    def _counts(self, state: TokenStates, frame: Frame) -> NDArray[np.bool_]:
        """All tokens but those of a prompt: text, frame, markers, expansion."""
        expansion = np.zeros(len(state), np.bool_)
        if frame.expand_to:
            expansion = state.special & (state.ids == frame.expand_id)
        return ~state.special | np.isin(state.ids, self._frame_ids) | expansion

    def _unit(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        for layer in self.style.layers:
            states = layer(states)
        return np.asarray(states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12), np.float32)

    def _prompt_tokens(self, kind: Literal["query", "passage"]) -> int:
        prompt = self.encoder.prompts[kind]
        return self.encoder.count_tokens([prompt])[0] if prompt else 0


def _finite(entry: Entry) -> bool:
    return all(np.isfinite(array).all() for array in entry)


def _stored(vectors: NDArray[np.float32], storage: Storage) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Unit vectors as they are kept, and the factors that make their lengths 1 again."""
    kept: NDArray[Any] = vectors
    if storage == "float16":
        kept = vectors.astype(np.float16)
    elif storage == "int8" and np.isfinite(vectors).all():
        kept = np.round(vectors * (127.0 / np.abs(vectors).max(axis=1, keepdims=True, initial=1e-12))).astype(np.int8)
    lengths = np.linalg.norm(kept.astype(np.float32), axis=1)
    return kept, (1.0 / np.maximum(lengths, 1e-12)).astype(np.float32)


def load_late_encoder(
    model: str | Path | TextEncoder | None, cache: VectorCache, storage: Storage, engine: Mapping[str, Any]
) -> LateEncoder:
    """The encoder of a checkpoint with the style that its files ask for.

    Args:
        model: folder or hub name, a loaded encoder, or None for the embedded one.
        cache: keeps the vectors of passages.
        storage: of those vectors.
        engine: device, backend, dtype and revision, for a checkpoint.

    Raises:
        ModelError: the checkpoint cannot be had or is damaged.
    """
    if model is None:
        return LateEncoder(chosen_embedder(engine), Style(), cache, storage)
    # Token vectors are not pooled; naming a pooling keeps a projection layer from being refused as an unknown module.
    encoder = model if isinstance(model, TextEncoder) else TextEncoder(model, pooling="mean", **engine)
    style = style_of(encoder.engine.checkpoint, encoder.engine.tokens.tokenizer)
    _check_widths(encoder, style)
    return LateEncoder(encoder, style, cache, storage)


def _check_widths(encoder: TextEncoder, style: Style) -> None:
    width = encoder.dim
    for layer in style.layers:
        if layer.weight.ndim != 2 or layer.weight.shape[1] != width:
            raise ModelError(
                f"The projection of {encoder.model_id!r} has shape {layer.weight.shape} and cannot take vectors of "
                f"{width} dimensions. Download the model again."
            )
        width = len(layer.weight)
