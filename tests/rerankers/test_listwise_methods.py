"""The listwise methods by themselves: what a judge without contradictions settles, in how many questions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.rerankers.elimination import elimination
from rerankit.rerankers.groups import groups
from rerankit.rerankers.listwise_steps import Question, Verdict, consensus, repeated, together
from rerankit.rerankers.listwise_windows import bubble, windows
from rerankit.rerankers.setwise import setwise
from rerankit.rerankers.tournament import stages, tournament


class Judge:
    """Orders every window by worth; counts questions and batches; may stay silent from some question on."""

    def __init__(self, worth, *, tells="all", silent_from=None):
        self.worth, self.tells, self.silent_from = worth, tells, silent_from
        self.asked, self.batches = [], 0

    def verdict(self, question):
        self.asked.append(question)
        if self.silent_from is not None and len(self.asked) > self.silent_from:
            return None
        order = sorted(question.window, key=lambda i: -self.worth[i])
        if self.tells == "best":
            order = [order[0], *(i for i in question.window if i != order[0])]
        if self.tells == "worst":
            order = [*(i for i in question.window if i != order[-1]), order[-1]]
        ratings = {i: float(self.worth[i]) for i in question.window}
        return Verdict(tuple(order), self.tells == "all", ratings)

    def run(self, steps):
        try:
            batch = next(steps)
            while True:
                self.batches += 1
                batch = steps.send([self.verdict(question) for question in batch])
        except StopIteration as stop:
            return stop.value


def best_first(worth):
    return sorted(range(len(worth)), key=lambda i: -worth[i])


def rng():
    return np.random.default_rng(1)


lists = st.integers(1, 45).flatmap(lambda n: st.permutations(range(n)))
sizes = st.integers(2, 21)


@given(lists, sizes, st.data())
def test_windows_settle_the_top(worth, window, data):
    stride = data.draw(st.integers(1, window))
    judge, n = Judge(worth), len(worth)
    order = judge.run(windows(tuple(range(n)), window, stride)).order
    sure = n if n <= window else window - stride
    assert sorted(order) == list(range(n))
    assert list(order[:sure]) == best_first(worth)[:sure]
    assert len(judge.asked) == (0 if n == 1 else 1 + max(0, math.ceil((n - window) / stride)))
    assert all(len(question.window) == min(window, n) for question in judge.asked)


def test_windows_of_100_take_9_questions_from_the_end_up():
    judge = Judge(list(range(100)))
    judge.run(windows(tuple(range(100)), 20, 10))
    assert len(judge.asked) == 9
    assert set(judge.asked[0].window) == set(range(80, 100))


@given(lists, sizes, st.integers(1, 6))
def test_a_small_budget_buys_windows_at_the_top(worth, window, calls):
    judge = Judge(worth)
    stride = max(1, window // 2)
    order = judge.run(windows(tuple(range(len(worth))), window, stride, calls)).order
    assert len(judge.asked) <= calls
    seen = {i for question in judge.asked for i in question.window}
    assert seen == set(range(len(seen)))
    assert list(order[len(seen) :]) == list(range(len(seen), len(worth))) or len(worth) == 1


@given(lists, sizes, st.integers(1, 12), st.sampled_from(["all", "best"]))
def test_setwise_settles_k_places(worth, window, k, tells):
    judge, n = Judge(worth, tells=tells), len(worth)
    order = judge.run(setwise(tuple(range(n)), window, k)).order
    assert sorted(order) == list(range(n))
    assert list(order[:k]) == best_first(worth)[:k]
    levels = max(1, math.ceil(round(math.log(n, window), 9))) if n > 1 else 0
    each = levels - (tells == "all")
    assert len(judge.asked) <= math.ceil((n - 1) / (window - 1)) + levels + (min(k, n) - 1) * each
    assert all(len(question.window) <= window for question in judge.asked)


def test_setwise_of_100_by_ten_takes_20_questions_for_the_best_10():
    judge = Judge(list(np.random.default_rng(0).permutation(100)))
    judge.run(setwise(tuple(range(100)), 10, 10))
    assert len(judge.asked) <= 20
    assert judge.batches <= 2 + 9


@given(lists, st.integers(2, 6), st.integers(1, 6), st.sampled_from(["all", "best"]))
def test_bubble_settles_k_places(worth, window, k, tells):
    judge, n = Judge(worth, tells=tells), len(worth)
    order = judge.run(bubble(tuple(range(n)), window, k)).order
    assert sorted(order) == list(range(n))
    assert list(order[:k]) == best_first(worth)[:k]
    assert len(judge.asked) <= sum(math.ceil((n - i - 1) / (window - 1)) for i in range(min(k, n - 1)))


def test_tournament_stages_are_those_of_the_paper():
    assert stages(100, 20) == [(5, [10] * 5), (5, [4] * 5), (1, [10]), (1, [5]), (1, [2])]
    assert sum(groups for groups, _ in stages(100, 20)) == 13
    assert stages(3, 20) == [(1, [2])]
    assert stages(2, 20) == [(1, [1])]
    assert stages(1, 20) == []


@given(st.integers(3, 300), sizes)
def test_tournament_stages_shrink_and_fit(count, window):
    for number, picks in stages(count, window):
        assert number == len(picks)
        assert math.ceil(count / number) <= window
        assert sum(picks) < count
        count = sum(picks)
    assert number == 1
    assert count <= 2


@given(lists, st.integers(4, 21), st.integers(1, 3))
def test_tournament_finds_the_best_and_gives_points(worth, window, rounds):
    judge, n = Judge(worth), len(worth)
    outcome = judge.run(tournament(tuple(range(n)), window, rounds, rng()))
    assert sorted(outcome.order) == list(range(n))
    if n > 1:
        assert outcome.order[0] == best_first(worth)[0]
        assert len(judge.asked) <= rounds * sum(number for number, _ in stages(n, window))
        assert judge.batches <= len(stages(n, window))
    points = [outcome.scores[i] for i in outcome.order]
    assert points == sorted(points, reverse=True)


def test_tournament_of_100_takes_13_questions_a_round_in_5_batches():
    judge = Judge(list(np.random.default_rng(0).permutation(100)))
    outcome = judge.run(tournament(tuple(range(100)), 20, 2, rng()))
    assert len(judge.asked) == 26
    assert judge.batches == 5
    assert list(outcome.order[:5]) == best_first(judge.worth)[:5]


@given(lists, sizes, st.integers(1, 3))
def test_groups_rate_everyone_as_often(worth, window, repeats):
    judge, n = Judge(worth), len(worth)
    outcome = judge.run(groups(tuple(range(n)), window, repeats, rng()))
    assert list(outcome.order) == best_first(worth)
    assert outcome.scores == {i: float(worth[i]) for i in range(n)}
    assert len(judge.asked) == repeats * math.ceil(n / window)
    assert judge.batches == 1
    sizes_seen = [len(question.window) for question in judge.asked]
    assert max(sizes_seen) - min(sizes_seen) <= 1


@given(lists, sizes, st.sampled_from(["all", "worst"]))
def test_elimination_settles_the_top(worth, window, tells):
    judge, n = Judge(worth, tells=tells), len(worth)
    order = judge.run(elimination(tuple(range(n)), window)).order
    assert sorted(order) == list(range(n))
    sure = n if n <= window else window - 1
    assert list(order[:sure]) == best_first(worth)[:sure]
    assert len(judge.asked) == n - 1


METHODS = {
    "windows": lambda order: windows(order, 6, 3),
    "setwise": lambda order: setwise(order, 4, 5),
    "bubble": lambda order: bubble(order, 4, 5),
    "tournament": lambda order: tournament(order, 6, 2, rng()),
    "groups": lambda order: groups(order, 6, 2, rng()),
    "elimination": lambda order: elimination(order, 6),
    "repeated": lambda order: repeated(windows(order, 6, 3), 3, rng()),
}


@pytest.mark.parametrize("method", METHODS)
@given(lists, st.integers(0, 12))
def test_silence_at_any_point_leaves_a_permutation(method, worth, silent_from):
    order = tuple(range(len(worth)))
    judge = Judge(worth, silent_from=silent_from)
    outcome = judge.run(METHODS[method](order))
    assert sorted(outcome.order) == list(order)
    if silent_from == 0:
        assert outcome.order == order


@given(st.lists(st.permutations(range(7)), min_size=1, max_size=5))
def test_consensus_is_a_permutation_that_keeps_what_all_agree_on(orders):
    merged = consensus([tuple(order) for order in orders], tuple(range(7)))
    assert sorted(merged) == list(range(7))
    place = {item: at for at, item in enumerate(merged)}
    for first in range(7):
        for second in range(7):
            if all(order.index(first) < order.index(second) for order in orders):
                assert place[first] < place[second]


def test_consensus_overrules_one_stray_order():
    assert consensus([(0, 1, 2, 3), (0, 1, 2, 3), (3, 2, 1, 0)], (3, 2, 1, 0)) == (0, 1, 2, 3)


@given(lists, st.integers(2, 4))
def test_self_consistency_asks_as_often_as_told_and_changes_no_consistent_verdict(worth, times):
    once, often = Judge(worth), Judge(worth)
    order = tuple(range(len(worth)))
    assert once.run(windows(order, 8, 4)).order == often.run(repeated(windows(order, 8, 4), times, rng())).order
    assert len(often.asked) == times * len(once.asked)
    assert often.batches == once.batches


def test_together_asks_side_by_side():
    def ask(*numbers):
        said = []
        for number in numbers:
            (answer,) = yield [Question((number,))]
            said.append(answer.order)
        return said

    judge = Judge(range(9))
    assert judge.run(together([ask(1, 2), ask(), ask(3)])) == [[(1,), (2,)], [], [(3,)]]
    assert judge.batches == 2
