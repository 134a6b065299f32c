"""TextEncoder: any sentence-embedding model; texts to vectors, or to the vectors of their tokens."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, ModelError
from rerankit.models import spans
from rerankit.models.backends import Choice
from rerankit.models.catalog import Pooling
from rerankit.models.engine import Engine
from rerankit.models.layout import Entry, Piece, piece, probe
from rerankit.models.meter import Meter
from rerankit.models.pair_encoder import PairEncoder
from rerankit.models.pooling import pool, pooling_of
from rerankit.models.tokens import Tokens

__all__ = ["Frame", "Kind", "PairEncoder", "TextEncoder", "TokenStates"]

Kind = Literal["passage", "query"]


@dataclass(frozen=True, slots=True)
class TokenStates:
    """What the last layer says about one text, special tokens included, padding excluded.

    Attributes:
        ids: int32 ``[t]``.
        vectors: float32 ``[t, dim]``, not normalised.
        offsets: int32 ``[t, 2]``, characters of the text; ``(0, 0)`` for tokens that are not of the text.
        special: bool ``[t]``: tokens that are not of the text (frame, marker, prompt, expansion).
    """

    ids: NDArray[np.int32]
    vectors: NDArray[np.float32]
    offsets: NDArray[np.int32]
    special: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Frame:
    """Extra tokens that late-interaction checkpoints want around a text.

    Attributes:
        marker_ids: after the first special token (``[Q]``, ``[D]``).
        expand_to: fill up to so many tokens in all with ``expand_id`` (ColBERT's query augmentation by ``[MASK]``).
        expand_id: the filling token.
        attend: whether the text attends to the filling.
        max_tokens: a length limit of its own.
    """

    marker_ids: tuple[int, ...] = ()
    expand_to: int = 0
    expand_id: int = 0
    attend: bool = False
    max_tokens: int | None = None


PLAIN = Frame()


class TextEncoder:
    """A sentence-embedding model, run by torch, onnxruntime or OpenVINO.

    Args:
        model: local folder, or a name on the Hugging Face hub (downloaded then; HF_HUB_OFFLINE is honoured).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        backend: ``auto``, ``torch``, ``onnxruntime``, ``openvino``.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``, ``int8``. In float32 a text's vector does not depend
            on its company to 1e-5; the other types trade that for speed.
        revision: of a hub model: commit, tag or branch.
        max_tokens: length limit, special tokens included; longer texts are cut at the end.
        batch_tokens: padded tokens per batch; bounds the peak memory.
        pooling, query_prompt, passage_prompt: overrule what the checkpoint and the catalogue say.
        name: what to call a local model in ``model_id``; the folder's name by default.

    Attributes:
        model_id: names the weights; ends in ``+`` and 8 hex digits if pooling, prompts or length are overruled.
        dim: length of a vector.
        max_tokens: length limit in force.

    Raises:
        ModelError: the model cannot be had, is damaged or is not an encoder.
        MissingExtraError: the back end is not installed.

    Example:
        >>> encoder = TextEncoder("intfloat/e5-small-v2")  # doctest: +SKIP
        >>> encoder.encode(["How deep to sow maize?"], kind="query").shape  # doctest: +SKIP
        (1, 384)
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        backend: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        pooling: Pooling | None = None,
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        name: str | None = None,
    ) -> None:
        wanted = Choice(backend, device, dtype)
        engine = Engine(model, "states", wanted, revision=revision, batch_tokens=batch_tokens, name=name)
        self.engine = engine
        self.layout = probe(engine.tokens.tokenizer, pair=False)
        self.dim = int(engine.checkpoint.config.get("hidden_size") or engine.checkpoint.config["dim"])
        stated = engine.checkpoint.json("sentence_bert_config.json").get("max_seq_length")
        self.max_tokens = engine.max_tokens(max_tokens, stated, self.layout.fixed_tokens)
        if pooling not in (None, *get_args(Pooling)):
            raise InputError(f"Unknown pooling {pooling!r}; choose one of {', '.join(get_args(Pooling))}")
        self.pooling: Pooling = pooling or pooling_of(engine.checkpoint, engine.facts)
        self.prompts = self._find_prompts({"query": query_prompt, "passage": passage_prompt})
        usual = engine.max_tokens(None, stated, self.layout.fixed_tokens), self._find_prompts({})
        self.model_id = engine.checkpoint.model_id + self._overruled(*usual)

    def _find_prompts(self, asked: dict[Kind, str | None]) -> dict[Kind, str]:
        """The caller's prompts, else the checkpoint's, else the catalogue's."""
        own = self.engine.checkpoint.json("config_sentence_transformers.json").get("prompts") or {}
        facts = self.engine.facts
        known: dict[Kind, str] = {
            "query": own.get("query", facts.query_prompt),
            "passage": own.get("passage", own.get("document", facts.passage_prompt)),
        }
        return known | {kind: prompt for kind, prompt in asked.items() if prompt is not None}

    def _overruled(self, usual_tokens: int, usual_prompts: dict[Kind, str]) -> str:
        """Marks vectors that are not the model's usual ones; empty if the caller changed nothing."""
        checkpoint, facts = self.engine.checkpoint, self.engine.facts
        usual_pooling: Pooling | None = None
        with contextlib.suppress(ModelError):  # the files ask for an unsupported one: the caller's is another
            usual_pooling = pooling_of(checkpoint, facts)
        mine = self.pooling, self.prompts, self.max_tokens
        return (
            ""
            if mine == (usual_pooling, usual_prompts, usual_tokens)
            else "+" + hashlib.sha256(repr(mine).encode()).hexdigest()[:8]
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "passage",
        meter: Meter | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts.

        Args:
            texts: any number, any length; an empty text has a vector too.
            kind: chooses the prompt, for models that have prompts.
            meter: counts the work.
            progress: called with the number of texts just finished.

        Returns:
            float32 ``[n, dim]``, L2-normalised.

        Raises:
            InputError: a text is not a string.
        """
        vectors = np.zeros((len(texts), self.dim), np.float32)
        entries = [self._entry(tokens, PLAIN) for tokens in self._tokens(texts, kind)]

        def collect(position: int, output: NDArray[np.float32]) -> None:
            vectors[position] = pool(output[: entries[position].size()], self.pooling)
            if progress is not None:
                progress(1)

        self.engine.run(entries, collect, meter)
        return vectors

    def token_states(
        self, texts: Sequence[str], *, kind: Kind = "passage", meter: Meter | None = None, frame: Frame = PLAIN
    ) -> list[TokenStates]:
        """Last-layer vectors of every token of every text, for late interaction."""
        return self.states_and_vectors(texts, kind=kind, meter=meter, frame=frame)[0]

    def states_and_vectors(
        self, texts: Sequence[str], *, kind: Kind = "passage", meter: Meter | None = None, frame: Frame = PLAIN
    ) -> tuple[list[TokenStates], NDArray[np.float32]]:
        """Token vectors and text vectors ``[n, dim]`` from one and the same forward pass."""
        all_tokens = self._tokens(texts, kind)
        entries = [self._entry(tokens, frame) for tokens in all_tokens]
        states: list[TokenStates | None] = [None] * len(texts)
        vectors = np.zeros((len(texts), self.dim), np.float32)

        def collect(position: int, output: NDArray[np.float32]) -> None:
            entry = entries[position]
            rows = output[: entry.size()]
            states[position] = self._states(entry, all_tokens[position], rows.copy(), len(self.prompts[kind]))
            vectors[position] = pool(rows[: entry.size() - entry.unattended], self.pooling)

        self.engine.run(entries, collect, meter)
        return [state for state in states if state is not None], vectors

    def windows(self, text: str, *, reserve: int = 0, limit: int | None = None) -> list[tuple[int, int]]:
        """Character spans that cover ``text``, each short enough for one pass with ``reserve`` tokens to spare.

        With ``limit`` at most so many, from the beginning; the rest of a huge text is not even tokenised.
        """
        capacity = self.max_tokens - self.layout.fixed_tokens - reserve
        return spans.first_windows(text, self.engine.tokens, capacity, limit)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens and before any truncation."""
        return [len(tokens) for tokens in self.engine.tokens.encode(texts)]

    def estimate_tokens(self, text: str) -> int:
        """About how many tokens a text has: counted if short, by its beginning and its length if huge."""
        return spans.estimate(text, self.engine.tokens)

    def close(self) -> None:
        """Free the model; later calls raise ModelError."""
        self.engine.close()

    def _tokens(self, texts: Sequence[str], kind: Kind) -> list[Tokens]:
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise InputError("texts must be a sequence of strings")
        if kind not in self.prompts:
            raise InputError(f"Unknown kind {kind!r}; choose one of {', '.join(self.prompts)}")
        prompt = self.prompts[kind]
        return self.engine.tokens.encode([prompt + text for text in texts] if prompt else texts)

    def _entry(self, tokens: Tokens, frame: Frame) -> Entry:
        layout = self.layout
        marker = np.array(frame.marker_ids, np.int32)
        head = Piece(
            np.concatenate([layout.prefix.ids, marker]),
            np.concatenate([layout.prefix.types, np.full(len(marker), layout.first_type, np.int32)]),
        )
        limit = min(self.max_tokens, frame.max_tokens or self.max_tokens)
        body = tokens.ids[: max(0, limit - layout.fixed_tokens - len(marker))]
        missing = max(0, frame.expand_to - layout.fixed_tokens - len(marker) - len(body))
        filling = piece([frame.expand_id] * missing, layout.first_type)
        tail = Piece(*(np.concatenate(parts) for parts in zip(layout.suffix, filling, strict=True)))
        return Entry(head, body, layout.first_type, tail, 0 if frame.attend else missing)

    def _states(
        self, entry: Entry, tokens: Tokens, vectors: NDArray[np.float32], prompt_characters: int
    ) -> TokenStates:
        start, end = len(entry.head.ids), len(entry.head.ids) + len(entry.body)
        offsets = np.zeros((entry.size(), 2), np.int32)
        offsets[start:end] = np.maximum(tokens.offsets[: len(entry.body)] - prompt_characters, 0)
        special = np.ones(entry.size(), np.bool_)
        special[start:end] = tokens.offsets[: len(entry.body), 1] <= prompt_characters if prompt_characters else False
        ids = np.concatenate([entry.head.ids, entry.body, entry.tail.ids])
        return TokenStates(ids, vectors, offsets, special)
