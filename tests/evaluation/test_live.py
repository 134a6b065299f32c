from __future__ import annotations

import math
import multiprocessing
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError, StoreError
from rerankit.evaluation.assignment import assign, bucket
from rerankit.evaluation.feedback import FeedbackLog
from rerankit.evaluation.interleaving import balanced, team_draft
from rerankit.evaluation.live import CLICK, Guardrail, LiveExperiment, Metric, interleaving_result
from rerankit.evaluation.position_bias import counterfactual_dcg, estimate_propensities, inverse_weights, swap
from rerankit.evaluation.sequential import confidence_sequence, log_wealth, sample_ratio_p, signed_observations

LATER = 1e9

# -- assignment ------------------------------------------------------------------------------------------------------


def test_assignment_is_stable_weighted_and_independent():
    users = [f"user{number}" for number in range(20_000)]
    weights = {"none": 1.0, "new": 3.0}
    arms = [assign(user, weights, experiment="one") for user in users]
    assert arms == [assign(user, weights, experiment="one") for user in users]
    assert arms.count("new") / len(arms) == pytest.approx(0.75, abs=0.015)
    others = [assign(user, weights, experiment="two") for user in users]
    salted = [assign(user, weights, experiment="one", salt="x") for user in users]
    for other in (others, salted):
        both = sum(a == b == "new" for a, b in zip(arms, other, strict=True)) / len(users)
        assert both == pytest.approx(0.75**2, abs=0.015)
    # The exact place is part of the contract: a new release must not reshuffle running experiments.
    assert bucket("user1", experiment="one") == 0.5957640192815536


@given(st.text(max_size=20), st.floats(0.1, 5), st.floats(0, 5))
def test_a_growing_weight_takes_units_only_from_the_neighbour(unit: str, weight: float, more: float):
    before = assign(unit, {"new": weight, "none": 10 - weight}, experiment="e")
    after = assign(unit, {"new": weight + more * 0.9, "none": 10 - weight - more * 0.9}, experiment="e")
    assert not (before == "new" and after == "none")


@pytest.mark.parametrize("weights", [{}, {"a": 1.0}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": math.inf}])
def test_bad_weights(weights: dict[str, float]):
    with pytest.raises(InputError):
        assign("user", weights, experiment="e")


# -- interleaving ----------------------------------------------------------------------------------------------------

two_rankings = st.tuples(st.permutations(range(6)), st.permutations(range(6))).map(
    lambda pair: {"a": [str(i) for i in pair[0]], "b": [str(i) for i in pair[1]]}
)


@settings(max_examples=60, deadline=None)
@given(two_rankings, st.integers(1, 8), st.integers(0, 1000))
def test_team_draft_laws(rankings: dict[str, list[str]], k: int, seed: int):
    mixed = team_draft(rankings, k=k, seed=seed)
    assert mixed == team_draft(rankings, k=k, seed=seed)
    assert len(mixed.ids) == len(set(mixed.ids)) == min(k, 6)
    sizes = Counter(arm for (arm,) in mixed.credit)
    assert abs(sizes["a"] - sizes["b"]) <= 1
    for arm, ids in rankings.items():  # what an arm contributed stands in its own order
        mine = [name for name, (team,) in zip(mixed.ids, mixed.credit, strict=True) if team == arm]
        assert mine == sorted(mine, key=ids.index)
    assert mixed.preference("a", "b", range(len(mixed.ids))) == -mixed.preference("b", "a", range(len(mixed.ids)))


@settings(max_examples=60, deadline=None)
@given(two_rankings, st.integers(1, 8), st.integers(0, 1000))
def test_balanced_laws(rankings: dict[str, list[str]], k: int, seed: int):
    mixed = balanced(rankings, k=k, seed=seed)
    assert len(mixed.ids) == len(set(mixed.ids)) == min(k, 6)
    for length in range(1, len(mixed.ids) + 1):  # every prefix is the union of two top lists, nearly equally deep
        head = set(mixed.ids[:length])
        depths = [next((i for i, name in enumerate(ids) if name not in head), len(ids)) for ids in rankings.values()]
        shallow = min(depths)
        union = set(rankings["a"][: shallow + 1]) | set(rankings["b"][: shallow + 1])
        assert set(rankings["a"][:shallow]) | set(rankings["b"][:shallow]) <= head <= union


def test_team_draft_lets_a_short_arm_sit_out_and_mixes_many_arms():
    mixed = team_draft({"a": ["1"], "b": ["1", "2", "3", "4"], "c": []}, k=4, seed=0)
    assert set(mixed.ids) == {"1", "2", "3", "4"}
    many = team_draft({arm: [f"{arm}{i}" for i in range(9)] for arm in "abcd"}, k=8, seed=1)
    assert Counter(arm for (arm,) in many.credit) == dict.fromkeys("abcd", 2)


@pytest.mark.parametrize("mix", [team_draft, balanced])
def test_clicks_without_taste_favour_nobody_and_clicks_on_the_better_arm_do(mix):
    relevant = {"3", "4"}
    rankings = {"good": ["3", "4", "0", "1", "2"], "bad": ["0", "1", "2", "3", "4"]}
    rng, leads = np.random.default_rng(0), []
    for seed in range(600):
        mixed = mix(rankings, k=4, seed=seed)
        leads.append(mixed.preference("good", "bad", [i for i, name in enumerate(mixed.ids) if name in relevant]))
    assert np.mean(leads) > 0.5
    noise = [mix(rankings, k=4, seed=seed).preference("good", "bad", [int(rng.integers(4))]) for seed in range(3000)]
    assert abs(np.mean(noise)) < 0.06


def test_balanced_credit_follows_joachims():
    mixed = balanced({"a": ["1", "2", "3"], "b": ["2", "4", "1"]}, k=4, seed=0)
    lowest = mixed.ids.index("4")  # stands second in b: both tops of two are compared
    assert mixed.clicks([lowest]) == {"a": 0, "b": 1}
    assert mixed.clicks([]) == {}


def test_bad_interleaving():
    with pytest.raises(InputError, match="two arms"):
        team_draft({"a": ["1"]}, k=1, seed=0)
    with pytest.raises(InputError, match="twice"):
        team_draft({"a": ["1", "1"], "b": []}, k=1, seed=0)
    with pytest.raises(InputError, match="at least 1"):
        balanced({"a": ["1"], "b": ["2"]}, k=0, seed=0)
    with pytest.raises(InputError, match="takes two"):
        balanced({"a": ["1"], "b": ["2"], "c": ["3"]}, k=1, seed=0)
    for mix in (team_draft, balanced):
        with pytest.raises(InputError, match="shown"):
            mix({"a": ["1"], "b": ["2"]}, k=2, seed=0).clicks([2])
        with pytest.raises(InputError, match=r"No such arm: \['zz'\]"):
            mix({"a": ["1"], "b": ["2"]}, k=2, seed=0).preference("a", "zz", [0])
        assert mix({"a": ["1"], "b": []}, k=1, seed=0).preference("b", "a", [0]) == -1  # b is known, with nothing shown


# -- sequential tests ------------------------------------------------------------------------------------------------


def ever_rejected(values: np.ndarray, mean: float, alpha: float = 0.05) -> float:
    """Share of experiments (rows) that rule the mean out at any time at all."""
    blocks = log_wealth(values, np.array([mean]))
    return float(np.concatenate([block[..., 0] >= math.log(1 / alpha) for block in blocks], axis=1).any(1).mean())


def test_continuous_peeking_keeps_the_level():
    rng = np.random.default_rng(0)
    treated = rng.random((2000, 500)) < 0.3
    clicks = (rng.random(treated.shape) < 0.2).astype(float)
    signed, bound = signed_observations(clicks, treated, share=0.3)
    assert ever_rejected((signed + bound) / (2 * bound), 0.5) <= 0.05
    count = np.arange(1, 501)  # the usual test, looked at as often, does not keep it
    mean = signed.cumsum(1) / count
    z = np.abs(mean) / np.sqrt(((signed**2).cumsum(1) / count - mean**2 + 1e-12) / count)
    assert (z[:, 30:] > 1.96).any(1).mean() > 0.2


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (0.2, 5.0), (1.0, 40.0)])
def test_the_true_mean_is_hardly_ever_lost(a: float, b: float):
    values = np.random.default_rng(1).beta(a, b, (600, 400))
    assert ever_rejected(values, a / (a + b)) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_a_real_difference_is_found():
    rng = np.random.default_rng(0)
    treated = rng.random((300, 1000)) < 0.5
    clicks = (rng.random(treated.shape) < np.where(treated, 0.45, 0.3)).astype(float)
    signed, bound = signed_observations(clicks, treated, share=0.5)
    assert signed.mean() == pytest.approx(0.15, abs=0.01)
    assert ever_rejected((signed + bound) / (2 * bound), 0.5) > 0.9


def test_interval_and_p_value_agree_and_never_go_back():
    values = np.random.default_rng(3).beta(4, 2, 700)
    before = confidence_sequence([], null=0.5)
    assert (before.interval, before.p, before.n) == ((0.0, 1.0), 1.0, 0)
    for count in (1, 10, 60, 200, 499, 500, 501, 700):
        seen = confidence_sequence(values[:count], null=0.5)
        assert before.interval[0] <= seen.interval[0] <= seen.interval[1] <= before.interval[1]
        assert seen.p <= before.p
        assert seen.decided == (seen.interval[0] > 0.5)
        before = seen
    assert before.interval[0] < 4 / 6 < before.interval[1]
    assert before.interval[1] - before.interval[0] < 0.1


def test_bounds_scale_and_mirror():
    values = np.random.default_rng(3).random(300)
    plain = confidence_sequence(values, null=0.5)
    wide = confidence_sequence(10 - 20 * values, low=-10, high=10, null=0.0)
    assert wide.interval == pytest.approx((10 - 20 * plain.interval[1], 10 - 20 * plain.interval[0]))
    assert wide.p == pytest.approx(plain.p)


def test_a_drifting_mean_ends_in_a_point_not_in_an_error():
    seen = confidence_sequence([0.0] * 300 + [1.0] * 900, null=0.5)
    assert seen.interval == (0.75, 0.75)


@pytest.mark.parametrize(
    ("values", "options"),
    [([2.0], {}), ([math.nan], {}), ([0.5], {"low": 1.0}), ([0.5], {"null": 2.0}), ([0.5], {"alpha": 0.0})],
)
def test_bad_sequences(values: list[float], options: dict[str, float]):
    with pytest.raises(InputError):
        confidence_sequence(values, **options)


def test_bad_observations():
    for rewards, treated, share in (([0.5], [True, False], 0.5), ([1.5], [True], 0.5), ([0.5], [True], 1.0)):
        with pytest.raises(InputError):
            signed_observations(rewards, treated, share=share)


def test_sample_ratio_is_always_valid():
    assert sample_ratio_p([5000, 5000], [0.5, 0.5]) == 1.0
    assert sample_ratio_p([5300, 4700], [0.5, 0.5]) < 1e-4
    assert sample_ratio_p([900_000, 1_100_000], [0.5, 0.5]) == 0.0
    arrivals = np.random.default_rng(0).random((300, 400)) < 0.5
    first = arrivals.cumsum(1)[:, ::20]
    total = np.arange(1, 401)[::20]
    low = [min(sample_ratio_p([a, n - a], [0.5, 0.5]) for a, n in zip(row, total, strict=True)) for row in first]
    assert np.mean(np.array(low) <= 0.05) <= 0.05


# -- position bias ---------------------------------------------------------------------------------------------------


def test_propensities_are_recovered_from_swaps():
    truth, relevance = np.array([1.0, 0.6, 0.35, 0.2]), {"a": 0.6, "b": 0.5, "c": 0.4, "d": 0.3}
    rng, seen = np.random.default_rng(0), []
    for _ in range(20_000):
        shown, position = swap("abcd", seed=rng)
        clicked = [i for i, name in enumerate(shown) if rng.random() < truth[i] * relevance[name]]
        seen.append((position, clicked))
    np.testing.assert_allclose(estimate_propensities(seen, depth=4), truth, atol=0.06)


def test_swaps_and_weights_at_the_edges():
    assert swap(["a"], seed=0) == (("a",), 0)
    assert swap([], seed=0) == ((), 0)
    np.testing.assert_array_equal(estimate_propensities([], depth=3), [1, 1, 1])
    np.testing.assert_allclose(inverse_weights([1.0, 0.5, 0.01], floor=0.1), [1, 2, 10])
    for wrong in ([0.0], [1.5], [math.nan]):
        with pytest.raises(InputError):
            inverse_weights(wrong)


def test_weighted_clicks_undo_the_position_bias():
    relevance = {"a": 0.1, "b": 0.2, "c": 0.8}
    look = [1.0, 0.5, 0.25]
    weights, rng = inverse_weights(look), np.random.default_rng(0)
    good, bad, flat = ["c", "b", "a"], ["a", "b", "c"], [1.0] * 3
    sums = np.zeros(3)
    for _ in range(4000):  # clicks were collected on the bad order only
        clicked = [i for i, name in enumerate(bad) if rng.random() < look[i] * relevance[name]]
        sums += [counterfactual_dcg(good, bad, clicked, weights), counterfactual_dcg(bad, bad, clicked, weights),
                 counterfactual_dcg(good, bad, clicked, flat)]  # fmt: skip
    true = [sum(relevance[name] / math.log2(2 + i) for i, name in enumerate(order)) for order in (good, bad)]
    np.testing.assert_allclose(sums[:2] / 4000, true, rtol=0.05)
    assert sums[2] / 4000 < 0.6 * true[0]
    assert counterfactual_dcg(["x"], bad, [0], weights) == 0.0
    with pytest.raises(InputError, match="beyond"):
        counterfactual_dcg(good, bad, [3], weights)


# -- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_counts_each_unit_once_within_its_window(tmp_path: Path):
    with FeedbackLog(tmp_path / "deep" / "log.sqlite") as log:
        first = log.shown("e", "u1", "none", at=0.0)
        second = log.shown("e", "u1", "none", at=50.0)
        log.shown("e", "u1", "none", at=500.0)  # after the window
        log.click(first, 0, at=10.0)
        log.click(first, 0, at=11.0)
        log.click(second, 1, at=150.0)  # too late
        log.shown("e", "u2", "new", at=20.0)
        log.shown("other", "u3", "new", at=20.0)
        rewards = log.rewards("e", "click", window_s=100.0, now=1000.0)
        assert [(r.unit, r.arm, r.time, r.value) for r in rewards] == [
            ("u1", "none", 0.0, 0.5),
            ("u2", "new", 20.0, 0.0),
        ]
        assert [r.unit for r in log.rewards("e", "click", window_s=100.0, now=110.0)] == ["u1"]
        missing = log.rewards("e", "thumb", window_s=100.0, missing=None, now=1000.0)
        assert [r.value for r in missing] == [None, None]


def test_the_last_thumb_counts_and_impressions_come_back_whole(tmp_path: Path):
    log = FeedbackLog(tmp_path / "log.sqlite")
    number = log.shown("e", "u", "mixed", ids=["p", "q"], credit=["a", "b"], swapped=1, query="why?", at=5.0)
    log.thumb(number, True, at=6.0)
    log.thumb(number, False, at=7.0)
    log.measure(number, "latency_s", 0.25, at=6.0)
    log.click(number, 1, at=6.0)
    log.click(number, 0, at=6.5)
    assert [r.value for r in log.rewards("e", "thumb", window_s=10.0)] == [0.0]
    assert [r.value for r in log.rewards("e", "latency_s", window_s=10.0)] == [0.25]
    (seen,) = log.impressions("e", window_s=10.0)
    assert (seen.shown, seen.credit, seen.clicked, seen.swapped, seen.query) == (
        ("p", "q"),
        ("a", "b"),
        (0, 1),
        1,
        "why?",
    )
    with pytest.raises(InputError, match="no impression 99"):
        log.click(99, 0)
    with pytest.raises(InputError, match="finite value"):
        log.measure(number, "latency_s", math.nan)
    with pytest.raises(InputError, match="one arm per"):
        log.shown("e", "u", "mixed", ids=["p"], credit=["a", "b"])
    log.close()
    assert len(list(log.impressions("e", window_s=10.0))) == 1  # opens again


@pytest.mark.parametrize("window_s", [0.0, -5, math.nan, math.inf, "1", None])
def test_a_window_without_time_is_refused(tmp_path: Path, window_s: float):
    log = FeedbackLog(tmp_path / "log.sqlite")
    with pytest.raises(InputError, match="window_s"):
        LiveExperiment("e", {"a": 1, "b": 1}, control="a", log=log, window_s=window_s)
    with pytest.raises(InputError, match="window_s"):
        log.rewards("e", "click", window_s=window_s)
    with pytest.raises(InputError, match="window_s"):
        interleaving_result(log, "e", "a", "b", window_s=window_s)


def test_what_a_log_cannot_hold_is_refused(tmp_path: Path):
    test = LiveExperiment("e", {"a": 1, "b": 1}, control="a", log=tmp_path / "log.sqlite")
    number = test.shown("u\ud800", ids=["\ud800"])  # the unit is hashed, ids are escaped
    assert next(test.log.impressions("e", window_s=1, now=LATER * 9)).shown == ("\ud800",)
    for options in (
        {"at": math.nan},
        {"at": "now"},
        {"ids": [5]},
        {"ids": [b"p"]},
        {"ids": "abc"},
        {"query": "\ud800"},
    ):
        with pytest.raises(InputError):
            test.shown("u", **options)
    for position, at in (("0", None), (0.5, None), (0, math.nan)):
        with pytest.raises(InputError):
            test.log.click(number, position, at=at)
    for kind, value in (("x", "y"), (None, 1.0), ("\ud800", 1.0)):
        with pytest.raises(InputError):
            test.log.measure(number, kind, value)
    for call in (test.assign, test.shown):
        with pytest.raises(InputError, match="strings, got 5"):
            call(5)
    with pytest.raises(InputError, match="finite"):
        test.analyse(now=math.nan)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Metric("x", high=math.inf),
        lambda: Metric("x", low=1.0),
        lambda: Metric("x", high="1"),
        lambda: Metric("x", missing=math.nan),
        lambda: Guardrail(CLICK, math.nan),
    ],
)
def test_a_metric_has_finite_bounds(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("options", [{"margin": math.nan}, {"margin": -1}, {"margin": "1"}, {"alpha": 0}, {"alpha": 1}])
def test_wrong_experiments(tmp_path: Path, options: dict[str, float]):
    with pytest.raises(InputError, match=next(iter(options))):
        LiveExperiment("e", {"a": 1, "b": 1}, control="a", log=tmp_path / "log.sqlite", **options)


def write_some(path: Path, unit: str) -> None:
    log = FeedbackLog(path)
    for number in range(100):
        log.click(log.shown("e", f"{unit}-{number}", "a", at=float(number)), 0, at=float(number))
    log.close()


@pytest.mark.slow
def test_processes_share_a_log(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write_some, args=(tmp_path / "log.sqlite", unit)) for unit in "xyz"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    rewards = FeedbackLog(tmp_path / "log.sqlite").rewards("e", "click", window_s=1.0)
    assert (len(rewards), sum(reward.value or 0.0 for reward in rewards)) == (300, 300.0)


def test_unusable_logs_are_named(tmp_path: Path):
    (tmp_path / "text").write_text("no database at all, but long enough to be read as one\n" * 50)
    with pytest.raises(StoreError, match="text"):
        FeedbackLog(tmp_path / "text")
    with sqlite3.connect(tmp_path / "new") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        FeedbackLog(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used"):
        FeedbackLog(tmp_path / "file" / "log.sqlite")


# -- whole experiments -----------------------------------------------------------------------------------------------


def run(test: LiveExperiment, rates: dict[str, float], users: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for number in range(users):
        unit = f"user{number}"
        impression = test.shown(unit, ids=["p", "q"], at=float(number))
        if rng.random() < rates[test.assign(unit)]:
            test.log.click(impression, 0, at=number + 1.0)
        test.log.measure(impression, "latency_s", 3.0 if test.assign(unit) == "slow" else 0.1, at=float(number))


def test_a_better_arm_is_called_better_and_users_stay_unknown(tmp_path: Path):
    test = LiveExperiment("e", {"none": 1, "new": 1}, control="none", log=tmp_path / "log.sqlite", salt="s")
    assert test.analyse().reason.startswith("Go on")
    run(test, {"none": 0.2, "new": 0.5}, 600)
    report = test.analyse(now=LATER)
    assert report.words == {"new": "better"}
    assert report.stop
    low, high = report.differences["new"].interval
    assert 0 < low < 0.3 < high
    assert report.arms["none"].interval[0] < 0.2 < report.arms["none"].interval[1]
    assert report.sample_ratio_p == 1.0
    test.log.close()
    assert b"user1" not in (tmp_path / "log.sqlite").read_bytes()


def test_guardrails_and_broken_splits_stop_the_test(tmp_path: Path):
    latency = Metric("latency_s", high=5.0, missing=None, higher_is_better=False)
    test = LiveExperiment(
        "e", {"none": 1, "slow": 1}, control="none", log=tmp_path / "log.sqlite", guardrails=[Guardrail(latency, 1.0)]
    )
    run(test, {"none": 0.3, "slow": 0.3}, 120)
    report = test.analyse(now=LATER)
    assert report.stop
    assert report.breaches == ("latency_s of slow is 3, beyond 1",)
    for number in range(200):  # a fault: a second service logs every user into one arm
        test.log.shown("e", f"stray{number}", "slow", at=0.0)
    assert "not split as planned" in test.analyse(now=LATER).reason


def test_equivalence_and_a_metric_where_less_is_better(tmp_path: Path):
    latency = Metric("latency_s", high=5.0, missing=None, higher_is_better=False)
    with FeedbackLog(tmp_path / "log.sqlite") as log:
        slow = LiveExperiment("e", {"none": 1, "slow": 1}, control="none", log=log, metric=latency)
        run(slow, {"none": 0.0, "slow": 0.0}, 120)
        assert slow.analyse(now=LATER).words == {"slow": "worse"}
        same = LiveExperiment("f", {"none": 1, "new": 1}, control="none", log=log, metric=CLICK, margin=0.4)
        run(same, {"none": 0.3, "new": 0.3}, 300)
        report = same.analyse(now=LATER)
        assert report.words == {"new": "equivalent"}
        assert report.stop
    with pytest.raises(InputError, match="control"):
        LiveExperiment("e", {"a": 1, "b": 1}, control="c", log=log)


def test_interleaved_clicks_decide(tmp_path: Path):
    rng, log = np.random.default_rng(0), FeedbackLog(tmp_path / "log.sqlite")
    rankings = {"good": ["3", "4", "0", "1"], "bad": ["0", "1", "2", "3"]}
    for number in range(150):
        mixed = team_draft(rankings, k=4, seed=number)
        arms = [arm for (arm,) in mixed.credit]
        impression = log.shown("mix", f"u{number}", "mixed", ids=mixed.ids, credit=arms, at=float(number))
        for position, name in enumerate(mixed.ids):
            if rng.random() < (0.7 if name in "34" else 0.1):
                log.click(impression, position, at=float(number))
        log.shown("mix", f"u{number}", "mixed", ids=mixed.ids, credit=arms, at=number + 0.5)  # a reload adds nothing
    seen = interleaving_result(log, "mix", "good", "bad", now=LATER)
    assert seen.n == 150
    assert seen.decided
    assert seen.interval[0] > 0
    for arm, baseline in (("Good", "bad"), ("good", "Bad")):
        with pytest.raises(InputError, match=r"\['(Good|Bad)'\]; its arms are \['bad', 'good'\]"):
            interleaving_result(log, "mix", arm, baseline, now=LATER)
    assert interleaving_result(log, "not begun", "good", "bad", now=LATER).n == 0
