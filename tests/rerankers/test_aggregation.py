"""The rules that turn a comparison matrix into scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.rerankers.aggregation import RULES, SCALES, borda, bradley_terry, page_rank, path, wins

NAN = np.nan


def matrix_of(values):
    """A matrix from its upper triangle."""
    size = len(values)
    matrix = np.full((size, size), NAN)
    for i, j in itertools.combinations(range(size), 2):
        matrix[i, j], matrix[j, i] = values[i][j], 1.0 - values[i][j]
    return matrix


def total_order(places):
    return matrix_of([[1.0 if a < b else 0.0 for b in places] for a in places])


@st.composite
def matrices(draw, most=9, entries=(0.0, 0.25, 0.5, 1.0, NAN)):
    size = draw(st.integers(1, most))
    row = st.lists(st.sampled_from(entries), min_size=size, max_size=size)
    return matrix_of(draw(st.lists(row, min_size=size, max_size=size)))


orders = st.integers(1, 30).flatmap(lambda size: st.permutations(range(size)))


@pytest.mark.parametrize("rule", RULES)
@given(orders)
def test_a_judge_without_contradictions_is_followed_exactly(rule, places):
    scores = np.round(RULES[rule](total_order(places)), 9)
    assert np.argsort(-scores, kind="stable").tolist() == np.argsort(places).tolist()
    assert len(set(scores.tolist())) == len(places)


@pytest.mark.parametrize("rule", RULES)
@given(matrices())
def test_scores_are_finite_whatever_the_matrix(rule, matrix):
    scores = RULES[rule](matrix)
    assert scores.shape == (len(matrix),)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("rule", ["wins", "borda", "bradley-terry", "pagerank"])
@given(matrices(), st.randoms(use_true_random=False))
def test_the_input_order_does_not_matter(rule, matrix, random):
    shuffled = list(range(len(matrix)))
    random.shuffle(shuffled)
    again = RULES[rule](matrix[np.ix_(shuffled, shuffled)])
    assert again == pytest.approx(RULES[rule](matrix)[shuffled], abs=1e-9)


@given(matrices())
def test_wins_share_out_every_contest(matrix):
    assert wins(matrix).sum() == len(matrix) * (len(matrix) - 1) / 2


def test_wins_and_borda_by_hand():
    matrix = matrix_of([[NAN, 1.0, 0.5], [NAN, NAN, NAN], [NAN, NAN, NAN]])
    assert wins(matrix).tolist() == [1.5, 0.5, 1.0]
    assert borda(matrix).tolist() == [0.75, 0.0, 0.5]


def test_bradley_terry_finds_the_strengths_that_made_the_matrix():
    strengths = np.array([1.0, 0.3, -0.2, -1.1])
    chances = 1.0 / (1.0 + np.exp(strengths[None, :] - strengths[:, None]))
    np.fill_diagonal(chances, NAN)
    fitted = bradley_terry(chances)
    assert np.corrcoef(fitted, strengths)[0, 1] > 0.9999
    assert (np.abs(fitted) < np.abs(strengths)).all()  # the prior pulls a little


def test_bradley_terry_on_complete_wins_and_on_groups_that_never_met():
    strengths = bradley_terry(total_order(range(60)))
    assert (np.diff(strengths) < 0).all()
    assert np.abs(strengths).max() < 60
    apart = matrix_of([[NAN, 1.0, NAN, NAN], [NAN] * 4, [NAN, NAN, NAN, 1.0], [NAN] * 4])
    first, second, third, fourth = bradley_terry(apart)
    assert (first, second) == pytest.approx((third, fourth))
    assert first > 0 > second


@given(matrices())
def test_pagerank_is_a_distribution(matrix):
    ranks = page_rank(matrix)
    assert ranks.sum() == pytest.approx(1.0)
    assert (ranks > 0).all()


def test_pagerank_honours_whom_one_beat_and_leaves_equals_equal():
    # 0 beat the strong 1, which beat 2 and 3; 4 beat only 3.
    matrix = np.full((5, 5), NAN)
    for winner, loser in [(0, 1), (1, 2), (1, 3), (4, 3)]:
        matrix[winner, loser], matrix[loser, winner] = 1.0, 0.0
    ranks = page_rank(matrix)
    assert ranks.argmax() == 0
    assert ranks[1] > ranks[4] > ranks[3]
    equals = page_rank(np.full((4, 4), NAN))
    assert equals == pytest.approx(0.25)


def weight(matrix, order):
    return sum(np.nan_to_num(matrix, nan=0.5)[a, b] for a, b in itertools.pairwise(order))


@given(matrices(most=6))
def test_a_short_path_is_the_heaviest_there_is(matrix):
    found = np.argsort(-path(matrix))
    heaviest = max(weight(matrix, order) for order in itertools.permutations(range(len(matrix))))
    assert weight(matrix, found) == pytest.approx(heaviest)


def test_a_long_path_is_no_lighter_than_the_order_by_wins_and_no_turn_improves_it():
    random = np.random.default_rng(0)
    matrix = matrix_of(random.random((25, 25)))
    found = np.argsort(-path(matrix)).tolist()
    assert weight(matrix, found) > weight(matrix, np.argsort(-wins(matrix)))
    for i, j in itertools.combinations(range(25), 2):
        turned = found[:i] + found[i : j + 1][::-1] + found[j + 1 :]
        assert weight(matrix, turned) <= weight(matrix, found) + 1e-9


def test_every_rule_has_a_scale_of_its_own_meaning():
    assert set(SCALES) == set(RULES)
    assert SCALES["borda"] != "probability"  # a share of contests says nothing of relevance
