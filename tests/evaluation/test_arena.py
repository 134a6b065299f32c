from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError, StoreError
from rerankit.evaluation.arena import Arena, expected_information, next_match
from rerankit.evaluation.ratings import Vote, fit_ratings

TRUTH = {"a": -1.0, "b": -0.3, "c": 0.3, "d": 1.0}


def ranked(rng: np.random.Generator, shown: tuple[str, ...]) -> Vote:
    """A full Plackett-Luce ranking: the arms by strength plus Gumbel noise."""
    noisy = {arm: TRUTH[arm] + rng.gumbel() for arm in shown}
    return Vote(shown, tuple((arm,) for arm in sorted(shown, key=lambda arm: -noisy[arm])))


def duel(rng: np.random.Generator, pair: tuple[str, str], tie: float = 0.0) -> Vote:
    """Davidson's model: weights of the two arms, and ``tie`` times their geometric mean for a tie."""
    first, second = (math.exp(TRUTH[arm]) for arm in pair)
    weights = np.array([first, second, tie * math.sqrt(first * second)])
    choice = rng.choice(3, p=weights / weights.sum())
    return Vote(pair, ((pair[choice],),) if choice < 2 else (pair,))


def test_bradley_terry_in_closed_form():
    votes = [Vote(("a", "b"), (("a",),))] * 30 + [Vote(("b", "a"), (("b",), ("a",)))] * 10
    ratings = fit_ratings(votes)
    estimate, low, high = ratings.difference("a", "b")
    assert estimate == pytest.approx(math.log(3), abs=0.02)
    error = math.sqrt(1 / 30 + 1 / 10)
    assert (low, high) == pytest.approx((estimate - 1.96 * error, estimate + 1.96 * error), abs=0.03)
    assert ratings.win_probability("a", "b") == pytest.approx(0.75, abs=0.01)
    assert ratings.elo("a") + ratings.elo("b") == pytest.approx(2000)
    assert ratings.elo("a") - ratings.elo("b") == pytest.approx(400 / math.log(10) * estimate)
    assert ratings.leaderboard() == ["a", "b"]


def test_davidson_ties_in_closed_form():
    votes = (
        [Vote(("a", "b"), (("a",),))] * 40 + [Vote(("a", "b"), (("b",),))] * 10 + [Vote(("a", "b"), (("a", "b"),))] * 30
    )
    ratings = fit_ratings(votes)
    assert ratings.difference("a", "b")[0] == pytest.approx(math.log(4), abs=0.04)
    assert math.exp(ratings.ties[2]) == pytest.approx(30 / math.sqrt(40 * 10), rel=0.03)


@pytest.mark.parametrize("kind", ["duels", "ties", "rankings", "best of four"])
def test_strengths_are_recovered_and_intervals_cover(kind: str):
    rng, inside, errors = np.random.default_rng(0), [], []
    pairs = list(combinations(TRUTH, 2))
    for _ in range(100):
        if kind == "rankings":
            votes = [ranked(rng, tuple(rng.permutation(list(TRUTH))[:3].tolist())) for _ in range(100)]
        elif kind == "best of four":
            votes = [Vote(vote.shown, vote.order[:1]) for vote in (ranked(rng, tuple(TRUTH)) for _ in range(200))]
        else:
            votes = [duel(rng, pairs[number % 6], tie=1.0 if kind == "ties" else 0.0) for number in range(200)]
        ratings = fit_ratings(votes)
        for first, second in pairs:
            estimate, low, high = ratings.difference(first, second)
            inside.append(low <= TRUTH[first] - TRUTH[second] <= high)
            errors.append(estimate - (TRUTH[first] - TRUTH[second]))
        low, high = ratings.interval("a")
        assert low < ratings.strengths[0] < high
    assert 0.92 <= np.mean(inside) <= 0.98
    assert abs(np.mean(errors)) < 0.06


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.permutations("abcd"), st.integers(2, 4), st.booleans()), max_size=15))
def test_fits_always_converge_and_are_centred(rows: list[tuple[list[str], int, bool]]):
    votes = [
        Vote(tuple(row[:size]), (tuple(row[:2]), *((arm,) for arm in row[2:size])) if tie else ((row[0],),))
        for row, size, tie in rows
    ]
    ratings = fit_ratings(votes, arms="abcd")
    assert ratings.strengths.sum() == pytest.approx(0, abs=1e-9)
    assert np.isfinite(ratings.strengths).all()
    assert np.linalg.eigvalsh(ratings.covariance).min() > 0
    again = fit_ratings([Vote(vote.shown[::-1], vote.order) for vote in reversed(votes)], arms="dcba")
    np.testing.assert_allclose(again.strengths, ratings.strengths, atol=1e-5)


def test_an_arm_that_never_lost_stays_finite_and_an_unseen_one_uncertain():
    ratings = fit_ratings([Vote(("a", "b"), (("a",),))] * 50, arms=["a", "b", "c"])
    assert 2 < ratings.difference("a", "b")[0] < 12
    low, high = ratings.interval("c")
    assert high - low > 5
    with pytest.raises(InputError, match="no arm 'x'"):
        ratings.elo("x")
    with pytest.raises(InputError, match="two arms"):
        fit_ratings([], arms=["a"])


@pytest.mark.parametrize(
    ("shown", "order"),
    [(("a",), (("a",),)), (("a", "a"), (("a",),)), (("a", "b"), (("c",),)), (("a", "b"), (("a",), ("a",))),
     (("a", "b"), ((),)), (tuple("abcdefghi"), (("a",),))],
)  # fmt: skip
def test_bad_votes(shown: tuple[str, ...], order: tuple[tuple[str, ...], ...]):
    with pytest.raises(InputError):
        Vote(shown, order)


def test_the_next_match_is_between_close_arms_that_met_rarely():
    votes = [Vote(("a", "b"), (("a",),))] * 40 + [Vote(("a", "c"), (("a",),))] * 40
    votes += [Vote(("b", "c"), (("b",),)), Vote(("b", "c"), (("c",),))]
    ratings = fit_ratings(votes)
    assert next_match(ratings, seed=0) == ("b", "c")
    gains = expected_information(ratings, list(combinations("abc", 2)))
    assert (gains > 0).all()
    fresh = fit_ratings([], arms=["a", "b", "c"])
    assert len({next_match(fresh, seed=seed) for seed in range(30)}) == 3


def test_the_gain_is_what_the_covariance_loses():
    rng = np.random.default_rng(0)
    votes = [ranked(rng, ("a", "b", "c")) for _ in range(60)]
    ratings = fit_ratings(votes)
    (gain,) = expected_information(ratings, [("a", "b")])
    p = ratings.win_probability("a", "b")
    contrast = np.array([1.0, -1.0, 0.0])
    assert gain == pytest.approx(0.5 * math.log1p(p * (1 - p) * contrast @ ratings.covariance @ contrast))


def test_many_arms_are_sampled():
    ratings = fit_ratings([], arms=[f"arm{number}" for number in range(30)])
    assert len(set(next_match(ratings, 5, seed=0))) == 5
    with pytest.raises(InputError, match="2 to 8"):
        next_match(ratings, 9)


def test_active_matches_learn_more_than_random_ones():
    arms = {"a": -2.0, "b": -1.8, "c": 0.0, "d": 0.2, "e": 1.8, "f": 2.0}
    errors = {True: 0.0, False: 0.0}
    for active in errors:
        for seed in range(10):
            rng, votes = np.random.default_rng(seed), []
            for number in range(200):
                if number % 20 == 0:
                    ratings = fit_ratings(votes, arms=list(arms))
                pair = (
                    next_match(ratings, seed=rng)
                    if active
                    else tuple(rng.choice(list(arms), 2, replace=False).tolist())
                )
                first = rng.random() < 1 / (1 + math.exp(arms[pair[1]] - arms[pair[0]]))
                votes.append(Vote(pair, ((pair[0 if first else 1],),)))
            ratings = fit_ratings(votes, arms=list(arms))
            errors[active] += sum((ratings.difference(y, x)[0] - 0.2) ** 2 for x, y in ("ab", "cd", "ef"))
    assert errors[True] < errors[False]


def test_a_blind_arena_from_ballot_to_leaderboard(tmp_path: Path):
    arena = Arena(list(TRUTH), path=tmp_path / "votes" / "votes.jsonl", seed=0)
    answers = {arm: f"answer of quality {TRUTH[arm]}" for arm in TRUTH}
    places = Counter()
    for _ in range(60):
        ballot = arena.ballot(answers, k=3)
        assert ballot.answers == tuple(answers[arm] for arm in ballot.arms)
        places[ballot.arms.index(min(ballot.arms))] += 1
        best_first = sorted(range(3), key=lambda place: -TRUTH[ballot.arms[place]])
        arena.vote(ballot, [[place] for place in best_first])
    assert min(places[place] for place in range(3)) > 8  # no arm has a fixed place
    assert arena.ratings().leaderboard() == ["d", "c", "b", "a"]
    again = Arena(list(TRUTH), path=tmp_path / "votes" / "votes.jsonl")
    assert again.votes == arena.votes
    np.testing.assert_allclose(again.ratings().strengths, arena.ratings().strengths)


def test_equal_answers_never_meet():
    arena = Arena("abc", seed=0)
    ballots = [arena.ballot({"a": "same", "b": " same\n", "c": "other"}, k=3) for _ in range(20)]
    assert {frozenset(ballot.arms) for ballot in ballots} == {frozenset("ac"), frozenset("bc")}
    with pytest.raises(InputError, match="same answer"):
        arena.ballot({"a": "same", "b": "same"})
    with pytest.raises(InputError, match="No such arm"):
        arena.ballot({"a": "1", "z": "2"})


def test_partial_votes_and_ties_from_positions():
    arena = Arena("ab", seed=0)
    ballot = arena.ballot({"a": "1", "b": "2"})
    assert arena.vote(ballot, [[0, 1]]).order == (ballot.arms,)
    assert arena.vote(ballot, [[1]]).order == ((ballot.arms[1],),)
    with pytest.raises(InputError, match="positions 0 to 1"):
        arena.vote(ballot, [[2]])
    for order in ([0, 1], [["0"]], [[1.0]], 5, "01", [[None]]):
        with pytest.raises(InputError, match="list of lists of positions"):
            arena.vote(ballot, order)
    with pytest.raises(InputError, match="each once"):
        arena.vote(ballot, [[0], [0]])
    with pytest.raises(InputError, match="at least two arms"):
        Arena(["a", "a"])


def test_damaged_files_are_named(tmp_path: Path):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"shown": ["a", "b"], "order": [["a"]]}\n{"shown": ["a", "b"], "or\n')
    with pytest.raises(StoreError, match="Line 2"):
        Arena("ab", path=path)
    with pytest.raises(StoreError, match="cannot be read"):
        Arena("ab", path=tmp_path)
    arena = Arena("ab", path=tmp_path / "votes.jsonl" / "below")
    with pytest.raises(StoreError, match="cannot be written"):
        arena.vote(arena.ballot({"a": "1", "b": "2"}), [[0]])
    assert arena.votes == ()


WHOLE = '{"shown": ["a", "b"], "order": [["a"]]}'


@pytest.mark.parametrize("torn", [WHOLE[:1], WHOLE[:20], WHOLE[:-1]])
def test_half_a_vote_at_the_end_was_never_recorded(tmp_path: Path, torn: str, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "votes.jsonl"
    path.write_text(f"{WHOLE}\n\n{WHOLE}\n{torn}")
    arena = Arena("ab", path=path)
    assert len(arena.votes) == 2
    assert "Line 4" in caplog.text
    ballot = arena.ballot({"a": "x", "b": "y"})
    for count in (3, 4):  # later votes stand apart from the half one, which stays left out
        arena.vote(ballot, [[0]])
        assert len(arena.votes) == len(Arena("ab", path=path).votes) == count


def test_a_last_line_that_only_lacks_its_break_counts(tmp_path: Path):
    path = tmp_path / "votes.jsonl"
    path.write_text(f"{WHOLE}\r\n{WHOLE}")
    arena = Arena("ab", path=path)
    arena.vote(arena.ballot({"a": "x", "b": "y"}), [[0]])
    assert len(arena.votes) == 3


def test_two_processes_see_each_others_votes(tmp_path):
    one, two = (Arena(["a", "b"], path=tmp_path / "votes.jsonl", seed=seed) for seed in (1, 2))
    ballot = one.ballot({"a": "x", "b": "y"})
    one.vote(ballot, [[0], [1]])
    assert len(two.votes) == 1
    two.vote(ballot, [[0], [1]])
    assert len(one.votes) == 2
    assert one.ratings().leaderboard() == two.ratings().leaderboard()
