r"""CausalVectors: a causal language model as an embedder; a text's vector is the last layer's state of its last token.

The recipe of E2Rank (Liu et al., arXiv:2510.22733, model cards and ``eval.py`` of Alibaba-NLP/E2Rank), which is also
that of Qwen3-Embedding: a passage is ``text<|endoftext|>``, a query ``Instruct: {task}\nQuery:{query}<|endoftext|>``,
and vectors have length 1.
"""

from __future__ import annotations

import dataclasses
import gc
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_choice, check_whole
from rerankit.errors import InputError, ModelError
from rerankit.models.backend_torch import is_out_of_memory
from rerankit.models.batching import Batch, run
from rerankit.models.causal_load import load_language_model
from rerankit.models.causal_probe import rope_switch
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.files import content_key
from rerankit.models.layout import Entry, piece
from rerankit.models.meter import Meter
from rerankit.models.prompt import Data, Part, Prompt, RawPrompt
from rerankit.models.work import Work

__all__ = ["TASK", "CausalVectors", "Line"]

Floats = NDArray[np.float32]

TASK = "Given a web search query, retrieve relevant passages that answer the query"
"""What a query is told to be for, in the wording of the model cards."""

END = "<|endoftext|>"
"""Whose state is the vector. A tokenizer without it lends its own end of text."""

WORDS, TOKENS = 1024, 8192
"""Longest passage: words as in E2Rank's ``eval.py``, tokens as on its model cards."""

_MEASURED = 16_384
"""Characters of a cut-off end whose tokens are counted; four of those behind count as one."""

_CPU_TOKENS, _GPU_TOKENS = 2048, 16_384


class Line(NamedTuple):
    """A passage as the model reads it, in one line, and how many of its tokens were left out."""

    text: str
    cut: int


class CausalVectors:
    """One vector per text from a causal checkpoint; an embedder for stores, and what ``E2Rank`` runs on.

    Passages are read as ``eval.py`` reads them: in one line, white space as single blanks, at most 1,024 words (and
    8,192 tokens, or the context). Texts are data: a ``<|im_end|>`` in them is plain text. Padding is on the right,
    where no text sees it; a text's vector does not depend on its company, in float32 to 1e-5. Safe between threads;
    forward passes take turns.

    Args:
        model: local folder or hub name of a causal checkpoint, with or without a language-model head.
        task: what queries are told to be for.
        device, dtype, revision: see :class:`~rerankit.models.causal.LocalLM`.
        batch_tokens: padded tokens per forward pass; bounds the peak memory. Default: what suits the device.

    Attributes:
        dim: length of a vector.
        context: the longest input, in tokens, or None.
        reader: turns prompts into token ids.

    Raises:
        ModelError: the model cannot be had, is damaged, or is no causal one.
        InputError: a limit is below 1, or there is no such device.
        MissingExtraError: torch or transformers is not installed.

    Example:
        >>> embedder = CausalVectors("Alibaba-NLP/E2Rank-0.6B")  # doctest: +SKIP
        >>> embedder.encode(["Sow maize 5 cm deep."]).shape  # doctest: +SKIP
        (1, 1024)
    """

    def __init__(
        self,
        model: str | Path,
        *,
        task: str = TASK,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        check_whole(1, or_none=True, batch_tokens=batch_tokens)
        self.loaded = load_language_model(model, device=device, dtype=dtype, revision=revision, headless=True)
        self.reader = PromptReader(self.loaded.tokenizer, self.loaded.checkpoint.name)
        self.model, self.context, self.task = self.loaded.model, self.loaded.context, task
        config = self.model.config.get_text_config(decoder=True)
        config.use_cache = False
        self.dim = int(config.hidden_size)
        self.device = str(self.model.device)
        self.batch_tokens = batch_tokens or (_CPU_TOKENS if self.device == "cpu" else _GPU_TOKENS)
        self._bos, self._end = self.reader.bos, self._ending()
        self._switch = rope_switch(config)
        self._rows = int(self.model.get_input_embeddings().weight.shape[0])
        self._lock = threading.RLock()

    @property
    def model_id(self) -> str:
        """Names weights and recipe; vectors of the same weights made otherwise cannot be compared."""
        return f"{self.loaded.checkpoint.model_id}+last-token"

    @property
    def fingerprint(self) -> str:
        """Changes with everything that a vector depends on, the text aside."""
        return f"{self.loaded.fingerprint}:{self._end}:{self.task}"

    def encode(
        self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage", meter: Meter | None = None
    ) -> Floats:
        """Vectors of texts, float32 ``[n, dim]``, of length 1.

        Raises:
            InputError: a text is not a string.
            ModelError: the model's numbers are not finite, or there is no memory for a single text.
        """
        check_choice("kind", kind, ("passage", "query"))
        for text in texts:
            if not isinstance(text, str):
                raise InputError(f"A text is a string, got {type(text).__name__}: {text!r:.80}")
        entries = self.passages([self.line(text) for text in texts]) if kind == "passage" else self.queries(texts)
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for rows, found in self.run(entries, Work(meter or Meter())):
            vectors[rows] = found
        if not np.isfinite(vectors).all():
            raise ModelError(f'{self.model_id} gave numbers that are not finite; load it with dtype="float32"')
        return vectors

    def line(self, text: str) -> Line:
        """A passage as it is read, and the tokens left out; those far behind are estimated."""
        words = text.split(None, WORDS)
        whole = " ".join(words[:WORDS])
        kept = self.reader.cut(whole, self._room(TOKENS))
        return Line(kept, sum(map(self._size, (whole[len(kept) :], *words[WORDS:]))))

    def passages(self, lines: Sequence[Line]) -> list[list[int]]:
        """Token ids of passages."""
        return self.ids([RawPrompt((self._bos, Data(line.text), self._end)) for line in lines])

    def queries(self, queries: Sequence[str]) -> list[list[int]]:
        """Token ids of queries, for retrieval; a query longer than the context is cut."""
        before: tuple[Part, ...] = (f"{self._bos}Instruct: ", Data(self.task), "\nQuery:")
        room = self._room(TOKENS) - self.reader.count(self.task) - self.reader.count("Instruct: \nQuery:")
        return self.ids([RawPrompt((*before, Data(self.reader.cut(query, room)), self._end)) for query in queries])

    def ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts.

        Raises:
            ModelError: the tokenizer knows tokens that the model does not.
        """
        entries = self.reader.encode(prompts)
        if (highest := max(map(max, filter(None, entries)), default=0)) >= self._rows:
            raise ModelError(
                f"The tokenizer of {self.loaded.checkpoint.name!r} has the id {highest}, and the model's embedding "
                f"{self._rows} rows; use the tokenizer that belongs to the model"
            )
        return entries

    def run(self, entries: Sequence[Sequence[int]], work: Work) -> Iterator[tuple[list[int], Floats]]:
        """Forward passes over token ids: positions, and their vectors ``[rows, dim]``; stops when ``work`` expires.

        Raises:
            ModelError: the model was closed, or not even one text fits into memory.
        """
        none = piece([])
        for group in self._alike([len(entry) for entry in entries]):
            bodies = [np.asarray(entries[i], np.int32) for i in group]
            parts = [Entry(none, body, 0, none) for body in bodies]
            limits = {"budget": self.batch_tokens, "pad_id": self.loaded.pad_id}
            batches = run(parts, self._forward, meter=work.meter, **limits)
            while not work.expired and (done := next(batches, None)) is not None:
                rows, found = done
                yield [group[row] for row in rows], found

    def key(self, line: Line) -> bytes:
        """Where a cache keeps the vector of a passage."""
        return content_key(self.loaded.fingerprint, self._end, line.text)

    def close(self) -> None:
        """Free the model; later calls raise ModelError."""
        with self._lock:
            self.model, self.loaded = None, dataclasses.replace(self.loaded, model=None)
        gc.collect()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def _forward(self, batch: Batch) -> Floats:
        """The states of the last tokens, float32 ``[rows, dim]``, of length 1."""
        import torch

        try:
            with self._lock, torch.inference_mode():
                if self.model is None:
                    raise ModelError("The model has been closed; load it again")
                ids, mask = (torch.from_numpy(part).to(self.device) for part in (batch.ids, batch.mask))
                padded = {} if bool(batch.mask.all()) else {"attention_mask": mask}
                states = self.model(input_ids=ids, **padded).last_hidden_state
                last = states[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1].float()
                vectors: Floats = torch.nn.functional.normalize(last, dim=1).cpu().numpy()
                return vectors
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        raise MemoryError(f"{self.device}: batch of shape {batch.ids.shape}")

    def _alike(self, sizes: Sequence[int]) -> list[list[int]]:
        """Texts that may share a batch: all, but for models that read short and long ones differently."""
        sides: dict[bool, list[int]] = {}
        for i, size in enumerate(sizes):
            sides.setdefault(self._switch is not None and size > self._switch, []).append(i)
        return list(sides.values())

    def _ending(self) -> str:
        end = END if END in self.reader.controls else self.loaded.tokenizer.eos_token
        if not end:
            name = self.loaded.checkpoint.name
            raise ModelError(f"The tokenizer of {name!r} has no token that ends a text; use an embedding checkpoint")
        return str(end)

    def _room(self, limit: int) -> int:
        """Tokens of text beside what frames it, a blank that some tokenizers put in front included."""
        return max(1, min(limit, self.context or limit) - 2 - bool(self._bos))

    def _size(self, text: str) -> int:
        return self.reader.count(text[:_MEASURED]) + max(0, len(text) - _MEASURED) // 4
