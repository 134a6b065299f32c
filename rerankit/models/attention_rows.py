"""How much a few rows of an attention matrix look at each position, without the matrix.

A row's softmax needs all of its logits, so rows are the unit of work: some of them at a time, whole, in float32.
The memory is bounded by :data:`BLOCK` numbers (or one row, if that is longer), whatever the length of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["BLOCK", "Rows", "add_attention"]

BLOCK = 1 << 22
"""Logits held at once, in numbers: 16 MB."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows are read and how they are put together.

    The rows are the last of the queries; what they see of one another is ``sees``, and they see all that is before.

    Attributes:
        weights: float32 ``[groups, rows]``: each group of rows gives one sum; rows of weight 0 everywhere cost nothing.
        sees: bool ``[rows, rows]``: whether a row attends to the key of another.
        columns: the positions that are asked about; the softmax runs over all of them regardless.
    """

    weights: Tensor
    sees: Tensor
    columns: slice


def add_attention(
    sums: Tensor, query: Tensor, key: Tensor, rows: Rows, heads: Sequence[int], slots: Sequence[int], scaling: float
) -> None:
    """Add the attention that some heads of one layer pay, ``softmax(scaling * query @ key.T)`` summed over rows.

    Args:
        sums: float32 ``[slots, groups, columns]``, added to in place.
        query: ``[heads, queries, dim]``, after rotary embedding and any norm.
        key: ``[key heads, keys, dim]``; several heads share a key head (grouped-query attention).
        rows: which of the queries.
        heads: of the layer.
        slots: per head, where its attention goes.
        scaling: of the logits.
    """
    count = rows.sees.shape[0]
    read = rows.weights.any(0).nonzero().squeeze(1)
    weights, hidden = rows.weights[:, read], ~rows.sees[read]
    for key_head, members in _by_key_head(heads, slots, query.shape[0] // key.shape[0]).items():
        keys = key[key_head].float().T
        queries = query[[head for head, _ in members], query.shape[1] - count :][:, read].float() * scaling
        queries, masks = queries.flatten(0, 1), hidden.repeat(len(members), 1)
        places, spread = _spread([slot for _, slot in members], weights)
        for part in _parts(queries.shape[0], keys.shape[1]):
            logits = queries[part] @ keys
            logits[:, keys.shape[1] - count :].masked_fill_(masks[part], float("-inf"))
            found = spread[:, part] @ _softmax(logits, rows.columns)
            sums[places] += found.view(len(places), weights.shape[0], -1)


def _by_key_head(heads: Sequence[int], slots: Sequence[int], per_key: int) -> dict[int, list[tuple[int, int]]]:
    """Heads and slots by the key head they share: all their logits come from one product."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for head, slot in zip(heads, slots, strict=True):
        groups.setdefault(head // per_key, []).append((head, slot))
    return groups


def _spread(slots: Sequence[int], weights: Tensor) -> tuple[list[int], Tensor]:
    """The distinct slots, and float32 ``[slots * groups, heads * rows]``: where each row of each head goes."""
    places = sorted(set(slots))
    spread = weights.new_zeros(len(places), weights.shape[0], len(slots), weights.shape[1])
    for head, slot in enumerate(slots):
        spread[places.index(slot), :, head] = weights
    return places, spread.flatten(2).flatten(0, 1)


def _parts(rows: int, keys: int) -> Iterator[slice]:
    step = max(1, BLOCK // keys)
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _softmax(logits: Tensor, columns: slice) -> torch.Tensor:
    """The columns of the softmax over all of them; overwrites the logits."""
    normaliser = logits.logsumexp(-1, keepdim=True)
    return logits[:, columns].sub_(normaliser).exp_()
