"""PairEncoder: any sequence-classification cross-encoder; (query, passage) pairs to scores."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, ModelError
from rerankit.models import spans
from rerankit.models.backends import Choice
from rerankit.models.catalog import Activation, PairFrame, ReadOut
from rerankit.models.engine import Engine
from rerankit.models.layout import Entry, Layout, Piece, piece, probe
from rerankit.models.meter import Meter


class PairEncoder:
    """A cross-encoder, run by torch, onnxruntime or OpenVINO.

    The query is encoded once per call, passages once as long as they stay in the token cache; only passages are ever
    truncated.

    Args:
        model: local folder, or a name on the Hugging Face hub (downloaded then; HF_HUB_OFFLINE is honoured).
        device, backend, dtype, revision, batch_tokens: as for :class:`rerankit.models.encoder.TextEncoder`.
        max_tokens: length limit of a pair, special tokens included.
        read_out: overrules the catalogue; see :class:`rerankit.models.catalog.Facts`.

    Attributes:
        model_id: names weights and revision.
        fingerprint: everything that a score depends on besides the texts.
        scale: the meaning of a score: ``logit``, always.
        activation: what turns a score into the model's own idea of a probability.
        max_tokens: length limit in force.

    Raises:
        ModelError: the model cannot be had, is damaged, lacks a trained classifier head or has more than two labels.
        MissingExtraError: the back end is not installed.
    """

    scale = "logit"

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
        read_out: ReadOut | None = None,
    ) -> None:
        engine = Engine(model, "logits", Choice(backend, device, dtype), revision=revision, batch_tokens=batch_tokens)
        self.engine = engine
        self.layout = self._find_layout(engine.facts.frame)
        self.model_id = engine.checkpoint.model_id
        stated = engine.checkpoint.json("sentence_bert_config.json").get("max_seq_length")
        self.max_tokens = engine.max_tokens(max_tokens, stated, self.layout.fixed_tokens)
        self.read_out: ReadOut = _read_out(engine, read_out)
        self.activation: Activation = _activation(engine)
        self.fingerprint = self._fingerprint()

    def _find_layout(self, frame: PairFrame | None) -> Layout:
        tokenizer = self.engine.tokens.tokenizer
        if frame is None:
            layout = probe(tokenizer, pair=True)
            return layout if self._uses_types() else layout.without_types()
        tokenizer.encode_special_tokens = False
        try:
            prefix, middle, suffix = (
                piece(tokenizer.encode(part, add_special_tokens=False).ids)
                for part in (frame.prefix, frame.middle, frame.suffix)
            )
            return Layout(prefix, middle, suffix)
        finally:
            tokenizer.encode_special_tokens = True

    def _uses_types(self) -> bool:
        names = self.engine.checkpoint.json("tokenizer_config.json").get("model_input_names")
        stated = names is None or "token_type_ids" in names
        return stated and int(self.engine.checkpoint.config.get("type_vocab_size") or 0) > 1

    def _fingerprint(self) -> str:
        checkpoint, choice = self.engine.checkpoint, self.engine.choice
        parts = (
            checkpoint.digest,
            checkpoint.reading_digest,
            choice.dtype,
            str(self.layout),
            self.read_out,
            str(self.max_tokens),
        )
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        return f"{self.model_id}:{choice.dtype}:{self.max_tokens}:{digest}"

    def score(
        self, pairs: Sequence[tuple[str, str]], *, meter: Meter | None = None, float32: bool = False
    ) -> NDArray[np.float64]:
        """Relevance of passages to queries, as logits.

        Args:
            pairs: (query, passage); any number, any order.
            meter: counts the work.
            float32: run in full precision even if the encoder normally does not.

        Returns:
            float64 ``[n]``.

        Raises:
            InputError: a pair is not two strings, or a query leaves no room for any passage.
        """
        if not all(len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs):
            raise InputError("pairs must be a sequence of (query, passage), both strings")
        scores = np.zeros(len(pairs), np.float64)
        entries = self.entries(pairs)

        def collect(position: int, logits: NDArray[np.float32]) -> None:
            scores[position] = _read(logits, self.read_out)

        self.engine.run(entries, collect, meter, float32=float32)
        return scores

    def windows(self, query: str, text: str, *, reserve: int = 0, limit: int | None = None) -> list[tuple[int, int]]:
        """Character spans that cover ``text``, each short enough to be read whole beside ``query``.

        Args:
            query: the query.
            text: the passage.
            reserve: tokens to leave free for what the caller puts before each window (a title).
            limit: at most so many, from the beginning; the rest of a huge text is not even tokenised.

        Raises:
            InputError: the query leaves no room.
        """
        return spans.first_windows(text, self.engine.tokens, max(1, self.room(query) - reserve), limit)

    def beginning(self, text: str, tokens: int) -> str:
        """As much of the beginning of ``text`` as makes at most ``tokens`` tokens."""
        return text[: spans.first_windows(text, self.engine.tokens, tokens, 1)[0][1]]

    def room(self, query: str) -> int:
        """Tokens left for a passage beside ``query`` (and beside the passage's prompt, for models that have one).

        Raises:
            InputError: none are left.
        """
        known = self.engine.facts
        query_tokens, prompt = self.engine.tokens.encode([known.query_prompt + query, known.passage_prompt])
        return max(1, self._room(len(query_tokens)) - len(prompt))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens and before any truncation."""
        return [len(tokens) for tokens in self.engine.tokens.encode(texts)]

    def estimate_tokens(self, text: str) -> int:
        """About how many tokens a text has: counted if short, by its beginning and its length if huge."""
        return spans.estimate(text, self.engine.tokens)

    def close(self) -> None:
        """Free the model; later calls raise ModelError."""
        self.engine.close()

    def _room(self, query_tokens: int) -> int:
        room = self.max_tokens - self.layout.fixed_tokens - query_tokens
        if room < 1:
            raise InputError(
                f"The query has {query_tokens} tokens, which leaves no room for a passage within the "
                f"{self.max_tokens} of {self.engine.checkpoint.name!r}; shorten the query"
            )
        return room

    def entries(self, pairs: Sequence[tuple[str, str]]) -> list[Entry]:
        """Model inputs of pairs, not yet batched.

        Raises:
            InputError: a query leaves no room for any passage.
        """
        encode, known = self.engine.tokens.encode, self.engine.facts
        queries = list(dict.fromkeys(query for query, _ in pairs))
        frames: dict[str, tuple[Piece, int]] = {}
        for query, tokens in zip(queries, encode([known.query_prompt + query for query in queries]), strict=True):
            frames[query] = self.layout.head(tokens.ids), self._room(len(tokens))
        prompt = known.passage_prompt
        passages = encode([prompt + text if prompt else text for _, text in pairs])
        entries = []
        for (query, _), tokens in zip(pairs, passages, strict=True):
            head, room = frames[query]
            entries.append(Entry(head, tokens.ids[:room], self.layout.second_type, self.layout.suffix))
        return entries


def _read_out(engine: Engine, asked: ReadOut | None) -> ReadOut:
    """Which classifier outputs make the score: asked for, catalogued, or by the number of labels."""
    if asked not in (None, *get_args(ReadOut)):
        raise InputError(f"Unknown read_out {asked!r}; choose one of {', '.join(get_args(ReadOut))}")
    config = engine.checkpoint.config
    labels = len(config.get("id2label") or range(config.get("num_labels", 2)))
    found: ReadOut = asked or engine.facts.read_out or ("single" if labels == 1 else "difference")
    if labels > 2 or (found == "single") != (labels == 1):
        raise ModelError(
            f"{engine.checkpoint.name!r} has {labels} labels, which read-out {found!r} does not fit; a cross-encoder "
            "has one label (a logit) or two (irrelevant, relevant)"
        )
    return found


def _activation(engine: Engine) -> Activation:
    """What the checkpoint says (a class path of torch), else the catalogue, else a sigmoid."""
    config = engine.checkpoint.config
    stated = config.get("sentence_transformers", {}).get("activation_fn")
    stated = str(stated or config.get("sbert_ce_default_activation_function") or "").rpartition(".")[2].lower()
    if stated in ("identity", "sigmoid"):
        return "identity" if stated == "identity" else "sigmoid"
    return engine.facts.activation or "sigmoid"


def _read(logits: NDArray[np.float32], how: ReadOut) -> float:
    if how == "second":
        return float(logits[1])
    if how == "difference":
        return float(logits[1]) - float(logits[0])
    return float(logits[0])
