"""From entries of all lengths to padded batches and back: sort by tokens, fill a token budget, shrink on no memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError
from rerankit.models.layout import Entry
from rerankit.models.meter import Meter

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Padded model input: int64 ``[b, t]`` each."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    types: NDArray[np.int64]


Forward = Callable[[Batch], NDArray[np.float32]]
"""One forward pass. Raises MemoryError when the batch does not fit."""

WASTE = 0.15
"""A batch is closed when its padding would pass this share of the token budget: a launch costs less than that."""


def plan(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions grouped into batches, longest first, each within ``budget`` padded tokens (or a single entry)."""
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable").tolist()
    batches: list[list[int]] = []
    width = padding = 0
    for position in order:
        length = lengths[position]
        padding += width - length
        if batches and (len(batches[-1]) + 1) * width <= budget and padding <= WASTE * budget:
            batches[-1].append(position)
        else:
            batches.append([position])
            width, padding = length, 0
    return batches


def pad(entries: Sequence[Entry], pad_id: int) -> Batch:
    """Entries side by side, padded on the right to the longest."""
    shape = len(entries), max(entry.size() for entry in entries)
    ids, mask, types = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, (head, body, body_type, tail, unattended) in enumerate(entries):
        start = len(head.ids)
        end = start + len(body)
        last = end + len(tail.ids)
        ids[row, :start], ids[row, start:end], ids[row, end:last] = head.ids, body, tail.ids
        types[row, :start], types[row, start:end], types[row, end:last] = head.types, body_type, tail.types
        mask[row, : last - unattended] = 1
    return Batch(ids, mask, types)


def run(
    entries: Sequence[Entry], forward: Forward, *, budget: int, pad_id: int, meter: Meter, streams: int = 1
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Run all entries; yields positions and the model's output rows (padded on axis 1 where the model is).

    Args:
        entries: what to run.
        forward: the model.
        budget: padded tokens per batch; bounds the peak memory.
        pad_id: token id of the padding.
        meter: counts passes and tokens.
        streams: batches in flight at a time.

    Raises:
        ModelError: not even one entry fits into memory.
    """
    lengths = [entry.size() for entry in entries]

    def work(positions: list[int]) -> list[tuple[list[int], NDArray[np.float32], int]]:
        return list(_forward(entries, positions, forward, pad_id))

    batches = plan(lengths, budget)
    for done in _map(work, batches, streams):
        for positions, output, padded in done:
            meter.forward_passes += 1
            meter.padded_tokens += padded
            meter.input_tokens += sum(lengths[i] for i in positions)
            yield positions, output


def _map(
    work: Callable[[list[int]], list[tuple[list[int], NDArray[np.float32], int]]],
    batches: list[list[int]],
    streams: int,
) -> Iterator[list[tuple[list[int], NDArray[np.float32], int]]]:
    if streams == 1 or len(batches) < 2:
        yield from map(work, batches)
        return
    with ThreadPoolExecutor(streams, thread_name_prefix="rerankit-encoder") as pool:
        # Waves keep finished outputs from piling up faster than the caller takes them.
        for start in range(0, len(batches), 4 * streams):
            yield from pool.map(work, batches[start : start + 4 * streams])


def _forward(
    entries: Sequence[Entry], positions: list[int], forward: Forward, pad_id: int
) -> Iterator[tuple[list[int], NDArray[np.float32], int]]:
    batch = pad([entries[i] for i in positions], pad_id)
    try:
        output = forward(batch)
    except MemoryError as error:
        if len(positions) == 1:
            size = entries[positions[0]].size()
            raise ModelError(
                f"Not enough memory for a single input of {size} tokens. Lower max_tokens or use another device."
            ) from error
    else:
        yield positions, output, batch.ids.size
        return
    logger.warning("Out of memory with %d inputs in a batch; halving it", len(positions))
    middle = len(positions) // 2
    yield from _forward(entries, positions[:middle], forward, pad_id)
    yield from _forward(entries, positions[middle:], forward, pad_id)
