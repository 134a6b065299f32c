"""Seq2SeqLM: an encoder-decoder (T5, monoT5, DuoT5, FLAN, BART) as a judge: the prompt is encoded, the reply decoded.

monoT5: Nogueira et al., "Document Ranking with a Pretrained Sequence-to-Sequence Model" (arXiv:2003.06713).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rerankit.models.causal_batches import Batch, Limits, schedule
from rerankit.models.causal_engine import CausalEngine, Going, Job, Output
from rerankit.models.causal_load import Loaded, load_language_model
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.local import LocalModel
from rerankit.models.prefixes import NONE, Shared
from rerankit.models.prompt import ChatPrompt, Prompt, RawPrompt, as_chat

if TYPE_CHECKING:
    from rerankit.models.prefix_cache import PrefixStore

__all__ = ["Seq2SeqLM"]


class Seq2SeqLM(LocalModel):
    """An encoder-decoder language model from a folder or the Hugging Face hub, run by transformers.

    The prompt's ``reply`` is the beginning of what the decoder says. There is no chat template; the turns are joined by
    blank lines. Otherwise as :class:`~rerankit.models.causal.LocalLM`.

    Args:
        model, device, dtype, revision, batch_tokens, batch_size: as for ``LocalLM``.

    Raises:
        ModelError: the model cannot be had, is damaged, or is no encoder-decoder.
        InputError: a limit is below 1, or there is no such device.
        MissingExtraError: torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        limits = Limits.of(batch_tokens, batch_size)
        loaded = load_language_model(model, device=device, dtype=dtype, revision=revision, encoder_decoder=True)
        reader = PromptReader(loaded.tokenizer, loaded.checkpoint.name, end="")
        super().__init__(loaded, _Engine(loaded, limits), reader)


class _Entry(NamedTuple):
    """What the encoder and the decoder read."""

    prompt: list[int]
    reply: list[int]


class _Encoded(NamedTuple):
    """The encoder's output and its mask, beside the decoder's cache."""

    states: Any
    mask: Any
    cache: Any


class _Engine(CausalEngine):
    """Encodes and decodes. Decoder inputs of a batch have one length, so that only encoders see padding."""

    joint = False

    def __init__(self, loaded: Loaded, limits: Limits) -> None:
        super().__init__(loaded.model, loaded.pad_id, limits)
        config, tokenizer = loaded.model.config, loaded.tokenizer
        start = getattr(config, "decoder_start_token_id", None)
        self._start = loaded.pad_id if start is None else int(start)
        ends = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
        self._end = [tokenizer.eos_token_id] if ends else []

    def entries(self, reader: PromptReader, prompts: Sequence[Prompt]) -> list[Any]:
        """Encoder and decoder input of each prompt."""
        chats = [prompt if isinstance(prompt, RawPrompt) else as_chat(prompt) for prompt in prompts]
        replies = [chat.reply if isinstance(chat, ChatPrompt) else "" for chat in chats]
        known = {reply: reader.continuation([reply]) if reply else [] for reply in set(replies)}
        asked: list[Prompt] = [
            dataclasses.replace(chat, reply="") if isinstance(chat, ChatPrompt) else chat for chat in chats
        ]
        return [
            _Entry(ids + self._end if ids else ids, [self._start, *known[reply]])
            for ids, reply in zip(reader.encode(asked), replies, strict=True)
        ]

    def size(self, entry: Any) -> int:
        """Tokens that the encoder reads."""
        return len(entry.prompt)

    def highest(self, entry: Any) -> int:
        """The largest token id of prompt and reply."""
        return int(max(*entry.prompt, *entry.reply))

    def extend(self, entry: Any, ids: list[int]) -> Any:
        """A prompt with more of the reply."""
        return _Entry(entry.prompt, entry.reply + ids)

    def _next(self, state: Going, rows: Sequence[int], tokens: Sequence[int]) -> tuple[Any, Going]:
        import torch

        states, mask, cache = state.cache
        if len(rows) < len(mask):
            index = torch.tensor(list(rows), device=self.device)
            states, mask = states[index], mask[index]
            cache.batch_select_indices(index)
        output = self._decode(states, mask, torch.tensor(tokens, device=self.device)[:, None], cache, True)
        return output.logits, Going(_Encoded(states, mask, output.past_key_values), mask)

    def _plan(self, prompts: Sequence[Any], last: int, reserve: int) -> tuple[list[Batch], PrefixStore]:
        """Batches of one decoder length each; an encoder reads both ways, so nothing can be shared."""
        from rerankit.models.prefix_cache import PrefixStore

        by_length: dict[int, list[int]] = {}
        for i, entry in enumerate(prompts):
            by_length.setdefault(len(entry.reply), []).append(i)
        batches: list[Batch] = []
        for rows in by_length.values():
            alone = Shared((0,), (NONE,) * len(rows))
            sizes = [len(prompts[i].prompt) for i in rows]
            part = schedule(sizes, alone, self._limits(last, max(sizes), reserve))
            batches += [Batch(tuple(rows[i] for i in batch.rows), batch.past, {}) for batch in part]
        return batches, PrefixStore((0,))

    def _head(self, columns: tuple[int, ...]) -> Any:
        """The whole output layer: BART adds a bias of the vocabulary's size to what comes out of it."""
        return self.model.get_output_embeddings()

    def _compute(self, batch: Batch, job: Job) -> Output:
        import torch

        entries = [job.prompts[i] for i in batch.rows]
        ids, mask = self._pad([entry.prompt[::-1] for entry in entries], [0] * len(entries))
        ids, mask = ids.flip(1), mask.flip(1)  # padding on the right, for models with absolute positions
        states = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        reply = torch.tensor([entry.reply for entry in entries], device=self.device)
        output = self._decode(states, mask, reply, None, job.grow)
        meter = job.work.meter
        meter.forward_passes += 1
        meter.padded_tokens += ids.numel() + reply.numel()
        meter.input_tokens += int(mask.sum()) + reply.numel()
        cache = _Encoded(states, mask, output.past_key_values) if job.grow else None
        return Output(batch.rows, self._picked(output.logits[:, -job.last :], job.columns), cache, mask)

    def _decode(self, states: Any, mask: Any, reply: Any, cache: Any, grow: bool) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=reply,
            past_key_values=cache,
            use_cache=grow,
        )
