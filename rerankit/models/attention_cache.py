"""Keys and values of a prefix, lent to tails that continue it.

The cache of transformers would keep what a tail adds; a borrowed one joins it to the prefix for the layer at hand and
forgets it, so that the prefix is neither copied nor changed. Imported only where transformers is in use.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, cat
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["DynamicCache", "borrowed"]


class _BorrowedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values, read-only."""

    def __init__(self, owner: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner
        self.keys, self.values = owner.keys, owner.values
        self.dtype, self.device, self.is_initialized = owner.keys.dtype, owner.keys.device, True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The prefix's keys and values followed by these; nothing is kept."""
        return cat([self.owner.keys, key_states], dim=-2), cat([self.owner.values, value_states], dim=-2)


def borrowed(cache: DynamicCache) -> DynamicCache:
    """A cache to read tails with; ``cache`` stays as it is."""
    lent = DynamicCache()
    lent.layers.extend(_BorrowedLayer(layer) for layer in cache.layers)
    return lent
