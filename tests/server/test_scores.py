"""Relevance in [0, 1]: documented maps that never change an order."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.server.scores import raw_scores, relevance
from rerankit.types import Hit, Passage, Ranking

SCALES = ["logit", "probability", "wins", "attention", "cosine", "order", "maxsim", "bm25", "z-score", "rrf", "own"]
finite = st.floats(allow_nan=False, allow_infinity=False)


def ranking(scores, scale, **fields):
    hits = tuple(Hit(Passage(str(i), "text"), i + 1, score, i + 1) for i, score in enumerate(scores))
    return Ranking("query", hits, "model", scale, **fields)


@given(st.lists(finite), st.sampled_from(SCALES))
def test_in_range_and_never_against_the_order(scores, scale):
    values = relevance(ranking(sorted(scores, reverse=True), scale))
    assert all(0.0 <= value <= 1.0 for value in values)
    assert all(after <= before for before, after in itertools.pairwise(values))


@given(st.lists(finite, min_size=2), st.sampled_from(SCALES))
def test_an_order_that_is_not_by_score_is_kept_too(scores, scale):
    values = relevance(ranking(scores, scale))
    assert all(after <= before for before, after in itertools.pairwise(values))


def test_a_hit_moved_in_front_stays_in_front_for_who_sorts_by_relevance():
    values = relevance(ranking([0.5, 0.9, 0.1], "cosine"))
    assert sorted(range(3), key=lambda i: -values[i]) == [0, 1, 2]
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize(
    ("scale", "score", "expected"),
    [
        ("logit", 0.0, 0.5),
        ("logit", 2.0, 0.8807970779778823),
        ("z-score", -1.0, 0.2689414213699951),
        ("probability", 0.25, 0.25),
        ("cosine", 0.5, 0.75),
        ("bm25", 3.0, 0.75),
        ("rrf", 0.25, 0.2),
        ("maxsim", 1.0, 0.75),
        ("own", -3.0, 0.125),
    ],
)
def test_the_documented_maps(scale, score, expected):
    assert relevance(ranking([score], scale)) == [pytest.approx(expected)]


def test_calibrated_probabilities_win():
    found = ranking([7.0, 3.0], "logit")
    hits = tuple(dataclasses.replace(hit, probability=p) for hit, p in zip(found.hits, (0.9, 0.2), strict=True))
    assert relevance(dataclasses.replace(found, hits=hits)) == [0.9, 0.2]


def test_without_a_score():
    hits = (Hit(Passage("a", "t"), 1, -2.0, 1), Hit(Passage("b", "t"), 2, None, 2, status="unscored"))
    found = Ranking("query", hits, "model", "logit", "partial")
    assert relevance(found)[1] == 0.0
    assert raw_scores(found) == [-2.0, -2.0]
    assert raw_scores(dataclasses.replace(found, hits=hits[1:])) == [0.0]
