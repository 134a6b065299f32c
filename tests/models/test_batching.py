"""Batches: every entry once, within the budget, little padding, and smaller ones when memory runs out."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import ModelError
from rerankit.models.batching import pad, plan, run
from rerankit.models.layout import Entry, piece
from rerankit.models.meter import Meter

BUDGET = 2048  # the CPU back ends' own


def entry(size, first=7):
    return Entry(piece([first]), np.full(size - 2, 9, np.int32), 1, piece([3], 1))


def first_ids(batch):
    return batch.ids[:, :1].astype(np.float32)


def run_all(entries, forward=first_ids, **options):
    found = {}
    meter = Meter()
    for positions, output in run(entries, forward, budget=BUDGET, pad_id=0, meter=meter, **options):
        found.update(zip(positions, output[:, 0], strict=True))
    return found, meter


def padding_ratio(lengths):
    batches = plan(lengths, BUDGET)
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches) / sum(lengths)


@given(st.lists(st.integers(2, 600), min_size=1, max_size=120), st.integers(1, 5000))
def test_every_entry_is_in_one_batch_within_the_budget(lengths, budget):
    batches = plan(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_padding_on_chunks_of_256_tokens():
    rng = np.random.default_rng(0)
    for _ in range(20):
        lengths = np.clip(rng.normal(220, 45, 100), 30, 256).astype(int).tolist()
        assert padding_ratio(lengths) <= 1.2


def test_padding_on_mixed_lengths():
    rng = np.random.default_rng(0)
    for _ in range(20):
        marco = np.clip(rng.lognormal(np.log(70), 0.45, 100), 12, 512).astype(int).tolist()
        wiki = np.clip(rng.lognormal(np.log(150), 0.8, 100), 12, 512).astype(int).tolist()
        assert padding_ratio(marco) <= 1.4
        assert padding_ratio(wiki) <= 1.4


def test_meter_counts_the_padding():
    _, meter = run_all([entry(4), entry(10), entry(10)])
    assert (meter.forward_passes, meter.input_tokens, meter.padded_tokens) == (1, 24, 30)


def test_padding_is_masked_and_segments_kept():
    batch = pad([entry(3), Entry(piece([7]), np.array([9], np.int32), 1, piece([3, 5, 5]), unattended=2)], 99)
    assert batch.ids.tolist() == [[7, 9, 3, 99, 99], [7, 9, 3, 5, 5]]
    assert batch.mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.types.tolist() == [[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]]


@pytest.mark.parametrize("streams", [1, 3])
def test_outputs_come_back_to_their_entries(streams):
    entries = [entry(size, first=i) for i, size in enumerate([5, 300, 40, 7, 512, 300, 300, 300, 300, 300, 300, 90])]
    found, meter = run_all(entries, streams=streams)
    assert found == {i: float(i) for i in range(len(entries))}
    assert meter.forward_passes == len(plan([e.size() for e in entries], BUDGET))


def test_batches_shrink_when_memory_runs_out():
    sizes = []

    def forward(batch):
        if len(batch.ids) > 3:
            raise MemoryError
        sizes.append(len(batch.ids))
        return first_ids(batch)

    found, meter = run_all([entry(100, first=i) for i in range(20)], forward)
    assert found == {i: float(i) for i in range(20)}
    assert max(sizes) <= 3
    assert meter.forward_passes == len(sizes)


def test_one_entry_that_does_not_fit_is_an_error_and_not_a_loop():
    seen = []

    def forward(batch):
        seen.append(len(batch.ids))
        raise MemoryError

    with pytest.raises(ModelError, match="single input of 100 tokens"):
        run_all([entry(100) for _ in range(8)], forward)
    assert seen == [8, 4, 2, 1]


def test_other_errors_are_not_taken_for_lack_of_memory():
    def forward(batch):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_all([entry(5)], forward)


def test_streams_run_side_by_side():
    both = threading.Barrier(2, timeout=10)

    def forward(batch):
        both.wait()
        return first_ids(batch)

    found, _ = run_all([entry(1500), entry(1500)], forward, streams=2)
    assert len(found) == 2


def test_planning_and_padding_100_passages_is_cheap():
    rng = np.random.default_rng(0)
    entries = [entry(int(size)) for size in rng.integers(100, 256, 100)]

    def once():
        started = time.thread_time()  # the processor's time: other load does not count
        for batch in plan([one.size() for one in entries], BUDGET):
            pad([entries[i] for i in batch], 0)
        return time.thread_time() - started

    assert min(once() for _ in range(30)) < 0.001
