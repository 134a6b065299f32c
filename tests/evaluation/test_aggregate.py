from __future__ import annotations

from itertools import combinations, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.evaluation.aggregate import Consensus, aggregate, kemeny


def test_agreeing_sets():
    result = aggregate({"one": {"a": 0.3, "b": 0.2, "c": 0.1}, "two": {"a": 0.9, "b": 0.8, "c": 0.7}})
    assert result == Consensus(
        borda={"a": 1.0, "b": 0.5, "c": 0.0},
        copeland={"a": 1.0, "b": 0.5, "c": 0.0},
        kemeny=(("a",), ("b",), ("c",)),
        winner="a",
    )


def test_borda_and_copeland_can_differ():
    # a beats b on three of five sets, yet b is never last.
    scores = {f"set{number}": {"a": 3.0, "b": 2.0, "c": 1.0} for number in range(3)}
    scores |= {f"other{number}": {"b": 3.0, "c": 2.0, "a": 1.0} for number in range(2)}
    result = aggregate(scores)
    assert next(iter(result.copeland)) == "a" == result.winner
    assert next(iter(result.borda)) == "b"


def test_a_cycle_is_a_tie():
    cycle = [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]
    result = aggregate({str(n): {arm: 3.0 - place for place, arm in enumerate(row)} for n, row in enumerate(cycle)})
    assert result.winner is None
    assert set(result.copeland.values()) == {0.5}


def test_margin_makes_ties():
    scores = {"one": {"a": 0.501, "b": 0.5}, "two": {"a": 0.7, "b": 0.705}}
    assert aggregate(scores, margin=0.01).kemeny == (("a", "b"),)
    assert aggregate({"one": {"a": 0.6, "b": 0.5}}, margin=0.01).kemeny == (("a",), ("b",))


def weak_orders(arms: tuple[str, ...]):
    """Every order with ties, by brute force: ranks for all arms, without gaps."""
    for ranks in product(range(len(arms)), repeat=len(arms)):
        if set(ranks) == set(range(max(ranks) + 1)):
            yield dict(zip(arms, ranks, strict=True))


def distance(ranks: dict[str, int], rows: list[dict[str, int]]) -> float:
    """Summed Kemeny-Snell distance: 1 per reversed pair, 1/2 per pair tied on one side only."""
    total = 0.0
    for row in rows:
        for a, b in combinations(ranks, 2):
            mine, theirs = ranks[a] - ranks[b], row[a] - row[b]
            total += 0.5 * abs(((mine > 0) - (mine < 0)) - ((theirs > 0) - (theirs < 0)))
    return total


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=5))
def test_kemeny_is_the_least_distant_of_all_orders(table: list[list[int]]):
    arms = ("a", "b", "c", "d")
    rows = [dict(zip(arms, row, strict=True)) for row in table]
    order = aggregate({str(n): {arm: -rank for arm, rank in row.items()} for n, row in enumerate(rows)}).kemeny
    assert order is not None
    found = {arm: place for place, group in enumerate(order) for arm in group}
    assert distance(found, rows) == pytest.approx(min(distance(other, rows) for other in weak_orders(arms)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.permutations("abcde"), min_size=1, max_size=6))
def test_names_do_not_matter_and_a_condorcet_winner_leads_everywhere_but_borda(rows: list[list[str]]):
    scores = {str(n): {arm: float(-place) for place, arm in enumerate(row)} for n, row in enumerate(rows)}
    result = aggregate(scores)
    assert sum(result.borda.values()) == pytest.approx(5 / 2)
    assert sum(result.copeland.values()) == pytest.approx(5 / 2)
    assert result.kemeny is not None
    if result.winner is not None:
        assert result.copeland[result.winner] == 1.0
        assert result.kemeny[0] == (result.winner,)
    swap = dict(zip("abcde", "edcba", strict=True))
    renamed = aggregate({name: {swap[arm]: score for arm, score in row.items()} for name, row in scores.items()})
    assert {swap[arm]: points for arm, points in renamed.borda.items()} == pytest.approx(result.borda)


def test_eight_arms_are_exact_and_nine_are_left_out():
    arms = "abcdefgh"
    scores = {str(n): {arm: float(-place) for place, arm in enumerate(row)} for n, row in enumerate([arms] * 3)}
    assert aggregate(scores).kemeny == tuple((arm,) for arm in arms)
    nine = aggregate({"one": {arm: float(ord(arm)) for arm in "abcdefghi"}})
    assert nine.kemeny is None
    assert nine.winner == "i"
    with pytest.raises(InputError, match="at most 8"):
        kemeny(dict.fromkeys(permutations("abcdefghi", 2), 0.0), "abcdefghi")


@pytest.mark.parametrize(
    "scores",
    [{}, {"one": {"a": 1.0}}, {"one": {"a": 1.0, "b": 1.0}, "two": {"a": 1.0}}, {"one": {"a": 1, "b": float("nan")}}],
)
def test_bad_input(scores: dict[str, dict[str, float]]):
    with pytest.raises(InputError):
        aggregate(scores)
