"""What every encoder has: a checkpoint, its tokenizer, a back end, a lock; entries in, outputs out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, ModelError
from rerankit.models import batching
from rerankit.models.backends import Backend, Choice, Task, load
from rerankit.models.catalog import facts
from rerankit.models.checkpoint import Checkpoint, find_checkpoint
from rerankit.models.layout import Entry
from rerankit.models.meter import Meter
from rerankit.models.tokens import TokenCache, load_tokenizer

Collect = Callable[[int, NDArray[np.float32]], None]
"""Takes an entry's position and its output row."""


class Engine:
    """Loads a model and runs entries through it. Safe between threads: one call at a time.

    Args:
        model: local folder, or a name on the Hugging Face hub.
        task: what the graph returns.
        wanted: back end, device and dtype, each possibly ``auto``.
        revision: of a hub model: commit, tag or branch.
        batch_tokens: padded tokens per batch; bounds the peak memory. None: what suits the device.
        name: what to call a local model.
    """

    def __init__(
        self,
        model: str | Path,
        task: Task,
        wanted: Choice,
        *,
        revision: str | None = None,
        batch_tokens: int | None = None,
        name: str | None = None,
    ) -> None:
        _check_count("batch_tokens", batch_tokens)
        self.task: Task = task
        self.checkpoint = find_checkpoint(model, revision, name)
        self.checkpoint.check_weights()
        self.facts = facts(self.checkpoint.name)
        self.tokens = TokenCache(load_tokenizer(self.checkpoint.folder))
        _check_vocabulary(self.checkpoint, self.tokens)
        self.pad_id = self.checkpoint.pad_id(self.tokens.tokenizer.token_to_id("[PAD]"))
        self.choice: Choice
        self._backend, self.choice = load(self.checkpoint, task, wanted)
        self._exact: Backend | None = self._backend if self.choice.dtype == "float32" else None
        self.batch_tokens = batch_tokens
        self._lock = threading.RLock()  # a progress callback may use the encoder
        self._closed = False

    def run(self, entries: Sequence[Entry], collect: Collect, meter: Meter | None, *, float32: bool = False) -> None:
        """Run all entries and hand each output row to ``collect``.

        Args:
            entries: what to run.
            collect: called once per entry, in no particular order, in the calling thread.
            meter: counts the work.
            float32: run in full precision even if the engine normally does not.

        Raises:
            ModelError: the engine is closed, or a single entry does not fit into memory.
        """
        with self._lock:
            if self._closed:
                raise ModelError(f"The model {self.checkpoint.name!r} has been closed")
            backend = self._float32() if float32 else self._backend
            budget = self.batch_tokens or backend.budget
            done = batching.run(
                entries, backend, budget=budget, pad_id=self.pad_id, meter=meter or Meter(), streams=backend.streams
            )
            for positions, output in done:
                for position, row in zip(positions, output, strict=True):
                    collect(position, row)

    def _float32(self) -> Backend:
        if self._exact is None:
            exact = Choice(self.choice.backend, self.choice.device, "float32")
            self._exact, _ = load(self.checkpoint, self.task, exact)
        return self._exact

    def max_tokens(self, asked: int | None, stated: int | None, fixed: int) -> int:
        """The length limit: what the caller asked for, within what the model can do.

        Raises:
            InputError: ``asked`` is more than the model has positions for, or leaves no room for text.
        """
        _check_count("max_tokens", asked)
        possible = self.checkpoint.longest_input()
        limit = min(possible, stated or possible, self.facts.max_tokens or possible) if asked is None else asked
        if limit > possible:
            raise InputError(f"max_tokens={asked} is more than the {possible} that {self.checkpoint.name!r} can read")
        if limit <= fixed:
            raise InputError(f"max_tokens={asked} leaves no room beside the model's {fixed} fixed tokens")
        return limit

    def close(self) -> None:
        """Free the model; later calls raise ModelError."""
        with self._lock:
            self._closed = True
            self._backend.close()
            if self._exact is not None:
                self._exact.close()


def _check_count(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_vocabulary(checkpoint: Checkpoint, tokens: TokenCache) -> None:
    """More tokens than embedding rows: some text would read beyond the table."""
    rows, ids = checkpoint.config.get("vocab_size"), tokens.tokenizer.get_vocab_size()
    if isinstance(rows, int) and ids > rows:
        raise ModelError(
            f"The tokenizer in {checkpoint.folder} has {ids} tokens, the model only {rows} embeddings: they do not "
            "belong together. Download the model again."
        )
