"""What a language model on this machine does, whatever its shape: label log-probabilities, likelihoods, replies."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import BackendError, InputError, ModelError
from rerankit.models.causal_engine import CausalEngine
from rerankit.models.causal_generate import Generation, replies
from rerankit.models.causal_labels import first_tokens, gather
from rerankit.models.causal_load import Loaded
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.language import Completion, GenerateOptions, LabelScores
from rerankit.models.prompt import Data, Part, Prompt, RawPrompt
from rerankit.models.work import Work

__all__ = ["Likelihood", "LocalModel"]

T = TypeVar("T")


class Likelihood(NamedTuple):
    """How likely a text is after a prompt.

    Attributes:
        logprob: natural logarithm, summed over the tokens.
        tokens: how many.
    """

    logprob: float
    tokens: int


class LocalModel:
    """Shared by :class:`~rerankit.models.causal.LocalLM` and :class:`~rerankit.models.seq2seq.Seq2SeqLM`."""

    def __init__(self, loaded: Loaded, engine: CausalEngine, reader: PromptReader) -> None:
        self.loaded, self.engine, self.reader = loaded, engine, reader
        self.model, self.tokenizer = loaded.model, loaded.tokenizer
        self.context, self.end_ids = loaded.context, loaded.end_ids
        self.lock = engine.lock
        self._tokens_of = functools.lru_cache(64)(self._label_tokens)
        self._worker: ThreadPoolExecutor | None = None

    @property
    def model_id(self) -> str:
        """Names weights and precision: ``org/name@53aa51172d14:float32``."""
        return self.loaded.model_id

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with weights, tokenizer, chat template and precision."""
        return self.loaded.fingerprint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_id!r})"

    def encode(self, parts: Sequence[Part]) -> list[int]:
        """Token ids of parts as they are, without any layout."""
        return self.reader.encode([RawPrompt(tuple(parts))])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply, without control tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text`` read as data."""
        return self.reader.count(text)

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest beginning of ``text`` within ``max_tokens``, never splitting a character."""
        return self.reader.cut(text, max_tokens)

    def label_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, work: Work | None = None
    ) -> list[LabelScores | BackendError | None]:
        """How likely each label is to begin the reply: one forward pass, read at the last position.

        A label counts with and without a space before it. The logarithms are absolute: they add up to what the labels
        hold of the whole vocabulary.

        Raises:
            ModelError: two labels begin with the same token, or the model's numbers are not finite.
            InputError: there is no label, or an empty one.
        """
        import torch

        self.engine.check_open()
        tokens = self._tokens_of(tuple(labels), True)

        def read(logits: Any) -> Any:
            scores = logits[:, -1].float()
            return gather(scores, tokens) - torch.logsumexp(scores, -1, keepdim=True)

        return self._each(prompts, read, LabelScores, work)

    def label_logits(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, work: Work | None = None, variants: bool = True
    ) -> list[NDArray[np.float64] | BackendError | None]:
        """Raw logits of the labels, float64 ``[labels]`` per prompt; only the labels' rows of the head are computed.

        Their differences are those of the log-probabilities, without a product over the vocabulary.

        Args:
            prompts: what to continue.
            labels: as for :meth:`label_logprobs`.
            work: counts passes and tokens, says when to stop.
            variants: whether the label after a space counts too.

        Raises:
            ModelError: as for :meth:`label_logprobs`.
            InputError: as for :meth:`label_logprobs`.
        """
        self.engine.check_open()
        tokens = self._tokens_of(tuple(labels), variants)
        flat = [token for ids in tokens for token in ids]
        places = [[flat.index(token) for token in ids] for ids in tokens]
        return self._each(prompts, lambda logits: gather(logits[:, -1].float(), places), _same, work, tuple(flat))

    def continuation_logprobs(
        self, prompts: Sequence[Prompt], continuations: Sequence[str], *, work: Work | None = None
    ) -> list[Likelihood | BackendError | None]:
        """How likely each prompt is to be followed by its continuation, which is read as data.

        Raises:
            InputError: not one continuation per prompt, or an empty one.
            ModelError: the model's numbers are not finite.
        """
        self.engine.check_open()
        if len(prompts) != len(continuations):
            raise InputError(f"{len(prompts)} prompts need as many continuations, not {len(continuations)}")
        work = work or Work()
        known = {text: self.reader.continuation([Data(text)]) for text in dict.fromkeys(continuations)}
        if empty := [i for i, text in enumerate(continuations) if not known[text]]:
            raise InputError(f"Continuation {empty[0]} is empty")
        if (highest := max((max(ids) for ids in known.values()), default=0)) >= self.engine.rows:
            raise ModelError(str(self._unknown(highest)))
        targets = [known[text] for text in continuations]
        results: list[Likelihood | BackendError | None] = [None] * len(prompts)
        entries, asked = self._readable(prompts, results, max(map(len, targets), default=0))
        longer = [self.engine.extend(entry, targets[i]) for entry, i in zip(entries, asked, strict=True)]
        for output in self.engine.run(longer, work, last=1 + max((len(targets[i]) for i in asked), default=0)):
            work.meter.llm_calls += len(output.rows)
            for row, logits in zip(output.rows, output.logits, strict=True):
                results[asked[row]] = self._likelihood(logits, targets[asked[row]])
        return results

    def generate_many(
        self, prompts: Sequence[Prompt], *, work: Work | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion | BackendError | None]:
        """One reply per prompt; ``json_schema`` is ignored.

        A reply that the deadline cuts off is returned as far as it got, with ``finish_reason="deadline"``. With a
        ``seed`` the reply of a prompt depends on its position, not on the batch.

        Raises:
            InputError: an option is unknown or out of range.
            ModelError: the model's numbers are not finite.
        """
        self.engine.check_open()
        work = work or Work()
        generation = Generation.of(options, self.model.generation_config)
        results: list[Completion | BackendError | None] = [None] * len(prompts)
        entries, asked = self._readable(prompts, results, 1)
        for row, reply in replies(self, entries, generation, work):
            results[asked[row]] = reply
        return results

    async def alabel_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, work: Work | None = None
    ) -> list[LabelScores | BackendError | None]:
        """:meth:`label_logprobs` for async callers, on a thread of the model's own; cancelling stops the work."""
        work = work or Work()
        return await self._on_worker(lambda: self.label_logprobs(prompts, labels, work=work), work)

    async def agenerate_many(
        self, prompts: Sequence[Prompt], *, work: Work | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion | BackendError | None]:
        """:meth:`generate_many` for async callers, on a thread of the model's own; cancelling stops the work."""
        work = work or Work()
        return await self._on_worker(lambda: self.generate_many(prompts, work=work, **options), work)

    def close(self) -> None:
        """Free the model; later calls raise ModelError."""
        with self.lock:
            worker, self._worker = self._worker, None
            self.engine.close()
            self.model = None
        if worker is not None:
            worker.shutdown(wait=False, cancel_futures=True)

    def _each(
        self,
        prompts: Sequence[Prompt],
        read: Callable[[Any], Any],
        result: Callable[[NDArray[np.float64]], T],
        work: Work | None,
        columns: tuple[int, ...] = (),
    ) -> list[T | BackendError | None]:
        """One forward pass per batch; ``read`` turns logits ``[rows, 1, columns]`` into ``[rows, labels]``."""
        work = work or Work()
        results: list[T | BackendError | None] = [None] * len(prompts)
        entries, asked = self._readable(prompts, results, 0)
        for output in self.engine.run(entries, work, columns=columns):
            work.meter.llm_calls += len(output.rows)
            for row, numbers in zip(output.rows, read(output.logits).double().cpu().numpy(), strict=True):
                self.check_finite(numbers)
                results[asked[row]] = result(numbers)
        return results

    def _readable(
        self, prompts: Sequence[Prompt], results: list[Any], reserve: int
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of the prompts that fit, and their positions; the others get an error into ``results``."""
        entries, asked = [], []
        limit = None if self.context is None else self.context - reserve * self.engine.joint
        for i, entry in enumerate(self.engine.entries(self.reader, prompts)):
            size = self.engine.size(entry)
            if size and (highest := self.engine.highest(entry)) >= self.engine.rows:
                results[i] = self._unknown(highest)
            elif size and (limit is None or size <= limit):
                entries.append(entry)
                asked.append(i)
            else:
                results[i] = self._unreadable(size, reserve)
        return entries, asked

    def _unreadable(self, size: int, reserve: int) -> BackendError:
        if not size:
            return BackendError("The prompt is empty", endpoint=self.model_id)
        after = f" with {reserve} to follow" if reserve else ""
        return BackendError(
            f"The prompt has {size} tokens{after}, and the model reads {self.context}; show shorter or fewer passages",
            endpoint=self.model_id,
        )

    def _unknown(self, token: int) -> BackendError:
        return BackendError(
            f"The token {self.tokenizer.convert_ids_to_tokens(token)!r:.40} has the id {token}, and the model's "
            f"embedding has {self.engine.rows} rows; leave it out, or use the tokenizer that belongs to the model",
            endpoint=self.model_id,
        )

    def _label_tokens(self, labels: tuple[str, ...], variants: bool) -> list[list[int]]:
        tokens = first_tokens(labels, self.reader.first_token, self.loaded.checkpoint.name, variants=variants)
        if (highest := max(token for ids in tokens for token in ids)) >= self.engine.rows:
            raise ModelError(str(self._unknown(highest)))
        return tokens

    def _likelihood(self, logits: Any, target: Sequence[int]) -> Likelihood:
        """Of the target's tokens, from logits ``[last, vocabulary]`` whose last row comes after the target."""
        import torch

        ids = torch.tensor(target, device=logits.device)
        logprobs = torch.log_softmax(logits[-1 - len(target) : -1].float(), dim=-1)
        total = float(logprobs.gather(1, ids[:, None]).double().sum())
        self.check_finite(np.array(total))
        return Likelihood(total, len(target))

    def check_finite(self, numbers: NDArray[Any]) -> None:
        """See that the model gave numbers.

        Raises:
            ModelError: some are not finite.
        """
        if not np.isfinite(numbers).all():
            hint = "the weights are damaged" if self.loaded.dtype == "float32" else 'load it with dtype="float32"'
            raise ModelError(f"{self.model_id} gave numbers that are not finite; {hint}")

    async def _on_worker(self, job: Callable[[], T], work: Work) -> T:
        with self.lock:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="rerankit-model")
            future = self._worker.submit(job)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            work.cancelled.set()
            raise


def _same(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    return numbers
