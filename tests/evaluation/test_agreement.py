from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, confusion_matrix

from rerankit.errors import InputError
from rerankit.evaluation.agreement import Figure, agreement, compare_labels

grades = st.integers(0, 2)
judged = st.lists(st.lists(st.tuples(grades, grades), min_size=1, max_size=8), min_size=1, max_size=6)


def qrels(queries, side):
    return {f"q{i}": {f"p{j}": pair[side] for j, pair in enumerate(pairs)} for i, pairs in enumerate(queries)}


def drawn(seed, queries, spread=0.0, each=10):
    """Grades of two judges that agree on most pairs; with ``spread`` some queries are harder than others."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(queries):
        wrong = np.clip(0.3 + spread * rng.standard_normal(), 0, 1)
        first = rng.integers(0, 3, each)
        second = np.where(rng.random(each) < wrong, rng.integers(0, 3, each), first)
        result.append([(int(a), int(b)) for a, b in zip(first, second, strict=True)])
    return result


@given(judged)
def test_figures_are_those_of_scikit_learn(queries):
    first, second = zip(*[pair for pairs in queries for pair in pairs], strict=True)
    found = agreement(qrels(queries, 0), qrels(queries, 1))
    assert found.confusion == tuple(map(tuple, confusion_matrix(first, second, labels=[0, 1, 2]).tolist()))
    assert (found.pairs, found.queries) == (len(first), len(queries))
    assert found.figures["accuracy"].value == pytest.approx(accuracy_score(first, second))
    constant = len({*first, *second}) == 1
    for name, weights in (("kappa", None), ("kappa_linear", "linear"), ("kappa_quadratic", "quadratic")):
        if constant:
            assert found.figures[name] == Figure(None)
        else:
            right = cohen_kappa_score(first, second, labels=[0, 1, 2], weights=weights)
            assert found.figures[name].value == pytest.approx(right)


@given(judged)
def test_the_sides_can_be_exchanged(queries):
    one, two = qrels(queries, 0), qrels(queries, 1)
    for name, figure in agreement(one, two).figures.items():
        assert agreement(two, one).figures[name].value == pytest.approx(figure.value)


def test_the_interval_is_that_of_resampled_queries():
    queries = drawn(0, 25, spread=0.3)
    first, second = qrels(queries, 0), qrels(queries, 1)
    figure = agreement(first, second).figures["kappa_quadratic"]
    rng, values = np.random.default_rng(5), []
    for _ in range(500):
        pairs = [pair for i in rng.integers(0, 25, 25) for pair in queries[i]]
        values.append(cohen_kappa_score(*zip(*pairs, strict=True), weights="quadratic"))
    assert (figure.low, figure.high) == pytest.approx(np.quantile(values, (0.025, 0.975)), abs=0.025)
    assert agreement(first, second) == agreement(first, second)


def test_copies_of_pairs_within_a_query_are_no_new_evidence():
    queries = drawn(1, 20)
    once = agreement(qrels(queries, 0), qrels(queries, 1))
    copies = [pairs * 10 for pairs in queries]
    tenfold = agreement(qrels(copies, 0), qrels(copies, 1))
    for name, figure in once.figures.items():
        assert (tenfold.figures[name].low, tenfold.figures[name].high) == pytest.approx((figure.low, figure.high))


def test_no_interval_without_enough_to_resample():
    assert agreement({"q": {"a": 1, "b": 0}}, {"q": {"a": 1, "b": 0}}).figures["kappa"] == Figure(1.0)
    rare = {f"q{i}": {"a": int(i == 0), "b": 0} for i in range(3)}
    assert agreement(rare, rare).figures["kappa"] == Figure(1.0)  # many resamples hold one grade only
    assert agreement(rare, rare).figures["accuracy"] == Figure(1.0, 1.0, 1.0)


def test_only_pairs_that_both_judged_count():
    human = {"q": {"a": 2, "b": 0, "only": 1}, "alone": {"a": 1}}
    found = agreement(human, {"q": {"a": 2, "b": 1, "c": 2}, "other": {"a": 0}})
    assert (found.pairs, found.queries) == (2, 1)
    with pytest.raises(InputError, match="judged by both"):
        agreement(human, {"other": {"a": 0}})
    with pytest.raises(InputError, match="between 0 and 2"):
        agreement({"q": {"a": 3}}, {"q": {"a": 1}})


LABELS = {"q": {"a": 2, "b": 1, "c": 0, "d": 2}, "r": {"a": 0, "b": 2}}


class TestComparison:
    def test_four_grades_of_people(self):
        human = {"q": {"a": 3, "b": 1, "c": -1, "d": 0, "unlabelled": 3}, "r": {"a": 0, "b": 2}}
        found = compare_labels(human, LABELS)
        assert found.graded.confusion == ((2, 0, 1), (0, 1, 0), (0, 0, 2))
        assert found.binary.confusion == ((3, 1), (0, 2))
        assert (found.human_from, found.labels_from) == (2, 2)
        assert "kappa_linear" not in found.binary.figures

    def test_yes_and_no_of_people(self):
        human = {"q": {"a": 1, "b": 1, "c": 0}, "r": {"a": 0, "b": 1}}
        found = compare_labels(human, LABELS)
        assert found.graded is None
        assert found.binary.confusion == ((2, 0), (1, 2))
        assert compare_labels(human, LABELS, labels_from=1).binary.confusion == ((2, 0), (0, 3))
        with pytest.raises(InputError, match="labels_from"):
            compare_labels(human, LABELS, labels_from=3)

    def test_runs_by_both_and_the_order_of_runs(self):
        human = {"q": {"a": 2, "b": 0, "c": 0, "unlabelled": 2}, "r": {"a": -1, "b": 2}}
        runs = {
            "good": {"q": ["unlabelled", "a", "b", "c"], "r": ["b", "a"]},
            "bad": {"q": ["c", "b", "a", "unjudged"], "r": ["a", "b"]},
        }
        found = compare_labels(human, LABELS, runs)
        assert found.ndcg["good"] == pytest.approx((1.0, 1.0))  # what only one of them judged is left out
        log = np.log2
        by_people = (1 / log(4) + 1 / log(3)) / 2
        by_labels = ((1 / log(3) + 2 / log(4)) / (2 + 1 / log(3)) + 1 / log(3)) / 2
        assert found.ndcg["bad"] == pytest.approx((by_people, by_labels))
        assert found.tau == pytest.approx(1.0)
        assert compare_labels(human, LABELS, {"good": runs["good"]}).tau is None
        assert compare_labels(human, LABELS, dict.fromkeys("ab", runs["good"])).tau is None
