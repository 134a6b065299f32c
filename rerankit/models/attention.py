"""AttentionReader: which tokens of a prompt the chosen heads of a causal language model look at.

Queries and keys are taken as they enter the attention of a layer, after rotary embedding and any norm, through
transformers' attention interface. The model itself runs on torch's scaled dot product attention, the attention
matrix is never made, and a forward pass ends at the last layer that holds a chosen head, before its own attention.

A prompt is read in two steps: a *prefix* once, then one or several *tails* that continue it, packed into one forward
pass over the keys and values of the prefix. A tail does not see the others, so a reading of two is two readings.

In-context reranking: Chen et al., "Attention in Large Language Models Yields Efficient Zero-Shot Re-Rankers"
(arXiv:2410.02642).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError, require
from rerankit.models.attention_layers import Head, check_layers, model_shape, name_of, window
from rerankit.models.attention_rows import Rows, add_attention
from rerankit.models.backend_torch import is_out_of_memory
from rerankit.models.causal_probe import rope_switch
from rerankit.models.work import Work

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AttentionReader", "HoldsModel", "Prefix", "Tail"]

Floats = NDArray[np.float32]

_NAME = "rerankit_reader"
_FOREIGN = ("softcap", "s_aux", "position_bias")
"""Arguments of attention functions that change the softmax in ways that are not read here."""


class HoldsModel(Protocol):
    """What the reader needs of a ``LocalLM``: the transformers model and the lock around it."""

    @property
    def model(self) -> Any:
        """A causal language model of transformers."""

    @property
    def lock(self) -> Any:
        """Held while the model works."""


@dataclass(frozen=True, slots=True)
class Tail:
    """A continuation of the prefix, and which of its rows are read: all, or those from ``first`` up to ``last``."""

    ids: Sequence[int]
    first: int = 0
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """What is left of a prefix that was read.

    Attributes:
        length: its tokens.
        columns: the positions that readings tell about.
        sums: float32 ``[slots, columns]``: attention of its own last rows, summed over them.
        cache: keys and values, up to the last layer that is read.
    """

    length: int
    columns: slice
    sums: Floats
    cache: Any = field(repr=False)


class AttentionReader:
    """Reads some heads of a model. Safe between threads: it works under the model's lock.

    Args:
        lm: a ``LocalLM``, or whatever holds a model and its lock.
        heads: which heads; duplicates count once.
        per_head: give each head's attention by itself, in the order of ``self.heads``; else their sum.

    Raises:
        ModelError: a head does not exist, or the model's layers are not plain causal attention.
    """

    def __init__(self, lm: HoldsModel, heads: Sequence[Head], *, per_head: bool = False) -> None:
        require("transformers", extra="torch", purpose="Reading a model's attention")
        self.lm, self.per_head = lm, per_head
        self.heads = sorted(set(heads))
        self.shape = model_shape(lm.model)
        self._check_heads()
        self.depth = self.heads[-1][0] + 1
        self.slots = len(self.heads) if per_head else 1
        check_layers(lm.model, self.depth)
        if not getattr(getattr(lm, "engine", None), "padded", True):
            raise ModelError(
                f"{name_of(lm.model)} cannot go on from a beginning that was read before; use another model"
            )
        self.switch = rope_switch(lm.model.config.get_text_config())
        _register()

    def read_prefix(
        self, ids: Sequence[int], columns: slice, *, rows: int = 0, work: Work | None = None
    ) -> Prefix | None:
        """Run the prefix.

        Args:
            ids: token ids.
            columns: the positions to tell about, here and in :meth:`read_tails`.
            rows: how many of the last rows to read; each sees all before it.
            work: counts the pass; None is returned if it expires.

        Raises:
            ModelError: a layer attends to a window that is shorter than this.
        """
        import torch

        self.check_length(len(ids))
        cache = _caches().DynamicCache()
        device = self.lm.model.device
        wanted = Rows(torch.ones(1, rows, device=device), torch.ones(rows, rows, device=device).tril().bool(), columns)
        sums = self._forward(ids, range(len(ids)), cache, wanted, None, work)
        return None if sums is None else Prefix(len(ids), columns, sums[:, 0], cache)

    def read_tails(self, prefix: Prefix, tails: Sequence[Tail], *, work: Work | None = None) -> Floats | None:
        """What each tail looks at in the prefix's columns.

        Args:
            prefix: of this reader.
            tails: at least one, each with at least one token.
            work: counts the pass; None is returned if it expires.

        Returns:
            Float32 ``[tails, slots, columns]``: attention summed over the rows of each tail (and over the heads, unless
            the reader is ``per_head``).

        Raises:
            ModelError: a layer attends to a window that is shorter than prefix and tail, or the rotary factors change
                between the two.
        """
        import torch

        lengths = [len(tail.ids) for tail in tails]
        self.check_length(prefix.length + max(lengths))
        if self.switch is not None and prefix.length <= self.switch < prefix.length + max(lengths):
            raise ModelError(
                f"{name_of(self.lm.model)} has other rotary factors from {self.switch + 1} tokens on, and the prompt "
                f"crosses that with its query ({prefix.length} to {prefix.length + max(lengths)} tokens). Set "
                f"max_tokens={self.switch}, or show more."
            )
        device = self.lm.model.device
        owner = torch.arange(len(tails)).repeat_interleave(torch.tensor(lengths))
        sees = (owner[:, None] == owner).tril().to(device)
        weights = _weights(tails, sees.shape[0]).to(device)
        before = torch.ones(sees.shape[0], prefix.length, dtype=torch.bool, device=device)
        mask = torch.cat([before, sees], dim=1)[None, None]
        ids = [token for tail in tails for token in tail.ids]
        positions = [prefix.length + i for n in lengths for i in range(n)]
        borrowed = _caches().borrowed(prefix.cache)
        sums = self._forward(ids, positions, borrowed, Rows(weights, sees, prefix.columns), mask, work)
        return None if sums is None else sums.transpose(1, 0, 2)

    def check_length(self, tokens: int) -> None:
        """See that every layer that is run sees a prompt of so many tokens whole.

        Raises:
            ModelError: one does not, or the model has been closed.
        """
        if self.lm.model is None:
            raise ModelError("The model has been closed; load it again")
        seen = window(self.lm.model.config.get_text_config(), self.depth)
        if seen is not None and tokens > seen:
            raise ModelError(
                f"{name_of(self.lm.model)} attends to the last {seen} tokens only (sliding window), and the prompt has "
                f"{tokens}: what lies before cannot be read. Give fewer or shorter passages, or use a model with full "
                "attention."
            )

    def _forward(
        self, ids: Sequence[int], positions: Sequence[int], cache: Any, rows: Rows, mask: Any, work: Work | None
    ) -> Floats | None:
        """``[slots, groups, columns]``, or None if ``work`` expired on the way."""
        import torch

        work = work or Work()
        model, width = self.lm.model, len(range(*rows.columns.indices(10**9)))
        with self.lm.lock, _reading(model), torch.inference_mode():
            sums = torch.zeros(self.slots, rows.weights.shape[0], width, device=model.device)
            reading = _Reading(self._by_layer(), self.depth, rows, mask, sums, work)
            _run(model, ids, positions, cache, reading)
            if work.expired and reading.layers_run < self.depth:
                return None
            work.meter.forward_passes += 1
            work.meter.input_tokens += len(ids)
            if reading.layers_run < self.depth:
                raise ModelError(
                    f"{name_of(model)} does not run its attention through transformers' attention interface"
                )
            result: Floats = sums.cpu().numpy()
            return result

    def _by_layer(self) -> dict[int, tuple[list[int], list[int]]]:
        """Per layer its heads and their slots."""
        layers: dict[int, tuple[list[int], list[int]]] = {}
        for slot, (layer, head) in enumerate(self.heads):
            heads, slots = layers.setdefault(layer, ([], []))
            heads.append(head)
            slots.append(slot if self.per_head else 0)
        return layers

    def _check_heads(self) -> None:
        layers, heads = self.shape.layers, self.shape.heads
        wrong = [(layer, head) for layer, head in self.heads if not (0 <= layer < layers and 0 <= head < heads)]
        if wrong or not self.heads:
            what = f"no head {wrong[0][0]}-{wrong[0][1]}" if wrong else "no head to read: none was chosen"
            raise ModelError(f"{name_of(self.lm.model)} has {what}; it has {layers} layers of {heads} heads, from 0")


class _Finished(Exception):  # noqa: N818 (not an error: it ends a forward pass that has told all it can)
    pass


@dataclass(slots=True)
class _Reading:
    """One forward pass being read."""

    layers: dict[int, tuple[list[int], list[int]]]
    depth: int
    rows: Rows
    mask: Tensor | None
    sums: Tensor
    work: Work
    layers_run: int = 0

    def look(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Read what is wanted of a layer.

        Raises:
            _Finished: nothing is wanted of the layers behind it, or nobody waits any more.
        """
        if self.work.expired:
            raise _Finished
        if layer in self.layers and self.rows.sees.shape[0]:
            heads, slots = self.layers[layer]
            add_attention(self.sums, query[0], key[0], self.rows, heads, slots, scaling)
        self.layers_run = layer + 1
        if self.layers_run == self.depth:
            raise _Finished


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """The attention function of a model that is being read.

    Prompts are never padded, so a prefix is plainly causal and a tail has the mask that is made for it; whatever mask
    transformers would make is not needed (it makes none for a name it knows no mask function for).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    reading: _Reading | None = arguments.pop("rerankit_reading", None)
    if reading is None:
        raise ModelError(f"{type(module).__name__} keeps from its attention what a reader needs; use another model")
    if foreign := [name for name in _FOREIGN if arguments.get(name) is not None]:
        raise ModelError(f"The attention of {type(module).__name__} uses {foreign[0]!r}, which cannot be read")
    scaling = arguments.get("scaling") or query.shape[-1] ** -0.5
    reading.look(module.layer_idx, query, key, scaling)
    arguments["is_causal"] = reading.mask is None
    output, _ = sdpa_attention_forward(module, query, key, value, reading.mask, **arguments)
    return output, None


def _register() -> None:
    """Make the attention function known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)


def _run(model: Any, ids: Sequence[int], positions: Sequence[int], cache: Any, reading: _Reading) -> None:
    """The forward pass, up to where the reading ends it.

    Raises:
        ModelError: it does not fit into memory, or holds a token that the model does not have.
    """
    import torch

    if (highest := max(ids)) >= (rows := model.get_input_embeddings().weight.shape[0]):
        raise ModelError(f"{name_of(model)} has {rows} rows in its embedding, and the prompt holds the token {highest}")
    try:
        with contextlib.suppress(_Finished):
            model.base_model(
                input_ids=torch.tensor([list(ids)], device=model.device),
                position_ids=torch.tensor([list(positions)], device=model.device),
                past_key_values=cache,
                use_cache=True,
                rerankit_reading=reading,
            )
    except RuntimeError as error:
        if isinstance(error, ModelError) or not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{name_of(model)} does not fit into memory together with {len(ids)} tokens. Show fewer or shorter "
            "passages, or set max_tokens, so that longer lists are ranked in parts."
        ) from error


@contextlib.contextmanager
def _reading(model: Any) -> Iterator[None]:
    """Let the model's attention go through the reader, and give it back its own."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _caches() -> Any:
    """The cache classes; their base is transformers', so they are made on first use."""
    from rerankit.models import attention_cache

    return attention_cache


def _weights(tails: Sequence[Tail], rows: int) -> Tensor:
    """Float32 ``[tails, rows]``: 1 on each tail's rows that are read."""
    import torch

    weights = torch.zeros(len(tails), rows)
    start = 0
    for number, tail in enumerate(tails):
        weights[number, start : start + len(tail.ids)][tail.first : tail.last] = 1.0
        start += len(tail.ids)
    return weights
