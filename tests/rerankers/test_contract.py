"""The laws that every family inherits, proven on small real families."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import threading
import time

import numpy as np
import pytest
from families import Broken, WordOverlap
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import InputError, ModelError, RerankitError
from rerankit.models.meter import Meter
from rerankit.rerankers.call import Scored, split_usage
from rerankit.rerankers.pairs import PointwiseReranker
from rerankit.types import Passage, Span

words = st.sampled_from(["wheat", "rust", "sheep", "rain", "", " ", "\ud800", "\x00"])
candidate_texts = st.lists(words, max_size=4).map(" ".join)
candidates = st.lists(
    st.builds(Passage, id=st.sampled_from("abc"), text=candidate_texts, title=words, score=st.none() | st.floats(0, 1)),
    max_size=12,
)


def ids(ranking):
    return [hit.id for hit in ranking]


@given(candidates, st.none() | st.integers(1, 5))
def test_every_candidate_comes_back_exactly_once_and_untouched(passages, top_k):
    before = copy.deepcopy(passages)
    reranker = WordOverlap(window=4)
    full, view = reranker.rank("wheat rust", passages), reranker.rank("wheat rust", passages, top_k=top_k)
    assert sorted(hit.prior_rank for hit in full) == list(range(1, len(passages) + 1))
    assert [hit.rank for hit in full] == list(range(1, len(passages) + 1))
    assert all(hit.passage is passages[hit.prior_rank - 1] for hit in full)
    assert all(hit.prior_score == hit.passage.score for hit in full)
    assert ids(view) == ids(full)[:top_k]
    assert passages == before


@given(candidates)
def test_order_is_by_score_with_ties_in_input_order_and_empty_passages_last(passages):
    ranking = WordOverlap().rank("wheat rust", passages)
    filled = [hit for hit in ranking if hit.status == "scored"]
    assert [(-hit.score, hit.prior_rank) for hit in filled] == sorted((-hit.score, hit.prior_rank) for hit in filled)
    empty = ranking.hits[len(filled) :]
    assert all(not hit.text.replace("\x00", "").strip() for hit in empty)
    floor = min((hit.score for hit in filled), default=0.0)
    assert all(hit.status == "unscored" and hit.score == floor for hit in empty)


def test_duplicates_are_scored_once_and_keep_their_own_identity():
    passages = [Passage("a", "rust"), Passage("b", "rust"), Passage("a", "rust"), Passage("c", "rust", title="wheat")]
    reranker = WordOverlap()
    ranking = reranker.rank("wheat rust", passages)
    assert ids(ranking) == ["c", "a", "b", "a"]
    assert len(reranker.seen) == 2


@given(st.lists(st.tuples(st.sampled_from(["wheat rust", "sheep"]), candidates), max_size=4))
def test_many_at_once_equals_one_by_one(requests):
    together = WordOverlap().rank_many(requests)
    alone = [WordOverlap().rank(query, passages) for query, passages in requests]
    assert [ranking.hits for ranking in together] == [ranking.hits for ranking in alone]


def test_usage_of_a_shared_call_adds_up():
    reranker = WordOverlap()
    rankings = reranker.rank_many([("wheat", ["wheat rust", "rain"]), ("sheep", ["sheep"]), ("x", [])])
    assert sum(ranking.usage.forward_passes for ranking in rankings) == 1
    assert sum(ranking.usage.input_tokens for ranking in rankings) == 4


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 100))
def test_the_split_of_usage_is_exact(shares, count):
    parts = split_usage(Meter(forward_passes=count), 3.0, shares)
    assert sum(part.forward_passes for part in parts) == count
    assert sum(part.seconds for part in parts) == pytest.approx(3.0)


@pytest.mark.parametrize("query", ["", "  \n", "\x00", None, 7])
def test_a_query_without_words_is_refused(query):
    with pytest.raises(InputError, match="query"):
        WordOverlap().rank(query, ["wheat"])


@pytest.mark.parametrize(
    "options", [{"top_k": 0}, {"top_k": -1}, {"top_k": 2.5}, {"deadline_s": 0}, {"deadline_s": float("nan")}]
)
def test_wrong_parameters_are_refused(options):
    with pytest.raises(InputError):
        WordOverlap().rank("wheat", ["wheat"], **options)


def test_no_passages_and_one_passage():
    assert len(WordOverlap().rank("wheat", [])) == 0
    assert WordOverlap().rank("wheat", [])[:3].status == "scored"
    assert ids(WordOverlap().rank("wheat", ["wheat"])) == ["0"]


def test_slicing_sets_the_view_of_a_copy():
    reranker = WordOverlap()
    short = reranker[:2]
    assert (reranker.top_k, short.top_k) == (None, 2)
    assert len(short.rank("wheat", ["a", "b", "c"])) == 2
    assert len(short.rank("wheat", ["a", "b", "c"], top_k=3)) == 3
    assert reranker[:2][:5].top_k == 2
    assert reranker[:5][:2].top_k == 2
    assert len(reranker.rank("wheat", ["a", "b", "c"], top_k=np.int64(2))) == 2
    for wrong in (slice(1, 3), slice(None, None, 2), slice(None, 0)):
        with pytest.raises(InputError):
            reranker[wrong]


def nan_once(request, call):
    return [1.0 if call.float32 else np.nan for _ in request.passages]


def test_non_finite_scores_are_tried_again_in_float32():
    reranker = Broken(nan_once)
    assert reranker.rank("q", ["a", "b"])[0].score == 1.0
    assert reranker.calls == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_stay_non_finite_are_refused_by_name(value):
    reranker = Broken(lambda request, call: [0.0, value])
    with pytest.raises(ModelError, match="'guilty'"):
        reranker.rank("q", ["fine", Passage("guilty", "x")])


@pytest.mark.parametrize(
    "answer",
    [
        Scored(np.zeros(1)),
        Scored(np.zeros(2), order=np.array([0, 0])),
        Scored(np.zeros(2), order=np.array([0])),
        Scored(np.zeros(2), evidence=[()]),
        Scored(np.zeros(2), evidence=[None, None]),
        Scored(np.zeros((2, 1))),
        Scored(np.array(["a", "b"])),
        Scored(np.zeros(2), order=np.array([0.0, 1.5])),
    ],
)
def test_a_verdict_that_does_not_fit_the_list_is_refused(answer):
    with pytest.raises(ModelError):
        Broken(lambda request, call: answer).rank("q", ["a", "b"])


def test_lists_are_as_good_as_arrays():
    answer = Scored([1.0, 2.0], scored=[True, True], order=[1, 0])
    assert ids(Broken(lambda request, call: answer).rank("q", ["a", "b"])) == ["1", "0"]


def test_a_verdict_that_does_not_fit_keeps_the_order_if_asked():
    answer = Scored(np.zeros(2), evidence=[None, None])
    ranking = Broken(lambda request, call: answer, on_error="keep_order").rank("q", ["a", "b"])
    assert (ranking.status, ids(ranking)) == ("fallback", ["0", "1"])


@pytest.mark.parametrize(
    "call",
    [
        lambda r: r.rank("q", None),
        lambda r: r.rank("q", 5),
        lambda r: r.rank_many(None),
        lambda r: r.rank_many([("q",)]),
        lambda r: r.rank_many({"q": ["a"]}),
        lambda r: r.rank("q", ["a"], deadline_s="1"),
        lambda r: r.rank("q", ["a"], top_k="1"),
        lambda r: r.rank("\u200b", ["a"]),
    ],
)
def test_arguments_of_the_wrong_kind_are_input_errors(call):
    with pytest.raises(InputError):
        call(WordOverlap())


def test_a_calibrator_that_cannot_be_read_is_named_before_the_model_works(tmp_path):
    reranker = WordOverlap(calibrator=tmp_path / "missing.json", on_error="keep_order")
    with pytest.raises(RerankitError, match=r"missing\.json"):
        reranker.rank("wheat", ["wheat"])
    assert reranker.seen == []


def test_a_cache_needs_a_fingerprint(tmp_path):
    class Nameless(PointwiseReranker):
        model, scale = "mine", "logit"

        def score_pairs(self, pairs, call):
            return np.zeros(len(pairs))

    assert len(Nameless().rank("q", ["a"])) == 1
    with pytest.raises(InputError, match="fingerprint"):
        Nameless(cache=tmp_path / "c.sqlite")


def test_a_family_that_reads_vectors_tells_equal_texts_apart(tmp_path):
    class FirstNumber(WordOverlap):
        by_text, reads_vectors = False, True

        def score_pairs(self, pairs, call):
            return np.array([float(passage.embedding[0]) for _, passage in pairs])

    passages = [Passage("a", "same", embedding=[1.0]), Passage("b", "same", embedding=[2.0])]
    reranker = FirstNumber(cache=tmp_path / "c.sqlite")
    assert ids(reranker.rank("q", passages)) == ["b", "a"]
    assert [hit.score for hit in reranker.rank("q", passages[:1])] == [1.0]


async def test_views_share_one_worker_and_closing_leaves_no_thread():
    before = threading.active_count()
    reranker = WordOverlap()
    views = [reranker, reranker[:1], reranker[:2]]
    await asyncio.gather(*(view.arank("wheat", ["wheat", "rust"]) for view in views))
    assert threading.active_count() == before + 1
    views[1].close()
    assert threading.active_count() == before
    assert len(await reranker.arank("wheat", ["wheat"])) == 1
    reranker.close()


def test_a_reranker_can_be_copied_and_pickled():
    reranker = WordOverlap(top_k=1)
    for other in (copy.deepcopy(reranker), pickle.loads(pickle.dumps(reranker))):
        assert ids(other.rank("wheat", ["rust", "wheat"])) == ["1"]


def test_keep_order_returns_the_input_with_the_reason():
    def fail_on_b(request, call):
        return ModelError("no GPU") if request.query == "b" else np.arange(len(request.passages))

    reranker = Broken(fail_on_b, on_error="keep_order")
    good, bad, empty = reranker.rank_many([("a", ["x", "y"]), ("b", ["x", "y"]), ("c", [])])
    assert (good.status, ids(good)) == ("scored", ["1", "0"])
    assert (bad.status, bad.reason, ids(bad)) == ("fallback", "ModelError: no GPU", ["0", "1"])
    assert all(hit.status == "unscored" and hit.score is None for hit in bad)
    assert empty.status == "scored"
    with pytest.raises(ModelError):
        Broken(fail_on_b).rank("b", ["x"])
    with pytest.raises(InputError):
        Broken(fail_on_b, on_error="ignore")


def test_a_deadline_leaves_the_best_order_so_far_and_a_marked_tail():
    texts = [f"rain {i}" for i in range(198)] + ["wheat rust"] * 2
    texts[2] = "wheat rust now"
    started = time.monotonic()
    ranking = WordOverlap(delay=0.02).rank("wheat rust", texts, deadline_s=0.3)
    assert time.monotonic() - started < 2.0  # all of them would take four seconds
    assert ranking.status == "partial"
    assert "deadline" in ranking.reason
    assert ids(ranking)[0] == "2"
    scored = [hit for hit in ranking if hit.status == "scored"]
    tail = ranking.hits[len(scored) :]
    assert 4 <= len(scored) < 199
    assert all(hit.score is None for hit in tail)
    assert [hit.prior_rank for hit in tail] == sorted(hit.prior_rank for hit in tail)


def test_a_deadline_serves_every_query_first():
    rankings = WordOverlap(delay=0.01).rank_many(
        [("wheat", [f"a{i}" for i in range(30)]), ("rust", [f"b{i}" for i in range(30)])], deadline_s=0.1
    )
    assert all(ranking[0].status == "scored" for ranking in rankings)


def test_a_huge_passage_does_not_keep_short_ones_from_their_score():
    texts = [" ".join(f"rain{i}" for i in range(1500)), "wheat rust", "wheat"]
    ranking = WordOverlap(window=50, delay=0.01).rank("wheat rust", texts, deadline_s=0.3)
    assert ids(ranking) == ["1", "2", "0"]
    assert [hit.status for hit in ranking] == ["scored", "scored", "unscored"]


@pytest.mark.parametrize("endless", [float("inf"), 1e308, 10**400, np.float32("inf")])
def test_an_endless_deadline_is_none(endless):
    texts = ["a wheat rust", "b", "c rust"]
    assert WordOverlap().rank("wheat", texts, deadline_s=endless).hits == WordOverlap().rank("wheat", texts).hits
    assert asyncio.run(WordOverlap().arank("wheat", texts, deadline_s=endless)).status == "scored"


def test_an_ample_deadline_changes_nothing():
    texts = [f"wheat {i}" for i in range(20)]
    assert WordOverlap().rank("wheat", texts, deadline_s=60).hits == WordOverlap().rank("wheat", texts).hits


def test_long_passages_are_read_in_windows_and_the_best_one_is_the_evidence():
    text = "rain " * 20 + "wheat rust" + " rain" * 20
    (hit,) = WordOverlap(window=10).rank("wheat rust", [text])
    assert hit.score == 2.0
    (span,) = hit.evidence
    assert text[span.start : span.end] == "wheat rust"
    assert hit.truncated_tokens == 0


def test_windows_can_be_asked_to_agree_and_what_is_cut_is_counted():
    text = "wheat rust" + "rain rain " * 3
    assert WordOverlap(window=10, long_passages="top2-mean").rank("wheat rust", [text])[0].score == 1.0
    (hit,) = WordOverlap(window=10, max_windows=2).rank("wheat rust", [text])
    assert hit.truncated_tokens == 4
    for wrong in ({"long_passages": "mean"}, {"max_windows": 0}):
        with pytest.raises(InputError):
            WordOverlap(**wrong)


def test_a_huge_passage_is_bounded():
    reranker = WordOverlap(window=1000, max_windows=16)
    (hit,) = reranker.rank("wheat", ["wheat " * 170_000])
    assert len(reranker.seen) <= 16
    assert hit.truncated_tokens > 100_000


def test_the_cache_answers_the_second_call(tmp_path):
    first, second = WordOverlap(cache=tmp_path / "c.sqlite"), WordOverlap(cache=tmp_path / "c.sqlite")
    texts = ["wheat", "rust", "rain"]
    cold, warm = first.rank("wheat", texts), second.rank("wheat", [*texts, "new"])
    assert (cold.usage.cache_hits, cold.usage.cache_misses) == (0, 3)
    assert (warm.usage.cache_hits, warm.usage.cache_misses, warm.usage.cache_hit_rate) == (3, 1, 0.75)
    assert {hit.id: hit.status for hit in warm} == {"0": "cached", "1": "cached", "2": "cached", "3": "scored"}
    assert len(second.seen) == 1
    other_model = WordOverlap("v2", cache=tmp_path / "c.sqlite")
    assert other_model.rank("wheat", texts).usage.cache_hits == 0


def test_evidence_of_a_family_is_shifted_into_the_passage():
    class Pointing(WordOverlap):
        def evidence(self, pairs, call):
            found = [passage.text.find("rust") for _, passage in pairs]
            return [(Span(at, at + 4, 2.0),) if at >= 0 else () for at in found]

    text = "rain rain.wheat rust.rain rain."
    (hit,) = Pointing(window=10).rank("wheat rust", [text])
    assert [text[span.start : span.end] for span in hit.evidence] == ["rust"]


async def test_the_event_loop_keeps_running_while_a_list_is_ranked():
    reranker, ticks = WordOverlap(delay=0.02), 0

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticker = asyncio.create_task(tick())
    ranking = await reranker.arank("wheat", [f"wheat {i}" for i in range(10)], top_k=4)
    ticker.cancel()
    assert len(ranking) == 4
    assert ticks > 10
    reranker.close()


async def test_a_cancelled_task_that_waits_never_reaches_the_model():
    with WordOverlap(delay=0.05) as reranker:
        running = asyncio.create_task(reranker.arank("wheat", ["one", "two"]))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(reranker.arank("wheat", ["never"]))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await running
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.1)
        assert "never" not in {passage.text for _, passage in reranker.seen}


async def test_a_task_cancelled_at_work_stops_at_the_next_block():
    with WordOverlap(delay=0.0005) as reranker:
        task = asyncio.create_task(reranker.arank("wheat", [f"wheat {i}" for i in range(2000)]))
        while not reranker.seen:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await reranker.arank("rust", ["rust"])  # comes after it
        assert len(reranker.seen) < 1000


async def test_time_spent_waiting_for_the_worker_counts_against_the_deadline():
    with WordOverlap(delay=0.05) as reranker:
        slow = asyncio.create_task(reranker.arank("wheat", [f"a{i}" for i in range(6)]))
        await asyncio.sleep(0.01)
        late = await reranker.arank("wheat", ["b1", "b2"], deadline_s=0.1)
        await slow
    assert late.status == "partial"
    assert all(hit.status == "unscored" for hit in late)


def test_threads_share_a_reranker(tmp_path):
    reranker = WordOverlap(cache=tmp_path / "c.sqlite")
    results = {}

    def work(i):
        results[i] = ids(reranker.rank("wheat rust", ["rain", f"wheat {i}", "wheat rust"]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(order == ["2", "1", "0"] for order in results.values())


def test_nothing_is_logged_on_a_good_day(caplog):
    with caplog.at_level(logging.DEBUG):
        WordOverlap().rank("wheat", ["wheat", ""])
    assert not caplog.records
