"""Micro-batching: together where it helps, and nobody harmed by his neighbours."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from families import WordOverlap

from rerankit.errors import ModelError
from rerankit.server.batching import Batcher
from rerankit.server.problems import Overloaded, Problem
from rerankit.server.settings import Limits
from rerankit.types import as_passages


class Gated(WordOverlap):
    """Works only while its gate is open; remembers its batches."""

    def __init__(self, **options):
        super().__init__(**options)
        self.gate, self.batches = threading.Event(), []
        self.gate.set()

    def score_lists(self, requests, call):
        self.gate.wait(20)
        self.batches.append(([request.query for request in requests], call.deadline))
        return super().score_lists(requests, call)

    def score_pairs(self, pairs, call):
        if any("poison" in passage.text for _, passage in pairs):
            raise ModelError("poisoned")
        return super().score_pairs(pairs, call)


class Bench:
    """A running batcher and the record of its batches."""

    def __init__(self, **limits):
        self.reranker, self.records = Gated(), []
        self.batcher = Batcher(self.reranker, Limits(**limits), lambda **record: self.records.append(record))

    async def __aenter__(self):
        self.batcher.start()
        return self

    async def __aexit__(self, *_):
        self.reranker.gate.set()
        await self.batcher.stop()
        self.reranker.close()

    def ask(self, query, texts, *, seconds=20.0):
        deadline = time.monotonic() + seconds
        return asyncio.create_task(self.batcher.rank(query, as_passages(texts), deadline=deadline))

    async def shut(self):
        """Close the gate behind one request that is at work."""
        self.reranker.gate.clear()
        first = self.ask("first", ["first"])
        while self.batcher.depth or not self.batcher._working:
            await asyncio.sleep(0.001)
        return first


async def test_what_waits_goes_through_together_and_each_gets_its_own():
    async with Bench() as bench:
        first = await bench.shut()
        tasks = [bench.ask(f"word{i}", [f"word{j}" for j in range(i + 1)]) for i in range(20)]
        await asyncio.sleep(0)
        bench.reranker.gate.set()
        rankings = await asyncio.gather(first, *tasks)
    assert [len(queries) for queries, _ in bench.reranker.batches] == [1, 20]
    for i, ranking in enumerate(rankings[1:]):
        assert ranking.query == f"word{i}"
        assert [hit.id for hit in ranking] == [str(i), *(str(j) for j in range(i))]
    assert [record["requests"] for record in bench.records] == [1, 20]
    assert bench.records[1]["passages"] == sum(range(1, 21))


async def test_batches_keep_to_their_size_and_to_the_order_of_arrival():
    async with Bench(batch_passages=4) as bench:
        first = await bench.shut()
        tasks = [bench.ask(f"q{i}", ["a"] * (9 if i == 2 else 2)) for i in range(5)]
        await asyncio.sleep(0)
        bench.reranker.gate.set()
        await asyncio.gather(first, *tasks)
    assert [queries for queries, _ in bench.reranker.batches] == [["first"], ["q0", "q1"], ["q2"], ["q3", "q4"]]


async def test_one_poisonous_request_fails_alone():
    async with Bench() as bench:
        first = await bench.shut()
        tasks = [bench.ask(f"q{i}", ["poison" if i == 5 else f"q{i}"]) for i in range(9)]
        await asyncio.sleep(0)
        bench.reranker.gate.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert isinstance(results.pop(6), ModelError)
    assert [ranking[0].score for ranking in results] == [1.0] * 9


async def test_a_caller_who_goes_away_is_left_out_and_disturbs_nobody():
    async with Bench() as bench:
        first = await bench.shut()
        tasks = [bench.ask(f"q{i}", [f"q{i}"]) for i in range(6)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[4].cancel()
        await asyncio.sleep(0)
        bench.reranker.gate.set()
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results[1:]] == [i in (1, 4) for i in range(6)]
    assert bench.reranker.batches[1][0] == ["q0", "q2", "q3", "q5"]


async def test_a_caller_who_goes_away_in_mid_batch_disturbs_nobody():
    async with Bench() as bench:
        first = await bench.shut()
        first.cancel()
        later = bench.ask("later", ["later"])
        await asyncio.sleep(0)
        bench.reranker.gate.set()
        assert (await later)[0].score == 1.0


async def test_a_full_queue_refuses_and_recovers():
    async with Bench(queue=3) as bench:
        first = await bench.shut()
        tasks = [bench.ask(f"q{i}", ["a"]) for i in range(3)]
        await asyncio.sleep(0)
        assert bench.batcher.full
        with pytest.raises(Overloaded) as refused:
            await bench.ask("one too many", ["a"])
        assert int(refused.value.headers["Retry-After"]) >= 1
        bench.reranker.gate.set()
        await asyncio.gather(first, *tasks)
        assert (await bench.ask("again", ["again"]))[0].score == 1.0
    assert "one too many" not in [query for queries, _ in bench.reranker.batches for query in queries]


async def test_an_older_request_in_a_hurry_does_not_cut_a_younger_ones_list():
    async with Bench() as bench:
        bench.reranker.delay = 0.005
        await bench.ask("learns the speed", ["word"] * 8 + ["more words"])
        first = await bench.shut()
        texts = [f"word {i}" for i in range(100)]
        older, younger = bench.ask("older", texts, seconds=0.3), bench.ask("younger", texts, seconds=30)
        await asyncio.sleep(0)
        bench.reranker.gate.set()
        rankings = await asyncio.gather(first, older, younger)
    assert [ranking.status for ranking in rankings] == ["scored", "partial", "scored"]


async def test_requests_that_are_due_together_share_the_latest_deadline():
    async with Bench() as bench:
        bench.reranker.delay = 0.005
        await bench.ask("learns the speed", ["word"] * 8 + ["more words"])
        first = await bench.shut()
        texts = [f"word {i}" for i in range(50)]
        tasks = [bench.ask(f"q{i}", texts, seconds=0.4 + i / 100) for i in range(3)]
        latest = time.monotonic() + 0.42
        await asyncio.sleep(0)
        bench.reranker.gate.set()
        await asyncio.gather(first, *tasks)
    queries, deadline = bench.reranker.batches[-1]
    assert queries == ["q0", "q1", "q2"]
    assert deadline == pytest.approx(latest, abs=0.05)


async def test_a_model_that_does_not_look_at_its_deadline_gives_the_input_order_in_time():
    async with Bench() as bench:
        bench.reranker.gate.clear()
        ranking = await bench.ask("stuck", ["a", "stuck", ""], seconds=0.1)
        assert not bench.reranker.batches  # it is still at work
    assert ranking.status == "partial"
    assert [hit.id for hit in ranking] == ["0", "1", "2"]
    assert {hit.status for hit in ranking[:2]} == {"unscored"}


async def test_whose_time_runs_out_while_the_model_is_busy_is_told_so_at_once():
    async with Bench() as bench:
        first = await bench.shut()
        with pytest.raises(Problem) as told:
            await bench.ask("late", ["a"], seconds=0.05)
        assert told.value.status_code == 503
        assert "Retry-After" in told.value.headers
        assert not first.done()
        assert bench.batcher.depth == 0


async def test_who_goes_away_frees_his_place_at_once():
    async with Bench(queue=3) as bench:
        await bench.shut()
        tasks = [bench.ask(f"q{i}", ["a"]) for i in range(3)]
        await asyncio.sleep(0)
        assert bench.batcher.full
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert bench.batcher.depth == 0


async def test_work_for_nobody_is_given_up():
    async with Bench() as bench:
        bench.reranker.delay = 0.01
        await bench.ask("learns the speed", ["a"] * 2)
        lost = bench.ask("lost", [f"word {i}" for i in range(1500)], seconds=15)
        while bench.batcher.depth or not bench.batcher._working:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        lost.cancel()
        assert (await bench.ask("next", ["next"], seconds=10))[0].score == 1.0
    assert len(bench.reranker.seen) < 1000


async def test_a_near_deadline_reaches_the_ranking_and_a_far_one_does_not():
    async with Bench() as bench:
        bench.reranker.delay = 0.01
        await bench.ask("learns the speed", ["a"] * 2)
        await bench.ask("far", ["a"])
        ranking = await bench.ask("near", [f"word {i}" for i in range(400)], seconds=0.3)
    deadlines = {queries[0]: deadline for queries, deadline in bench.reranker.batches}
    assert deadlines["far"] is None
    assert deadlines["near"] is not None
    assert ranking.status == "partial"
    assert 0 < sum(hit.status == "scored" for hit in ranking) < 400
    assert len(ranking) == 400


async def test_whose_time_ran_out_in_the_queue_is_told_so():
    async with Bench() as bench:
        first = await bench.shut()
        late, other = bench.ask("late", ["a"], seconds=0.01), bench.ask("other", ["other"])
        await asyncio.sleep(0.05)
        bench.reranker.gate.set()
        with pytest.raises(Problem) as told:
            await late
        assert told.value.status_code == 503
        assert (await first, (await other)[0].score)[1] == 1.0
    assert "late" not in [query for queries, _ in bench.reranker.batches for query in queries]


async def test_stopping_finishes_what_was_taken():
    async with Bench() as bench:
        first = await bench.shut()
        tasks = [bench.ask(f"q{i}", [f"q{i}"]) for i in range(5)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(bench.batcher.stop())
        await asyncio.sleep(0.02)
        assert not stopping.done()
        bench.reranker.gate.set()
        await stopping
        assert [(await task)[0].score for task in (first, *tasks)] == [1.0] * 6
