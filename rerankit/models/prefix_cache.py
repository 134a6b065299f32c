"""Keys and values of shared beginnings: kept from one row of a batch, lent to the rows of others.

Imported only where torch and transformers are there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rerankit.models.prefixes import NONE

__all__ = ["PrefixStore", "reach", "with_past"]

States = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one layer, ``[heads, tokens, head_dim]`` each."""


def reach(model: Any) -> int | None:
    """Up to how many tokens a model's attention sees all that came before; None for any number.

    0 for models to which a beginning cannot be lent: those that keep something else than keys and values of every
    token (recurrent and hybrid ones), and those that take a token's place in the tensor for its position.
    """
    config = model.config.get_text_config(decoder=True)
    layers: list[Any] = DynamicCache(config=config).layers
    placed = {"position_ids", "past_key_values"} <= inspect.signature(model.forward).parameters.keys()
    if not placed or getattr(model, "_is_stateful", False) or len(layers) != config.num_hidden_layers:
        return 0
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return 0
    windows = [layer.sliding_window for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    if getattr(config, "window_size", None):  # GPT-Neo counts its window in columns, gaps between rows included
        windows.append(int(config.window_size))
    return min(windows, default=None)


@dataclass
class PrefixStore:
    """Beginnings by number.

    Attributes:
        lengths: tokens of each beginning.
        states: per beginning, keys and values of every layer.
    """

    lengths: Sequence[int]
    states: dict[int, list[States]] = field(default_factory=dict)

    def length(self, number: int) -> int:
        """Tokens of a beginning, 0 for none."""
        return 0 if number == NONE else self.lengths[number]


@dataclass(frozen=True, slots=True)
class Kept:
    """What to keep of one row: ``columns`` of its keys are the beginning ``number``."""

    number: int
    row: int
    columns: torch.Tensor


def with_past(
    model: Any, store: PrefixStore, past: Sequence[int], keep: Mapping[int, int], mask: Any, grow: bool
) -> Any:
    """A cache in which each row has its beginning behind it.

    Args:
        model: whose layers it is for.
        store: beginnings known so far; receives those to keep.
        past: per row, the number of its beginning or -1.
        keep: number -> row of the beginnings to keep.
        mask: int64 ``[rows, past + new]``, where there are tokens.
        grow: whether the cache goes on to be used for generation; otherwise no layer holds on to anything.
    """
    numbers = sorted(set(past) - {NONE})
    width = max((store.lengths[number] for number in numbers), default=0)
    index = torch.tensor([numbers.index(number) for number in past], device=mask.device) if len(numbers) > 1 else None
    kept = [Kept(number, row, mask[row].nonzero()[: store.lengths[number], 0]) for number, row in keep.items()]
    config = model.config.get_text_config(decoder=True)
    own: list[Any] = DynamicCache(config=config).layers
    layers: list[Any] = [
        _Layer(store, [store.states[number][i] for number in numbers], width, index, kept, grow, layer.is_sliding)
        for i, layer in enumerate(own)
    ]
    return Cache(layers=layers)


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer of keys and values behind the new ones."""

    def __init__(
        self,
        store: PrefixStore,
        past: list[States],
        width: int,
        index: torch.Tensor | None,
        kept: list[Kept],
        grow: bool,
        sliding: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.store, self.past, self.width, self.index, self.kept, self.grow = store, past, width, index, kept, grow
        self.is_sliding = sliding  # which of the model's masks is sized by this layer

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> States:
        """The row's keys and values so far, the new ones last."""
        if self.is_initialized:
            return super().update(key_states, value_states)
        keys, values = self._behind(0, key_states), self._behind(1, value_states)
        for one in self.kept:
            states = keys[one.row][:, one.columns], values[one.row][:, one.columns]
            self.store.states.setdefault(one.number, []).append(states)
        if self.grow:
            self.keys, self.values, self.is_initialized = keys, values, True
            self.dtype, self.device = keys.dtype, keys.device
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens so far, padding included."""
        return super().get_seq_length() if self.is_initialized else self.width

    def _behind(self, which: int, new: torch.Tensor) -> torch.Tensor:
        if not self.past:
            return new
        if self.index is None:
            past = self.past[0][which].expand(len(new), -1, -1, -1)
        else:
            past = new.new_zeros(len(self.past), new.shape[1], self.width, new.shape[3])
            for i, states in enumerate(self.past):
                past[i, :, self.width - states[which].shape[1] :] = states[which]
            past = past[self.index]
        return torch.cat([past, new], dim=-2)
