from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from families import WordOverlap
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

import rerankit
from rerankit.errors import InputError, MissingExtraError, ModelError, StoreError
from rerankit.rerankers.calibration import Calibrator
from rerankit.rerankers.calibration_fit import Sigmoid, Steps, precision_curve, quality
from rerankit.rerankers.compose import Fusion

METHODS = ["platt", "temperature", "isotonic"]


def simulated(count=4000, seed=0, slope=0.8, intercept=-1.0):
    """Scores whose true probability of relevance is known."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, count)
    truth = 1 / (1 + np.exp(-(slope * scores + intercept)))
    return scores, (rng.random(count) < truth).astype(int), truth


@pytest.fixture(scope="module")
def fitted():
    scores, labels, _ = simulated()
    return {
        method: Calibrator.fit(scores, labels, method=method, fingerprint="toy@1") for method in ("platt", "isotonic")
    }


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_probabilities_of_simulated_scores_are_true(fitted, method):
    scores, labels, truth = simulated(seed=1)
    found = fitted[method].probabilities(scores)
    assert np.abs(found - truth).mean() < 0.02
    assert quality(found, labels.astype(bool)).ece < 0.03
    assert fitted[method].cross_validated.ece < 0.03
    uncalibrated = quality(1 / (1 + np.exp(-scores)), labels.astype(bool))
    assert uncalibrated.ece > 0.1
    assert fitted[method].cross_validated.log_loss < uncalibrated.log_loss


def test_temperature_recovers_an_overconfident_model():
    scores, labels, truth = simulated(slope=0.25, intercept=0.0)
    calibrator = Calibrator.fit(scores, labels, method="temperature", fingerprint="toy@1")
    assert calibrator.map.slope == pytest.approx(0.25, rel=0.1)
    assert calibrator.map.intercept == 0
    assert calibrator.probabilities([0.0])[0] == 0.5
    assert np.abs(calibrator.probabilities(scores) - truth).mean() < 0.02


def test_platt_equals_the_sigmoid_of_scikit_learn():
    scores, labels, _ = simulated(200)

    class Raw(LogisticRegression):
        def decision_function(self, x):
            return x[:, 0]

    raw = Raw().fit(scores[:, None], labels)
    peer = CalibratedClassifierCV(FrozenEstimator(raw), method="sigmoid", ensemble=False).fit(scores[:, None], labels)
    ours = Calibrator.fit(scores, labels, fingerprint="x")
    grid = np.linspace(-9, 9, 50)
    assert ours.probabilities(grid) == pytest.approx(peer.predict_proba(grid[:, None])[:, 1], abs=1e-4)


def test_temperature_equals_logistic_regression_through_the_origin():
    scores, labels, _ = simulated(3000, slope=0.5, intercept=0.0)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(scores[:, None], labels)
    ours = Calibrator.fit(scores, labels, method="temperature", fingerprint="x")
    assert ours.map.slope == pytest.approx(peer.coef_[0, 0], rel=3e-3)


def test_isotonic_equals_scikit_learn():
    scores, labels, _ = simulated(500)
    peer = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    ours = Calibrator.fit(scores, labels, method="isotonic", fingerprint="x")
    grid = np.linspace(-20, 20, 401)
    assert ours.probabilities(grid) == pytest.approx(peer.predict(grid))


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1), st.floats(1e-6, 1e6), st.floats(-1e6, 1e6))
def test_a_sigmoid_never_reorders(scores, slope, intercept):
    found = Sigmoid(slope, intercept)(np.sort(scores))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= -1e-12).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_steps_never_reorder(scores):
    found = Steps((-2.0, 0.0, 0.5, 10.0), (0.0, 0.0, 0.7, 1.0))(np.sort(scores))
    assert (np.diff(found) >= -1e-12).all()


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.floats(-1e150, 1e150), st.integers(0, 2)), min_size=2, max_size=40),
    st.sampled_from(METHODS),
)
def test_any_data_is_either_fitted_or_refused(rows, method):
    scores, labels = [score for score, _ in rows], [label for _, label in rows]
    try:
        calibrator = Calibrator.fit(scores, labels, method=method, fingerprint="x")
    except InputError:
        return
    found = calibrator.probabilities(np.sort(scores))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= -1e-12).all()


@pytest.mark.parametrize("method", METHODS)
def test_separable_scores_stay_finite(method):
    calibrator = Calibrator.fit([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1], method=method, fingerprint="x")
    low, high = calibrator.probabilities([-2.0, 2.0])
    assert 0 <= low < 0.5 < high <= 1
    assert np.isfinite(calibrator.in_sample.log_loss)


@pytest.mark.parametrize(
    ("scores", "labels", "options", "message"),
    [
        ([1, 2, np.nan], [0, 1, 1], {}, "score at position 2 is nan"),
        ([1, 2, np.inf], [0, 1, 1], {}, "score at position 2 is inf"),
        ([1, 2, 3], [0, np.nan, 1], {}, "label at position 1"),
        ([1, 2, 3], [1, 1, 1], {}, "All 3 labels are relevant"),
        ([1, 2, 3], [0, 0, 0], {}, "All 3 labels are not relevant"),
        ([1, 2, 3], [0, 1, 1], {"relevant_from": 2}, "not relevant"),
        ([], [], {}, "All 0 labels"),
        ([1, 2, 3], [0, 1], {}, "equal length"),
        ([[1, 2]], [[0, 1]], {}, "two lists"),
        (["a", "b"], [0, 1], {}, "must be numbers"),
        ([5, 5, 5], [0, 1, 1], {}, "All 3 scores are 5"),
        ([3, 2, 1], [0, 0, 1], {}, "do not rise with relevance"),
        ([3, 2, 1], [0, 0, 1], {"method": "isotonic"}, "do not rise with relevance"),
        ([1, 2, 3], [0, 1, 1], {"method": "beta"}, "method"),
        ([1, 2, 3], [0, 1, 1], {"groups": ["a"]}, "1 groups for 3 scores"),
        ([1, 2, 3], [0, 1, 1], {"reranker": WordOverlap()}, "either reranker"),
        ([1, 2, 3], [0, 1, 1], {"fingerprint": ""}, "either reranker"),
    ],
)
def test_data_without_meaning_is_refused(scores, labels, options, message):
    with pytest.raises(InputError, match=message):
        Calibrator.fit(scores, labels, **{"fingerprint": "x", **options})


def test_grades_count_from_the_one_given():
    scores, grades = [0.0, 1.0, 2.0, 3.0, 1.5], [0, 1, 2, 2, 1]
    assert Calibrator.fit(scores, grades, fingerprint="x").positives == 4
    assert Calibrator.fit(scores, grades, fingerprint="x", relevant_from=2).positives == 2


def test_quality_by_hand():
    found = quality(np.array([0.9, 0.9, 0.1, 0.15]), np.array([True, False, False, False]))
    assert found.brier == pytest.approx((0.01 + 0.81 + 0.01 + 0.0225) / 4)
    assert found.ece == pytest.approx((0.8 + 0.25) / 4)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.1, 0.9, 0.85]).mean())


def test_cross_validation_keeps_queries_together_and_is_left_out_where_data_are_few():
    rng = np.random.default_rng(0)
    queries = np.repeat(np.arange(40), 10)
    level = rng.normal(0, 5, 40)[queries]  # passages of a query share a level that says nothing of other queries
    scores = level + rng.normal(0, 0.1, 400)
    labels = (rng.random(40) < 1 / (1 + np.exp(-level[::10])))[queries].astype(int)
    split = Calibrator.fit(scores, labels, method="isotonic", fingerprint="x", groups=queries.tolist())
    mixed = Calibrator.fit(scores, labels, method="isotonic", fingerprint="x")
    assert split.cross_validated.log_loss > mixed.cross_validated.log_loss
    assert Calibrator.fit([0.0, 1.0], [0, 1], fingerprint="x").cross_validated is None
    assert Calibrator.fit([0.0, 1.0], [0, 1], fingerprint="x", groups=["a", "a"]).cross_validated is None


def precision_at(calibrator, scores, labels, threshold):
    kept = calibrator.probabilities(scores) >= threshold
    return labels[kept].mean()


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 0.9])
def test_a_threshold_is_the_smallest_that_reaches_its_precision(fitted, target):
    scores, labels, _ = simulated()
    calibrator = fitted["platt"]
    threshold = calibrator.threshold(precision=target)
    assert precision_at(calibrator, scores, labels, threshold) >= target
    lower = sorted(p for p in calibrator.probabilities(scores) if p < threshold)
    assert all(precision_at(calibrator, scores, labels, p) < target for p in lower[:: max(1, len(lower) // 200)])
    assert threshold == calibrator.threshold(error=1 - target)
    assert len(calibrator.curve) <= 201


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30))
def test_the_curve_is_exact_for_every_step_of_precision(rows):
    probabilities, targets = np.array([p for p, _ in rows]), np.array([t for _, t in rows])
    if not targets.any():
        return
    curve = precision_curve(probabilities, targets)
    reached = {p: targets[probabilities >= p].mean() for p in sorted(set(probabilities))}
    for target in np.arange(1, 201) / 200:
        brute = next((p for p, precision in reached.items() if precision >= target - 1e-12), None)
        ours = next((point.threshold for point in curve if point.precision >= target - 1e-12), None)
        assert ours == brute


def test_an_unreachable_or_senseless_target_is_refused():
    calibrator = Calibrator.fit([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0, 0, 1, 0, 1, 0], fingerprint="x")
    with pytest.raises(InputError, match=r"No threshold reached precision 0\.990.*the best is"):
        calibrator.threshold(precision=0.99)
    for wrong in ({}, {"precision": 0.5, "error": 0.5}, {"precision": 0.0}, {"precision": 1.1}, {"error": 1.0}):
        with pytest.raises(InputError):
            calibrator.threshold(**wrong)


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_it_is_the_same(tmp_path, method):
    scores, labels, _ = simulated(300)
    calibrator = Calibrator.fit(scores, labels, method=method, fingerprint="toy@1")
    path = tmp_path / "new" / "calibrator.json"
    calibrator.save(path)
    again = Calibrator.load(path)
    assert again == calibrator
    assert (again.probabilities(scores) == calibrator.probabilities(scores)).all()
    assert [item.name for item in path.parent.iterdir()] == ["calibrator.json"]


def test_a_file_that_cannot_be_written_or_read_is_named(tmp_path, fitted):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        fitted["platt"].save(tmp_path / "file" / "calibrator.json")
    with pytest.raises(ModelError, match="nowhere"):
        Calibrator.load(tmp_path / "nowhere.json")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, fitted):
    path = tmp_path / "calibrator.json"
    fitted["platt"].save(path)
    (tmp_path / ".calibrator.json.partial").mkdir()  # what is written first finds its place taken
    with pytest.raises(StoreError, match=r"calibrator\.json"):
        fitted["isotonic"].save(path)
    assert Calibrator.load(path) == fitted["platt"]


@pytest.mark.parametrize("option", [{"long_passages": "top2-mean"}, {"max_windows": 3}])
def test_what_becomes_of_long_passages_is_part_of_what_scores_depend_on(option):
    fitted = Calibrator.fit([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1], reranker=WordOverlap())
    assert WordOverlap(calibrator=fitted).rank("wheat", ["wheat"])[0].probability is not None
    other = WordOverlap(calibrator=fitted, **option)
    assert other.fingerprint == WordOverlap().fingerprint  # a window scores the same
    with pytest.raises(ModelError, match="fitted for"):
        other.rank("wheat", ["wheat"])
    plain, changed = WordOverlap(), WordOverlap(**option)
    for whole in (lambda one: one | plain, lambda one: plain | one, lambda one: Fusion([one, plain])):
        assert whole(changed).passage_fingerprint != whole(plain).passage_fingerprint


@pytest.mark.parametrize("spec", ["compressed", "cross-encoder"])
def test_the_shipped_calibration_holds_for_the_usual_settings_alone(spec):
    with rerankit.load(spec) as usual, rerankit.load(spec, max_windows=2) as other:
        assert usual.calibrator is not None
        assert other.calibrator is None


def replaced(data, path, value):
    *parents, last = path
    target = data
    for key in parents:
        target = target[key]
    target[last] = value
    return json.dumps(data)


DAMAGE = [
    (("format",), "other"),
    (("version",), 2),
    (("method",), "beta"),
    (("method",), ["platt"]),
    (("method",), "temperature"),
    (("method",), "isotonic"),
    (("fingerprint",), ""),
    (("fingerprint",), 7),
    (("fitted",), 0),
    (("fitted",), "many"),
    (("positives",), True),
    (("map", "slope"), -1.0),
    (("map", "slope"), float("nan")),
    (("map", "slope"), float("inf")),
    (("map", "slope"), 10**400),
    (("map", "slope"), None),
    (("map", "extra"), 1.0),
    (("map",), []),
    (("in_sample",), {}),
    (("cross_validated",), {"brier": 0.1}),
    (("curve",), []),
    (("curve",), [{"threshold": 2.0, "precision": 0.5, "recall": 1.0}]),
    (("curve",), [{"threshold": 0.5, "precision": 0.5, "recall": "x"}]),
    (("curve",), 3),
]


@pytest.mark.parametrize(("path", "value"), DAMAGE)
def test_a_damaged_file_is_refused_by_name(tmp_path, fitted, path, value):
    file = tmp_path / "calibrator.json"
    fitted["platt"].save(file)
    file.write_text(replaced(json.loads(file.read_text()), path, value))
    with pytest.raises(ModelError, match=r"calibrator\.json"):
        Calibrator.load(file)


@pytest.mark.parametrize(
    ("scores", "probabilities"),
    [([0, 1], [0.5]), ([1, 0], [0.1, 0.2]), ([0, 1], [0.5, 0.1]), ([0, 1], [0.5, 1.5]), ([0], [0.5]), ("ab", "ab")],
)
def test_damaged_steps_are_refused(tmp_path, fitted, scores, probabilities):
    file = tmp_path / "calibrator.json"
    fitted["isotonic"].save(file)
    file.write_text(replaced(json.loads(file.read_text()), ["map"], {"scores": scores, "probabilities": probabilities}))
    with pytest.raises(ModelError, match=r"calibrator\.json"):
        Calibrator.load(file)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"[" * 100_000, b"{}"])
def test_a_file_that_is_no_calibrator_is_refused(tmp_path, content):
    file = tmp_path / "calibrator.json"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=r"calibrator\.json"):
        Calibrator.load(file)


PASSAGES = ["wheat rust", "wheat", "rain", "sheep rust", "wheat wheat rust", "sun"]


def test_a_reranker_carries_its_calibrator(tmp_path):
    reranker = WordOverlap("v1")
    rankings = reranker.rank_many([("wheat rust", PASSAGES), ("sheep", PASSAGES)])
    qrels = {"wheat rust": {"0": 2, "1": 0, "4": 1}, "sheep": {"3": 1}}
    calibrator = Calibrator.fit_rankings(rankings, qrels, reranker=reranker)
    assert (calibrator.fitted, calibrator.positives) == (12, 3)
    calibrator.save(tmp_path / "c.json")
    ranking = WordOverlap("v1", calibrator=tmp_path / "c.json").rank("wheat rust", [*PASSAGES, ""])
    scored = [hit for hit in ranking if hit.status == "scored"]
    assert [hit.probability for hit in scored] == calibrator.probabilities([hit.score for hit in scored]).tolist()
    assert [hit.probability for hit in scored] == sorted((hit.probability for hit in scored), reverse=True)
    assert ranking[-1].probability is None
    assert [hit.id for hit in ranking] == [hit.id for hit in reranker.rank("wheat rust", [*PASSAGES, ""])]
    assert all(hit.probability >= 0.5 for hit in ranking.above(0.5))
    with pytest.raises(ModelError, match=r"word-overlap:v1.*word-overlap:v2.*fit again"):
        WordOverlap("v2", calibrator=calibrator).rank("wheat", PASSAGES)


def test_rankings_without_judgements_or_of_two_models_are_refused():
    rankings = WordOverlap().rank_many([("wheat rust", PASSAGES), ("sheep", PASSAGES)])
    with pytest.raises(InputError, match="1 of 2 queries have no qrels, for example 'sheep'"):
        Calibrator.fit_rankings(rankings, {"wheat rust": {"0": 1}}, fingerprint="x")
    other = WordOverlap("v2").rank("wheat rust", PASSAGES)
    with pytest.raises(InputError, match="2 models"):
        Calibrator.fit_rankings([*rankings, other], {"wheat rust": {"0": 1}, "sheep": {}}, fingerprint="x")


def test_unjudged_passages_can_be_left_out():
    rankings = WordOverlap().rank_many([("wheat rust", [*PASSAGES, ""])])
    qrels = {"wheat rust": {"0": 1, "2": 0, "6": 1}}
    assert Calibrator.fit_rankings(rankings, qrels, fingerprint="x", judged_only=True).fitted == 2
    assert Calibrator.fit_rankings(rankings, qrels, fingerprint="x").fitted == 6


def test_fitting_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"rerankit\[calibration\]"):
        Calibrator.fit([0.0, 1.0], [0, 1], fingerprint="x")


def test_a_saved_calibrator_needs_numpy_alone(tmp_path, fitted):
    for method in fitted:
        fitted[method].save(tmp_path / f"{method}.json")
    code = (
        "import sys; from rerankit.rerankers.calibration import Calibrator; "
        f"print([Calibrator.load(f'{tmp_path}/{{m}}.json').probabilities([0.0]).shape for m in ('platt', 'isotonic')], "
        "'sklearn' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(1,), (1,)] False False"
