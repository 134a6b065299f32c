from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rerankit.errors import InputError
from rerankit.evaluation.simulation import SHAPES, Shape
from rerankit.evaluation.statistics import (
    detectable_difference,
    effect_size,
    holm,
    mean_interval,
    power,
    queries_needed,
    sign_flip_p,
    verdict,
    verdicts,
)

REALISTIC = ("even", "skewed", "rare")


def simulated(effect: float, *, experiments: int = 2000, seed: int = 0):
    """Intervals' hits and rejections over experiments of 30 to 200 queries of all realistic shapes."""
    rng = np.random.default_rng(seed)
    sizes = [30, 60, 100, 200]
    share = -(-experiments // (len(sizes) * len(REALISTIC)))
    covered, rejected, flipped = [], [], []
    for queries in sizes:
        for name in REALISTIC:
            mean = effect * SHAPES[name].spread()
            values = SHAPES[name].draw(rng, share, queries, mean)
            low, high = mean_interval(values, resamples=999, seed=rng).T
            covered.append((low <= mean) & (mean <= high))
            rejected.append((low > 0) | (high < 0))
            flipped.append(sign_flip_p(values, resamples=999, seed=rng) <= 0.05)
    return (float(np.concatenate(part).mean()) for part in (covered, rejected, flipped))


def test_a_a_experiments_keep_the_level():
    covered, rejected, flipped = simulated(0.0)
    assert 0.93 <= covered <= 0.97
    assert 0.03 <= rejected <= 0.07
    assert 0.03 <= flipped <= 0.07


def test_a_b_experiments_keep_the_coverage_and_find_the_difference():
    covered, rejected, flipped = simulated(0.3, seed=1)
    assert 0.93 <= covered <= 0.97
    assert rejected > 0.6
    assert flipped > 0.6


@pytest.mark.parametrize("shape", ["even", "skewed"])
@pytest.mark.parametrize("queries", [30, 50, 100, 200])
def test_each_size_keeps_the_level_on_its_own(shape: str, queries: int):
    values = SHAPES[shape].draw(np.random.default_rng(3), 2000, queries)
    low, high = mean_interval(values, resamples=999, seed=4).T
    assert 0.93 <= ((low <= 0) & (high >= 0)).mean() <= 0.97


def test_too_few_moved_queries_make_no_false_claims():
    values = Shape(zeros=0.95, gain=(1.0, 4.0), loss=(1.0, 4.0)).draw(np.random.default_rng(0), 400, 60)
    words = [verdict(row, margin=0.001, resamples=199).word for row in values]
    assert words.count("better") + words.count("worse") <= 0.05 * 400
    few = verdict([0.0] * 30 + [0.0001], margin=0.01)
    assert few.word == "undecided"


def test_simulated_differences_have_the_mean_and_spread_they_claim():
    for shape in SHAPES.values():
        values = shape.draw(np.random.default_rng(0), 1000, 200, 0.02)
        assert values.mean() == pytest.approx(0.02, abs=5 * shape.spread(0.02) / math.sqrt(values.size))
        assert values.std() == pytest.approx(shape.spread(0.02), rel=0.02)
    with pytest.raises(InputError, match="No mixture"):
        SHAPES["rare"].draw(np.random.default_rng(0), 1, 2, 0.9)


def test_the_permutation_test_agrees_with_scipy():
    values = SHAPES["skewed"].draw(np.random.default_rng(2), 1, 40, 0.04)[0]
    theirs = stats.permutation_test(
        (values,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        rng=0,
    ).pvalue
    assert float(sign_flip_p(values, resamples=9999)) == pytest.approx(theirs, abs=0.01)


def test_the_interval_is_close_to_students_t_on_well_behaved_data():
    values = np.random.default_rng(0).normal(0.1, 1.0, 400)
    theirs = stats.t.interval(0.95, 399, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(mean_interval(values), theirs, atol=0.01)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=40),
    st.floats(0.1, 10).map(lambda x: round(x, 2)),
)
def test_laws_of_the_interval_and_the_test(values: list[float], scale: float):
    plain, mirrored = np.array(values), -np.array(values)
    low, high = mean_interval(plain, resamples=199)
    assert low <= plain.mean() + 1e-12
    assert high >= plain.mean() - 1e-12
    np.testing.assert_allclose(mean_interval(mirrored, resamples=199), [-high, -low], atol=1e-9)
    np.testing.assert_allclose(mean_interval(plain * scale, resamples=199), [low * scale, high * scale], atol=1e-9)
    p = sign_flip_p(plain, resamples=199)
    assert 1 / 200 <= p <= 1
    assert sign_flip_p(mirrored, resamples=199) == p


def test_memory_is_bounded_and_the_answer_the_same_whatever_the_chunks():
    values = np.random.default_rng(1).normal(0.01, 0.2, 20_000)  # 100 resamples at a time
    low, high = mean_interval(values, resamples=999)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 19_999, values.mean(), stats.sem(values)), abs=4e-4)


def test_holm():
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_plain_and_the_bonferroni_p(values: list[float]):
    adjusted = holm(values)
    assert all(p <= q <= min(1.0, p * len(values)) + 1e-12 for p, q in zip(values, adjusted, strict=True))
    order = np.argsort(values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_the_family_of_arms_keeps_its_level():
    rng, wrong = np.random.default_rng(5), 0
    for _ in range(150):
        arms = {str(arm): values for arm, values in enumerate(SHAPES["even"].draw(rng, 5, 60))}
        wrong += any(item.word in ("better", "worse") for item in verdicts(arms, resamples=199).values())
    assert wrong / 150 < 0.11  # 0.23 without the correction


def test_effect_size():
    assert effect_size([0.0, 0.0, 0.0]) == 0.0
    assert effect_size([-0.2, -0.2]) == -math.inf
    values = np.random.default_rng(0).normal(0.5, 1.0, (4000, 8))
    assert np.mean([effect_size(row) for row in values]) == pytest.approx(0.5, abs=0.03)


def test_power_planning_agrees_with_simulation():
    spread = SHAPES["even"].spread()
    difference = detectable_difference(spread, 80)
    values = SHAPES["even"].draw(np.random.default_rng(0), 2000, 80, difference)
    low, high = mean_interval(values, resamples=499).T
    found = ((low > 0) | (high < 0)).mean()
    assert found == pytest.approx(0.8, abs=0.04)
    assert power(difference, spread, 80) == pytest.approx(0.8, abs=0.01)
    assert queries_needed(difference, spread) == 80
    assert power(0.0, spread, 80) == pytest.approx(0.05)


def test_power_planning_at_the_edges():
    assert queries_needed(0.0, 0.2) is None
    assert queries_needed(1e-9, 0.2) is None
    assert queries_needed(0.1, 0.0) == 2
    assert power(0.1, 0.0, 10) == 1.0
    assert power(5.0, 0.1, 100) == pytest.approx(1.0)
    for wrong in ({"spread": -1.0, "queries": 10}, {"spread": 1.0, "queries": 1}, {"spread": math.nan, "queries": 5}):
        with pytest.raises(InputError):
            detectable_difference(**wrong)
    with pytest.raises(InputError, match="chance"):
        detectable_difference(1.0, 10, chance=1.0)
    with pytest.raises(InputError, match="alpha"):
        power(0.1, 1.0, 10, alpha=0.0)


@pytest.mark.parametrize(
    ("mean", "spread", "n", "margin", "word"),
    [
        (0.10, 0.1, 60, 0.01, "better"),
        (-0.10, 0.1, 60, 0.01, "worse"),
        (0.002, 0.01, 100, 0.01, "equivalent"),
        (0.01, 0.3, 40, 0.01, "undecided"),
        (0.10, 0.01, 9, 0.0, "undecided"),
    ],
)
def test_the_word_follows_from_the_interval(mean: float, spread: float, n: int, margin: float, word: str):
    values = np.random.default_rng(0).normal(0.0, spread, n)
    item = verdict(values - values.mean() + mean, margin=margin, metric="nDCG@10")
    assert item.word == word
    assert item.difference == pytest.approx(mean)
    assert item.interval[0] < mean < item.interval[1]
    assert item.sentence.startswith(word.capitalize())
    assert "nDCG@10" in item.sentence
    assert f"{n} queries" in item.sentence


def test_an_undecided_verdict_says_what_would_decide():
    values = np.random.default_rng(0).normal(0.0, 0.2, 50)
    item = verdict(values - values.mean() + 0.01, margin=0.02)
    assert item.queries_needed == queries_needed(0.02, float(values.std(ddof=1)))
    assert f"{item.queries_needed:,}" in item.sentence
    assert f"{item.mde:.4f}" in item.sentence


def test_the_sentence_gives_the_confidence_as_it_is():
    values = np.random.default_rng(0).normal(0.1, 0.1, 40)
    for confidence, shown in [(0.95, "95"), (0.9, "90"), (0.999, "99.9"), (0.9998, "99.98")]:
        sentence = verdict(values, confidence=confidence, resamples=5001).sentence
        assert f"({shown}% interval" in sentence or f" {shown}% interval" in sentence
    with pytest.raises(InputError, match="resamples=1000000"):
        verdict(values, confidence=0.999999)


def test_degenerate_comparisons_are_decided_soberly():
    same = verdict([0.0] * 40)
    assert (same.word, same.p, same.interval, same.moved) == ("equivalent", 1.0, (0.0, 0.0), 0)
    assert "same on every query" in same.sentence
    assert verdict([0.0] * 3).word == "undecided"
    few = verdict([0.0] * 30 + [0.5] * 5)
    assert few.word == "undecided"
    assert "Only 5 queries moved" in few.sentence
    constant = verdict([0.1] * 20)
    assert constant.word == "better"
    assert json.loads(json.dumps(constant.to_dict()))["effect_size"] is None


def test_a_claim_must_survive_the_correction():
    rng = np.random.default_rng(1)
    noise = rng.normal(0.0, 0.2, 60)
    barely = noise - noise.mean() + 2.15 * noise.std(ddof=1) / math.sqrt(60)
    alone = verdicts({"a": barely})["a"]
    assert (alone.word, alone.p_adjusted) == ("better", alone.p)
    crowd = verdicts({"a": barely, **{str(arm): rng.normal(0.0, 0.2, 60) for arm in range(6)}})["a"]
    assert crowd.word == "undecided"
    assert crowd.interval == alone.interval
    assert crowd.p_adjusted > 0.05 >= crowd.p
    assert "after correction" in crowd.sentence


def test_no_claim_is_exempt_from_the_correction():
    strong = [-0.03, 0.24, 0.18, -0.12, 0.2, 0.1, 0.21, 0.27, 0.13, *[0.0] * 16]
    weak = [-0.01, 0.08, 0.27, 0.13, 0.15, 0.11, *[0.0] * 6]  # its interval leaves zero out, though p > 0.05
    alone = verdicts({"weak": weak})["weak"]
    assert (alone.word, alone.p > 0.05) == ("better", True)
    found = verdicts({"strong": strong, "weak": weak})
    assert found["strong"].p < 0.05 < found["strong"].p_adjusted < found["weak"].p == found["weak"].p_adjusted
    assert {item.word for item in found.values()} == {"undecided"}


def test_verdicts_are_reproducible_and_change_nothing():
    values = np.random.default_rng(0).normal(0.0, 1.0, 30)
    before = values.copy()
    assert verdict(values, seed=7) == verdict(values, seed=7)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("values", "options"),
    [([0.1], {}), ([], {}), ([0.1, math.nan], {}), ([[0.1, 0.2]] * 2, {}), ([0.1, 0.2], {"margin": -1.0}),
     ([0.1, 0.2], {"confidence": 1.0}), ([0.1, 0.2], {"resamples": 10}), ([0.1, 0.2], {"confidence": 0.999999})],
)  # fmt: skip
def test_bad_input(values: list[float], options: dict[str, float]):
    with pytest.raises(InputError):
        verdict(values, **options)


def test_scipy_is_not_imported_before_it_is_needed():
    code = "import sys, rerankit.evaluation.statistics, rerankit.evaluation.live; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
