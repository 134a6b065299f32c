"""Which pairs the methods ask for, how many, and what they make of the answers: with judges of every kind."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.rerankers.aggregation import RULES, wins
from rerankit.rerankers.comparisons import Comparisons
from rerankit.rerankers.pairwise_methods import all_pairs, heapsort, sliding, swiss


def comparisons(size, *, adaptive=None, closure=False, soft=False):
    return Comparisons(np.arange(size), adaptive=adaptive, closure=closure, soft=soft)


def method_of(name, known, order, places, closure):
    return {
        "allpair": lambda: all_pairs(known, in_rounds=closure),
        "heapsort": lambda: heapsort(known, places, order),
        "sliding": lambda: sliding(known, places, order),
        "swiss": lambda: swiss(known, None, True, order, lambda: np.round(RULES["bradley-terry"](known.matrix), 9)),
    }[name]()


def run(batches, known, judge, limit=None):
    """Ask a judge for all that a method wants, or for the first ``limit`` answers: (questions, batches)."""
    asked, count = [], 0
    for pairs in batches:
        count += 1
        while groups := known.questions(pairs):
            for question in itertools.chain.from_iterable(groups):
                if limit is not None and len(asked) >= limit:
                    batches.close()
                    return asked, count
                known.record(question, judge(*question))
                asked.append(question)
    return asked, count


def consistent(places):
    return lambda i, j: 0.9 if places[i] < places[j] else 0.1


def whimsical(seed):
    """Answers of all kinds, none included, but to the same question always the same."""
    chances = [0.0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0, None]
    return lambda i, j: chances[hash((seed, i, j)) % len(chances)]


METHODS = ["allpair", "heapsort", "sliding", "swiss"]
lists = st.integers(1, 25).flatmap(lambda size: st.permutations(range(size)))


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize("adaptive", [None, 0.2])
@given(places=lists, top=st.integers(1, 25))
def test_a_judge_without_contradictions_is_followed_exactly(closure, adaptive, places, top):
    size, top = len(places), min(top, len(places))
    wanted = np.argsort(places).tolist()
    for name in METHODS:
        known, order = comparisons(size, adaptive=adaptive, closure=closure), list(range(size))
        asked, _ = run(method_of(name, known, order, top, closure), known, consistent(places))
        assert len(set(asked)) == len(asked)
        if name == "allpair":
            order = np.argsort(-wins(known.matrix), kind="stable").tolist()
        exact = size if name in ("allpair", "swiss") else top
        assert order[:exact] == wanted[:exact], name
        assert known.compared.all()


@given(st.integers(1, 16), st.integers(), st.integers(0, 60) | st.none(), st.integers(1, 16), st.booleans())
def test_any_judge_and_any_interruption_leave_a_permutation(size, seed, limit, top, soft):
    for name, closure, adaptive in itertools.product(METHODS, [False, True], [None, 0.2]):
        known, order = comparisons(size, adaptive=adaptive, closure=closure, soft=soft), list(range(size))
        asked, _ = run(method_of(name, known, order, min(top, size), closure), known, whimsical(seed), limit)
        assert sorted(order) == list(range(size))
        assert len(set(asked)) == len(asked) <= size * (size - 1)


def test_all_pairs_of_20_are_380_questions_in_one_batch():
    known = comparisons(20)
    asked, batches = run(all_pairs(known, in_rounds=False), known, consistent(range(20)))
    assert (len(asked), batches) == (380, 1)
    assert set(asked) == set(itertools.permutations(range(20), 2))


def test_all_pairs_begin_with_those_of_the_front():
    (pairs,) = all_pairs(comparisons(6), in_rounds=False)
    assert set(pairs[:6]) == set(itertools.combinations(range(4), 2))


@given(st.permutations(range(100)))
def test_heapsort_of_the_top_10_of_100_asks_at_most_324_questions(places):
    known, order = comparisons(100), list(range(100))
    asked, _ = run(heapsort(known, 10, order), known, consistent(places))
    assert order[:10] == np.argsort(places)[:10].tolist()
    assert len(asked) <= 2 * (99 + 9 * 7) == 324  # 162 pairs in both orders


def test_the_heap_is_built_in_one_batch_per_level():
    known, order = comparisons(100), list(range(100))
    _, batches = run(heapsort(known, 1, order), known, consistent(range(100)))
    assert batches == 7


@given(lists, st.integers(0, 40))
def test_heapsort_interrupted_leaves_no_passage_in_front_of_one_that_beat_it(places, limit):
    known, order = comparisons(len(places)), list(range(len(places)))
    run(heapsort(known, len(places), order), known, consistent(places), 2 * limit)
    for front, back in itertools.combinations(order, 2):
        assert not known.beats(back, front)


@given(st.permutations(range(100)) | st.just(range(99, -1, -1)))
def test_ten_passes_over_100_ask_at_most_1890_questions(places):
    known, order = comparisons(100), list(range(100))
    asked, batches = run(sliding(known, 10, order), known, consistent(places))
    assert order[:10] == np.argsort(places)[:10].tolist()
    assert len(asked) <= 2 * sum(99 - done for done in range(10)) == 1890
    assert batches <= 99 + 2 * 9


@given(st.integers(1, 15), st.integers(), st.integers(1, 15))
def test_passes_that_follow_each_other_closely_swap_as_passes_one_by_one(size, seed, passes):
    passes = min(passes, size)
    known, order = comparisons(size), list(range(size))
    run(sliding(known, passes, order), known, whimsical(seed))
    alone, expected = comparisons(size), list(range(size))
    for done in range(passes):
        for place in range(size - 1, done, -1):
            for question in itertools.permutations((expected[place - 1], expected[place])):
                alone.record(question, whimsical(seed)(*question))
            if alone.beats(expected[place], expected[place - 1]):
                expected[place - 1], expected[place] = expected[place], expected[place - 1]
    assert order == expected


@given(st.permutations(range(24)))
def test_in_a_swiss_round_nobody_plays_twice_and_no_pair_meets_again(places):
    known, order = comparisons(24), list(range(24))
    played = set()
    for pairs in swiss(known, 6, False, order, lambda: wins(known.matrix)):
        players = list(itertools.chain.from_iterable(pairs))
        assert len(set(players)) == len(players) >= 22  # the last two may have met before
        assert played.isdisjoint(map(frozenset, pairs))
        played |= set(map(frozenset, pairs))
        for question in known.questions(pairs):
            for i, j in question:
                known.record((i, j), consistent(places)(i, j))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25)
@given(places=lists)
def test_swiss_settles_the_whole_order_whatever_the_rule(rule, places):
    known, order = comparisons(len(places)), list(range(len(places)))
    run(swiss(known, None, True, order, lambda: np.round(RULES[rule](known.matrix), 9)), known, consistent(places))
    assert order == np.argsort(places).tolist()


def test_open_neighbours_are_compared_the_closest_first():
    known, order = comparisons(6), list(range(6))
    strengths = np.array([9.0, 5.0, 4.5, 4.4, 1.0, 0.0])
    batches = swiss(known, 0, True, order, lambda: strengths)
    assert next(batches) == [(2, 3), (1, 2), (4, 5), (3, 4), (0, 1)]


def test_closure_skips_what_follows_and_asks_where_wins_contradict_each_other():
    known = comparisons(4, closure=True)
    for winner, loser in [(0, 1), (1, 2)]:
        known.record((winner, loser), 0.9)
        known.record((loser, winner), 0.1)
    assert known.questions([(2, 0)]) == []
    assert known.verdicts[0, 2] == 1.0
    elsewhere = comparisons(4, closure=True)
    for winner, loser in [(0, 1), (1, 2), (2, 3), (3, 1)]:
        elsewhere.record((winner, loser), 0.9)
        elsewhere.record((loser, winner), 0.1)
    assert elsewhere.questions([(0, 3)]) == []
    circle = comparisons(4, closure=True)
    for winner, loser in [(0, 1), (1, 2), (2, 3), (3, 0)]:
        circle.record((winner, loser), 0.9)
        circle.record((loser, winner), 0.1)
    assert circle.questions([(0, 2)]) == [[(0, 2), (2, 0)]]


def test_a_tie_implies_nothing():
    known = comparisons(3, closure=True)
    for question, chance in [((0, 1), 0.9), ((1, 0), 0.1), ((1, 2), 0.9), ((2, 1), 0.9)]:
        known.record(question, chance)
    assert known.verdicts[1, 2] == 0.5
    assert len(known.questions([(0, 2)])) == 1


def test_orders_that_disagree_are_a_tie_for_verdicts_and_a_mean_for_chances():
    known = comparisons(2)
    known.record((0, 1), 0.9)
    assert np.isnan(known.verdicts[0, 1])
    known.record((1, 0), 0.7)
    assert known.verdicts[0, 1] == 0.5
    assert known.chances[0, 1] == pytest.approx((0.9 + 1 - 0.7) / 2)
    assert not known.beats(0, 1)


def test_a_failed_order_leaves_the_pair_open_and_is_not_asked_again():
    known = comparisons(2)
    known.record((0, 1), None)
    known.record((1, 0), 0.1)
    assert np.isnan(known.verdicts[0, 1])
    assert known.questions([(0, 1)]) == []
    assert known.compared.tolist() == [False, False]


def test_the_second_order_is_asked_where_the_first_is_not_sure():
    known = comparisons(4, adaptive=0.2)
    pairs = [(0, 1), (2, 3), (1, 2)]
    assert known.questions(pairs) == [[(0, 1)], [(2, 3)], [(1, 2)]]
    known.record((0, 1), 0.9)
    known.record((2, 3), 0.6)
    known.record((1, 2), 0.95, sure=False)  # a written letter
    assert known.beats(0, 1)
    assert known.verdicts[2, 3] == known.verdicts[1, 2] == 0.5  # as long as nothing more is known
    assert known.questions(pairs) == [[(3, 2)], [(2, 1)]]
    known.record((3, 2), 0.3)
    known.record((2, 1), 0.2, sure=False)
    assert known.beats(2, 3)
    assert known.beats(1, 2)
    assert known.questions(pairs) == []
