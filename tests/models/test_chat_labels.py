from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.models.chat_labels import named_label, read_labels
from rerankit.models.chat_messages import read_reply

AB, YES_NO = ("A", "B"), ("Yes", "No")


def reply(*positions, text="", **message):
    """A reply whose positions are dictionaries of tokens; the first of each is the generated one."""
    content = [
        {
            "token": next(iter(top)),
            "logprob": next(iter(top.values())),
            "top_logprobs": [{"token": token, "logprob": value} for token, value in top.items()],
        }
        for top in positions
    ]
    choice = {"message": {"content": text, **message}, "logprobs": {"content": content}, "finish_reason": "stop"}
    return read_reply({"choices": [choice]})


def test_spellings_of_a_label_add_up():
    tokens = ["A", " A", "\uff21", "**A", '"A', "a", "ĠA", "▁A", "A.", "(A)", "“A”", "A\n"]
    top = dict.fromkeys(tokens, math.log(0.04)) | {" B": math.log(0.3), "The": math.log(0.1)}
    scores = read_labels(reply(top), AB)
    assert scores.source == "logprobs"
    np.testing.assert_allclose(np.exp(scores.logprobs), [0.04 * len(tokens), 0.3])


def test_lower_case_counts_only_where_it_leaves_labels_apart():
    scores = read_labels(reply({"A": -2.0, "a": -1.0, "b": -3.0}), ("A", "a", "b"))
    np.testing.assert_allclose(scores.logprobs, [-2.0, -1.0, -3.0])


def test_the_first_token_of_a_long_label_stands_for_it():
    scores = read_labels(reply({" rel": -0.5, "irr": -1.0, "relevant": -3.0}), ("relevant", "irrelevant"))
    np.testing.assert_allclose(scores.logprobs, [np.logaddexp(-0.5, -3.0), -1.0])


def test_an_ambiguous_beginning_counts_for_no_label():
    scores = read_labels(reply({"Passage": -0.1, "Passage A": -3.0}), ("Passage A", "Passage B"))
    assert scores.logprobs[0] == -3.0


def test_a_missing_label_is_no_likelier_than_the_least_likely_one_listed():
    scores = read_labels(reply({"A": -0.5, "The": -1.2, "So": -4.0}), AB)
    np.testing.assert_allclose(scores.logprobs, [-0.5, -4.0])


def test_a_missing_label_is_no_likelier_than_what_is_left_over():
    scores = read_labels(reply({"A": math.log(0.99)}), AB)  # a server that lists one token
    np.testing.assert_allclose(scores.logprobs[1], math.log(0.01))
    sure = read_labels(reply({"A": 0.0}), AB)
    assert -30 < sure.logprobs[1] < -10


def test_white_space_markup_and_lead_words_before_the_label_are_passed_over():
    lead = [{"\n\n": -0.1}, {"**": -0.1}, {"Passage": -0.1, "A": -4.0}]
    scores = read_labels(reply(*lead, {" B": -0.2, " A": -1.9}, {"**": 0.0}), AB)
    np.testing.assert_allclose(scores.logprobs, [-1.9, -0.2])


def test_an_article_in_a_sentence_is_no_label():
    scores = read_labels(reply({"I": -0.1}, {" prefer": -0.1}, {" a": -0.1}, {" B": -0.2, " A": -1.9}), AB)
    np.testing.assert_allclose(scores.logprobs, [-1.9, -0.2])


def test_labels_inside_reasoning_are_passed_over():
    thought = [{"<think>": 0.0}, {"Yes": -0.1, "No": -3.0}, {"</think>": 0.0}, {"\n": 0.0}]
    scores = read_labels(reply(*thought, {"No": -0.3, "Yes": -1.4}), YES_NO)
    np.testing.assert_allclose(scores.logprobs, [-1.4, -0.3])


def test_a_reply_that_names_no_label_is_read_at_its_beginning():
    scores = read_labels(reply({"The": -0.1, "A": -3.0, "B": -4.0}, {" cow": -0.1, " A": -0.2}), AB)
    np.testing.assert_allclose(scores.logprobs, [-3.0, -4.0])
    assert scores.source == "logprobs"


def test_log_probabilities_without_a_label_leave_the_text():
    assert read_labels(reply({"I": -0.1}, {" pass": -0.1}, text="I pass"), AB).source == "none"


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        [],
        {},
        "no",
        {"content": None},
        {"content": []},
        {"content": {}},
        {"content": [None, 3]},
        {"content": [{"token": 3}]},
        {"content": [{"token": "A", "top_logprobs": None}]},
        {"content": [{"token": "A", "top_logprobs": []}]},
        {"content": [{"token": "A", "logprob": math.nan, "top_logprobs": [{"token": "A", "logprob": math.nan}]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": -math.inf}, {"token": "B"}, None]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": "-0.1"}, {"token": 1, "logprob": 0}]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": True}]}]},
        {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": -(10**400)}]}]},
        {"tokens": ["A"], "token_logprobs": [-0.1]},
    ],
)
def test_unusable_log_probabilities_leave_the_text(logprobs):
    data = {"choices": [{"message": {"content": "B"}, "logprobs": logprobs}]}
    scores = read_labels(read_reply(data), AB)
    assert (scores.source, int(scores.logprobs.argmax())) == ("text", 1)
    assert np.isfinite(scores.logprobs).all()


def test_usable_entries_are_used_among_broken_ones():
    top = [{"token": "A", "logprob": -0.5}, {"token": "B", "logprob": None}, {"token": "B", "logprob": -9999.0}]
    data = {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "top_logprobs": top}]}}]}
    np.testing.assert_allclose(read_labels(read_reply(data), AB).logprobs, [-0.5, -30])


def test_a_dictionary_of_log_probabilities_is_understood():
    entry = {"token": "A", "logprob": -0.5, "top_logprobs": {"A": -0.5, " B": -1.0}}
    data = {"choices": [{"message": {"content": "A"}, "logprobs": {"content": [entry]}}]}
    np.testing.assert_allclose(read_labels(read_reply(data), AB).logprobs, [-0.5, -1.0])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from(["A", " B"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["token", "logprob", "top_logprobs", "content", "A"]), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON, JSON)
def test_whatever_a_server_says_the_scores_are_finite(content, logprobs):
    data = {"choices": [{"message": {"content": content}, "logprobs": logprobs}]}
    scores = read_labels(read_reply(data), AB)
    assert scores.logprobs.shape == (2,)
    assert np.isfinite(scores.logprobs).all()
    assert scores.probabilities.sum() == pytest.approx(1)


@given(st.dictionaries(st.sampled_from(["A", " A", "B", "b", "x", "\n"]), st.floats(-40, 0), min_size=1))
def test_listed_labels_are_never_below_missing_ones(top):
    scores = read_labels(reply(top), AB)
    listed = [any(token.strip().upper() == label for token in top) for label in AB]
    if listed == [True, False]:
        assert scores.logprobs[0] >= scores.logprobs[1]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A", "A"),
        (" b\n", "B"),
        ("**B**", "B"),
        ("“B”", "B"),
        ("\uff22", "B"),
        ("[B]", "B"),
        ("B.", "B"),
        ("Passage B", "B"),
        ("passage b is best", None),
        ("**Passage A**", "A"),
        ('"Passage A"', "A"),
        ("The answer is A", "A"),
        ("Answer: B", "B"),
        ("The answer is: **Passage B**.", "B"),
        ("Passage A says little. Passage B says more. The answer is B.", "B"),
        ("Answer: A? No. Final answer: B", "B"),
        ("B. Passage A is about sheep.", "B"),
        ("B\nbecause A is about sheep", "B"),
        ("I choose B because it speaks of rust", "B"),
        ("A is more relevant", "A"),
        ("A and B are equally relevant", None),
        ("A or B", None),
        ("A is more relevant than B", None),
        ("Neither A nor B", None),
        ("It is not A", None),
        ("A passage cannot be chosen by me.", None),
        ("As an AI I cannot help with that.", None),
        ("I'm sorry, but I can't assist with that.", None),
        ("", None),
        ("   \n", None),
        ("<think>A or B? B!</think>A", "A"),
        ("A or B? B!</think>\n\nA", "A"),
        ("<think>It is clearly B", None),
        ("ABBA", None),
        ("B" * 3, None),
    ],
)
def test_the_label_that_a_text_names(text, label):
    found = named_label(text, AB)
    assert (None if found is None else AB[found]) == label


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("yes", YES_NO, "Yes"),
        ("YES.", YES_NO, "Yes"),
        ("No, it does not.", YES_NO, "No"),
        ("Yes, because it names the dose.", YES_NO, "Yes"),
        ("I can\u2019t say yes.", YES_NO, None),
        ("I cannot answer yes or no", YES_NO, None),
        ("No comment.", YES_NO, None),
        ("It names the dose.\nYes", YES_NO, "Yes"),
        ("Yes, although no figure is given.", YES_NO, None),
        ("Nothing is known", YES_NO, None),
        ("not relevant", ("relevant", "not relevant"), "not relevant"),
        ("It is not relevant.", ("relevant", "irrelevant"), None),
        ("The passage is irrelevant.", ("relevant", "irrelevant"), "irrelevant"),
        ("10", ("1", "10"), "10"),
        ("Score: 7", tuple("0123456789"), "7"),
        ("0.8", tuple("0123456789"), None),
        ("[3]", ("1", "2", "3"), "3"),
        ("3 > 1", ("1", "2", "3"), None),
        ("C++", ("C", "C++"), "C++"),
    ],
)
def test_labels_of_every_kind(text, labels, label):
    found = named_label(text, labels)
    assert (None if found is None else labels[found]) == label


@given(st.text(), st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5, unique=True))
def test_any_text_and_any_labels(text, labels):
    found = named_label(text, tuple(labels))
    assert found is None or 0 <= found < len(labels)


def test_a_label_after_a_refusal_is_no_answer():
    refusal = [{"I": -0.1}, {" cannot": -0.1}, {" say": -0.1}, {" yes": -0.1, " no": -3.0}]
    assert read_labels(reply(*refusal, text="I cannot say yes"), YES_NO).source == "none"


@pytest.mark.parametrize("piece", [" ", "*", "\n", "score score is ", "the answer is ", "I would say ", "A, ", "\nA*"])
def test_long_nonsense_is_read_in_no_time(piece):
    """A pattern with two ways to read a piece would take for ever."""
    named_label(piece * 50_000, AB)
