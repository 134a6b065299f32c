"""Runs token ids through a causal model: batches, shared beginnings, memory limits, one lock."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rerankit.errors import ModelError
from rerankit.models.backend_torch import is_out_of_memory
from rerankit.models.causal_batches import Batch, Limits, schedule
from rerankit.models.causal_probe import batches_exactly, rope_switch
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.prefixes import NONE, Shared, shared_prefixes
from rerankit.models.prompt import Prompt
from rerankit.models.work import Work

if TYPE_CHECKING:
    from rerankit.models.prefix_cache import PrefixStore

__all__ = ["CausalEngine", "Output"]

_HEADS = 8
"""Most label heads to keep."""

logger = logging.getLogger(__name__)

_CPU_TOKENS, _GPU_TOKENS = 2048, 16_384
_CPU_KEPT, _GPU_KEPT = 16_384, 32_768
"""Most tokens of group beginnings to keep: 2 to 4 GB of keys and values for a model of 8 B parameters."""

_CPU_LOGITS, _GPU_LOGITS = 2**26, 2**28
"""Most numbers in one tensor of logits."""


class Output(NamedTuple):
    """What one forward pass gives.

    Attributes:
        rows: which prompts.
        logits: ``[rows, last, vocabulary or columns]``.
        cache: keys and values, where they were asked for.
        mask: int64 ``[rows, tokens]``, where there are tokens.
        ids: the prompts' tokens, where replies cannot always go on from a cache.
    """

    rows: tuple[int, ...]
    logits: Any
    cache: Any
    mask: Any
    ids: tuple[list[int], ...] = ()


class Going(NamedTuple):
    """Replies half-way: the cache of their rows, the mask of its columns, and their tokens where those are needed."""

    cache: Any
    mask: Any
    ids: tuple[list[int], ...] = ()


class Job(NamedTuple):
    """What is the same for all batches of one run; see :meth:`CausalEngine.run`."""

    prompts: Sequence[Any]
    store: PrefixStore
    work: Work
    last: int
    columns: tuple[int, ...]
    grow: bool


class CausalEngine:
    """A loaded causal model: token ids in, logits out. Safe between threads: one forward pass at a time.

    Args:
        model: of transformers, in evaluation mode, on its device.
        pad_id: token id of the padding.
        limits: of each batch, as the caller wants them.

    Attributes:
        lock: held during each forward pass.
        joint: whether prompt and reply share the context.
        padded: whether a batch may hold prompts of several lengths; otherwise nothing is padded and nothing reused.
        rows: of the token embedding: ids from there on mean nothing to the model.
        switch: the longest pass with the short rotary factors, see :func:`~rerankit.models.causal_probe.rope_switch`.
    """

    joint = True

    def __init__(self, model: Any, pad_id: int, limits: Limits) -> None:
        from rerankit.models.prefix_cache import reach

        self.model = model
        self.device = str(model.device)
        cpu = self.device == "cpu"
        if limits.tokens is None and limits.rows is None:
            limits = Limits(_CPU_TOKENS if cpu else _GPU_TOKENS)
        self.limits = limits
        self._kept_tokens = _CPU_KEPT if cpu else _GPU_KEPT
        self._most_logits = _CPU_LOGITS if cpu else _GPU_LOGITS
        self.reach = reach(model)
        self.lock = threading.RLock()
        self._heads: dict[tuple[int, ...], Any] = {}
        parameters = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._takes_last = "logits_to_keep" in parameters
        self._takes_cache = "past_key_values" in parameters
        self._takes_switch = "use_cache" in parameters
        self.rows = int(model.get_input_embeddings().weight.shape[0])
        self.pad_id = pad_id if pad_id < self.rows else 0
        self.switch = rope_switch(model.config.get_text_config(decoder=True))
        self.padded = True
        if self.joint and not batches_exactly(self):
            logger.info("%s takes no padding; prompts of one length make a batch", type(model).__name__)
            self.padded, self.reach = False, 0

    def run(
        self,
        prompts: Sequence[Any],
        work: Work,
        *,
        last: int = 1,
        columns: tuple[int, ...] = (),
        reserve: int | None = None,
    ) -> Iterator[Output]:
        """Forward passes over all prompts; stops between two when ``work`` has expired.

        Args:
            prompts: from :meth:`entries`, none empty.
            work: counts passes and tokens.
            last: at how many last positions logits are wanted.
            columns: the only tokens whose logits are wanted; the rest of the vocabulary is not computed.
            reserve: tokens to generate afterwards; the cache is handed out then.

        Raises:
            ModelError: not even one prompt fits into memory.
        """
        self.check_open()
        for rows in self._alike(prompts, reserve or 0):
            part = [prompts[i] for i in rows]
            batches, store = self._plan(part, last, reserve or 0)
            for output in self._batches(batches, Job(part, store, work, last, columns, reserve is not None)):
                yield output._replace(rows=tuple(rows[i] for i in output.rows))

    def _batches(self, batches: list[Batch], job: Job) -> Iterator[Output]:
        """One forward pass per batch, or several where memory does not suffice."""
        prompts, work = job.prompts, job.work
        waiting = batches[::-1]
        while waiting and not work.expired:
            batch = waiting.pop()
            try:
                yield self._forward(batch, job)
            except MemoryError as error:
                if len(batch.rows) == 1:
                    size = self.size(prompts[batch.rows[0]])
                    raise ModelError(
                        f"Not enough memory for one prompt of {size} tokens. Show less text, or use another device."
                    ) from error
                logger.warning("Out of memory with %d prompts in a batch; halving it", len(batch.rows))
                waiting.extend(reversed(batch.halves()))

    def _alike(self, prompts: Sequence[Any], reserve: int) -> list[list[int]]:
        """Prompts that may share a batch: all, but for models that read them differently by length."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for i, prompt in enumerate(prompts):
            size = self.size(prompt)
            long = self.switch is not None and size > self.switch
            crosses = self.switch is not None and not long and size + reserve > self.switch
            groups.setdefault((long, size if crosses or not self.padded else 0), []).append(i)
        return list(groups.values())

    def _plan(self, prompts: Sequence[Any], last: int, reserve: int) -> tuple[list[Batch], PrefixStore]:
        """The batches in their order, and what is to hold the beginnings that they share."""
        from rerankit.models.prefix_cache import PrefixStore

        shared = self._shared(prompts, last, reserve)
        sizes = [len(prompt) for prompt in prompts]
        return schedule(sizes, shared, self._limits(last, max(sizes), reserve)), PrefixStore(shared.lengths)

    def _shared(self, prompts: Sequence[list[int]], last: int, reserve: int) -> Shared:
        """What the prompts share, where the model can take it from another prompt."""
        shared = shared_prefixes(prompts, capacity=self._kept_tokens, own=last)
        widest = max(shared.lengths) + max(map(len, prompts), default=0) + reserve
        if self.reach is None or widest <= self.reach:
            return shared
        return Shared((0,), (NONE,) * len(prompts))

    def _limits(self, last: int, longest: int, reserve: int) -> Limits:
        """The limits of a batch, tighter where logits of many positions or the replies' cache would need the memory."""
        rows = self.limits.rows
        if reserve and rows is None:
            rows = max(1, self._kept_tokens // (longest + reserve))
        if last > 1:
            most = max(1, self._most_logits // (last * self.model.config.get_text_config().vocab_size))
            rows = min(most, rows or most)
        return Limits(self.limits.tokens, rows)

    def _forward(self, batch: Batch, job: Job) -> Output:
        import torch

        try:
            with self.lock, torch.inference_mode(), self._headed(job.columns):
                return self._compute(batch, job)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        for number in batch.keep:
            job.store.states.pop(number, None)
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        raise MemoryError(f"{self.device}: batch of {len(batch.rows)} prompts")

    def _compute(self, batch: Batch, job: Job) -> Output:
        """One forward pass; the lock is held."""
        from rerankit.models.prefix_cache import with_past

        known = [job.store.length(number) for number in batch.past]
        ids, mask = self._pad([job.prompts[i][n:] for i, n in zip(batch.rows, known, strict=True)], known)
        cache = None
        if batch.keep or max(batch.past) != NONE or (job.grow and self.reach != 0):
            cache = with_past(self.model, job.store, batch.past, batch.keep, mask, job.grow)
        output = self.step(ids, mask, cache, job.last, job.grow)
        meter = job.work.meter
        meter.forward_passes += 1
        meter.padded_tokens += ids.numel()
        meter.input_tokens += sum(len(job.prompts[i]) for i in batch.rows) - sum(known)
        logits = self._picked(output.logits[:, -job.last :], job.columns)
        if not job.grow:
            return Output(batch.rows, logits, None, mask)
        kept = getattr(output, "past_key_values", None)
        starts_anew = kept is None or self.switch is not None
        return Output(batch.rows, logits, kept, mask, tuple(job.prompts[i] for i in batch.rows) if starts_anew else ())

    def close(self) -> None:
        """Free the model."""
        with self.lock:
            self.model = None
            self._heads.clear()
        gc.collect()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def begin(self, output: Output) -> Going:
        """The state from which replies go on."""
        return Going(output.cache, output.mask, output.ids)

    def next(self, state: Going, rows: Sequence[int], tokens: Sequence[int]) -> tuple[Any, Going]:
        """Logits ``[rows, 1, vocabulary]`` after one more token each, for the rows that go on.

        Raises:
            ModelError: the memory does not suffice for replies of that length.
        """
        import torch

        try:
            with self.lock, torch.inference_mode():
                self.check_open()
                return self._next(state, rows, tokens)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"Not enough memory for {len(rows)} replies at a time. Lower max_tokens, batch_tokens or batch_size"
            ) from error

    def _next(self, state: Going, rows: Sequence[int], tokens: Sequence[int]) -> tuple[Any, Going]:
        """See :meth:`next`; the lock is held."""
        import torch

        cache, mask, known = state
        if known:
            known = tuple([*known[row], token] for row, token in zip(rows, tokens, strict=True))
            if cache is None or len(known[0]) - 1 == self.switch:
                return self._anew(known, cache is not None)
        if len(rows) < len(mask):
            index = torch.tensor(list(rows), device=self.device)
            mask = mask[index]
            cache.batch_select_indices(index)
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        ids = torch.tensor(tokens, device=self.device)[:, None]
        output = self.step(ids, mask, cache)
        return output.logits, Going(output.past_key_values, mask, known)

    def _anew(self, known: tuple[list[int], ...], keep: bool) -> tuple[Any, Going]:
        """Logits ``[rows, 1, vocabulary]`` after all tokens so far, computed from the first on.

        For models that keep no cache of ours, and where the rotary factors change on the way (as transformers does).
        """
        ids, mask = self._pad(known, [0] * len(known))
        output = self.step(ids, mask, None, use_cache=keep)
        return output.logits[:, -1:], Going(output.past_key_values if keep else None, mask, known)

    def entries(self, reader: PromptReader, prompts: Sequence[Prompt]) -> list[Any]:
        """The prompts as this engine runs them: token ids."""
        return list(reader.encode(prompts))

    def size(self, entry: Any) -> int:
        """Tokens of a prompt."""
        return len(entry)

    def extend(self, entry: Any, ids: list[int]) -> Any:
        """A prompt with more of the reply."""
        return entry + ids

    def highest(self, entry: Any) -> int:
        """The largest token id of a prompt that is not empty."""
        return int(max(entry))

    def check_open(self) -> None:
        """See that the model is still there.

        Raises:
            ModelError: it has been closed.
        """
        if self.model is None:
            raise ModelError("The model has been closed; load it again")

    def step(self, ids: Any, mask: Any, cache: Any, last: int = 1, use_cache: bool = True) -> Any:
        """One call of the model for the newest columns of ``mask``; the caller holds the lock."""
        extra: dict[str, Any] = {}
        if self._takes_cache:
            extra |= {"past_key_values": cache, "use_cache": use_cache or cache is not None}
        elif self._takes_switch:
            extra["use_cache"] = False
        if self._takes_positions and self.padded:
            extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if self._takes_last:
            extra["logits_to_keep"] = last
        return self.model(input_ids=ids, attention_mask=mask, **extra)

    def _pad(self, rows: Sequence[list[int]], known: Sequence[int]) -> tuple[Any, Any]:
        """Token ids ``[rows, new]`` and mask ``[rows, past + new]``, both padded on the left."""
        import torch

        width, past = max(map(len, rows)), max(known)
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), past + width), dtype=torch.int64)
        for i, (row, length) in enumerate(zip(rows, known, strict=True)):
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, past - length : past] = 1
            mask[i, past + width - len(row) :] = 1
        return ids.to(self.device), mask.to(self.device)

    @staticmethod
    def _picked(logits: Any, columns: tuple[int, ...]) -> Any:
        """The columns, where the whole vocabulary was computed after all."""
        return logits if not columns or logits.shape[-1] == len(columns) else logits[..., list(columns)]

    def _head(self, columns: tuple[int, ...]) -> Any:
        """An output layer of those columns only; the model's own where it is of an unusual kind."""
        import torch

        own = self.model.get_output_embeddings()
        if not columns or type(own) is not torch.nn.Linear:
            return own
        if columns not in self._heads:
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            few = torch.nn.Linear(own.in_features, len(columns), bias=own.bias is not None, device="meta")
            few.weight = torch.nn.Parameter(own.weight[list(columns)], requires_grad=False)
            if own.bias is not None:
                few.bias = torch.nn.Parameter(own.bias[list(columns)], requires_grad=False)
            self._heads[columns] = few
        return self._heads[columns]

    @contextlib.contextmanager
    def _headed(self, columns: tuple[int, ...]) -> Iterator[None]:
        """The model with an output layer of those columns; what it does to logits after that layer stays as it is."""
        self.check_open()
        if not columns:
            yield
            return
        own = self.model.get_output_embeddings()
        self.model.set_output_embeddings(self._head(columns))
        try:
            yield
        finally:
            self.model.set_output_embeddings(own)
