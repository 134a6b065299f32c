from __future__ import annotations

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.evaluation.answers import abstention_quality, answer_metrics, exact_match, key_fact_recall, token_f1
from rerankit.evaluation.datasets import Question
from rerankit.evaluation.metrics import DEFAULT_METRICS, rank_biased_overlap, ranking_metrics, unified_score
from rerankit.rag.answer import Answer, Citation

TREC = {
    "nDCG@10": "ndcg_cut_10",
    "RR": "recip_rank",
    "AP": "map",
    "P@5": "P_5",
    "R@10": "recall_10",
    "Success@1": "success_1",
}


def collection(seed):
    rng = np.random.default_rng(seed)
    qrels = {
        f"q{q}": {f"p{p}": int(rng.integers(0, 4)) for p in rng.choice(60, size=12, replace=False)} for q in range(25)
    }
    orders = {f"q{q}": [f"p{p}" for p in rng.permutation(60)[:30]] for q in range(25)}
    return qrels, orders


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_equal_trec_eval(seed):
    qrels, orders = collection(seed)
    ours = ranking_metrics(orders, qrels, list(TREC))
    run = {query: {p: float(-i) for i, p in enumerate(order)} for query, order in orders.items()}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values())).evaluate(run)
    for name, trec in TREC.items():
        for query in qrels:
            assert ours[name][query] == pytest.approx(theirs[query][trec], abs=1e-6)


def test_ndcg_by_hand():
    values = ranking_metrics({"q": ["b", "a"]}, {"q": {"a": 1, "b": 0}}, ["nDCG@10"])
    assert values["nDCG@10"]["q"] == pytest.approx(1 / math.log2(3))


def test_a_judged_query_without_results_scores_zero():
    values = ranking_metrics({"q1": ["a"]}, {"q1": {"a": 1}, "q2": {"a": 1}})
    assert all(per_query["q2"] == 0.0 for name, per_query in values.items() if name != "Judged@10")
    assert set(values) == set(DEFAULT_METRICS)


@pytest.mark.parametrize("names", [("RR@10", "MRR@10"), ("NDCG@10", "nDCG@10"), ("AP", "MAP", "AP(rel=1)")])
def test_two_names_of_one_metric_have_the_same_values(names):
    qrels, orders = collection(0)
    values = ranking_metrics(orders, qrels, names)
    (alone,) = ranking_metrics(orders, qrels, names[:1]).values()
    assert list(values) == list(names)
    assert sum(alone.values()) > 0
    assert all(per_query == alone for per_query in values.values())


def test_wrong_names_and_repeated_ids_are_refused():
    with pytest.raises(InputError, match="Unknown metric 'nonsense'"):
        ranking_metrics({}, {"q": {"a": 1}}, ["nonsense"])
    with pytest.raises(InputError, match="twice"):
        ranking_metrics({"q": ["a", "a"]}, {"q": {"a": 1}})


ids = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)


@given(ids, ids)
def test_overlap_is_symmetric_and_bounded(one, two):
    value = rank_biased_overlap(one, two)
    assert value == pytest.approx(rank_biased_overlap(two, one))
    assert -1e-9 <= value <= 1 + 1e-9


@given(ids.filter(bool), st.floats(0.5, 0.98))
def test_equal_orders_overlap_fully_and_disjoint_ones_not_at_all(order, p):
    assert rank_biased_overlap(order, order, p) == pytest.approx(1.0)
    assert rank_biased_overlap(order, [name.upper() for name in order], p) == pytest.approx(0.0)


def test_a_change_at_the_top_counts_more():
    top = rank_biased_overlap("abcdef", "bacdef")
    bottom = rank_biased_overlap("abcdef", "abcdfe")
    assert top < bottom < 1


def test_overlap_of_unequal_lengths_by_hand():
    # Agreement 1 at depth 1; the missing second place is extrapolated, so the prefix overlaps fully.
    assert rank_biased_overlap("a", "ab", p=0.5) == pytest.approx(1.0)
    assert rank_biased_overlap("a", "ba", p=0.5) == pytest.approx(0.5 / 0.5 * (0.0 + 1 / 2 * 0.25) + (1 / 2) * 0.25)


def test_unified_score():
    assert unified_score(0.8, 0.5, 0.2) == pytest.approx(0.4)
    assert unified_score(0.8, 0.5, 4.0, weights=(1, 1, 0.5)) == pytest.approx(0.2)
    assert unified_score(0.8, 0.0, 0.1) == 0.0
    with pytest.raises(InputError):
        unified_score(1, 1, 1, budget_s=0)


@pytest.mark.parametrize(
    ("answer", "references", "em", "f1"),
    [
        ("The 5 cm.", ["5 cm"], 1.0, 1.0),
        ("Sow at 5 cm [1].", ["5 cm"], 0.0, 2 * 2 / 4 * 1.0 / (2 / 4 + 1.0)),
        ("no idea", ["5 cm", "five"], 0.0, 0.0),
        ("anything", [], 0.0, 0.0),
    ],
)
def test_words(answer, references, em, f1):
    assert exact_match(answer, references) == em
    assert token_f1(answer, references) == pytest.approx(f1)


def test_key_facts_are_whole_words_in_a_row():
    assert key_fact_recall("Sow at 5 cm, or 15 cm if dry.", ["5 cm", "dry", "2.5 cm"]) == pytest.approx(2 / 3)
    assert key_fact_recall("Sow at 25 cm.", ["5 cm"]) == 0.0
    with pytest.raises(InputError):
        key_fact_recall("x", [])


def answer(text="Sow at 5 cm.", cited=("good",), *, abstained=False):
    return Answer(text, tuple(Citation(name, 0, 4, i, "Sow") for i, name in enumerate(cited, 1)), abstained=abstained)


QUESTION = Question("q", "how deep?", ("5 cm deep",), ("5 cm",))


def test_an_answer_is_judged_by_words_facts_and_citations():
    grades = {"good": 2, "fair": 1, "bad": 0}
    metrics = answer_metrics(answer(cited=("good", "bad")), QUESTION, grades)
    assert metrics["key_fact_recall"] == 1.0
    assert metrics["citation_precision"] == 0.5
    assert metrics["citation_recall"] == 1.0
    assert answer_metrics(answer(cited=("fair",)), QUESTION, grades)["citation_recall"] == 0.0
    assert answer_metrics(answer(cited=()), QUESTION, grades)["citation_precision"] == 0.0


def test_silence_scores_nothing():
    metrics = answer_metrics(answer(abstained=True), QUESTION, {"good": 2})
    assert set(metrics.values()) == {0.0}


def test_abstention_is_judged_on_both_sides():
    questions = {"a": Question("a", "?"), "b": Question("b", "?"), "c": Question("c", "?", answerable=False)}
    quality = abstention_quality({"a": False, "b": True, "c": True}, questions)
    assert (quality.answered_answerable, quality.abstained_unanswerable, quality.balanced_accuracy) == (0.5, 1.0, 0.75)
    assert abstention_quality({"a": False}, questions).balanced_accuracy is None
