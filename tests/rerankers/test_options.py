"""Options of the families that ask a language model: what cannot be meant is refused when the reranker is built."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rerankit
from rerankit.checks import check_bool, check_choice, check_whole, is_number
from rerankit.errors import InputError, RerankitError, SpecError
from rerankit.models.templates import choose_template
from rerankit.rerankers.listwise import Listwise
from rerankit.rerankers.pairwise import Pairwise
from rerankit.rerankers.pointwise import Pointwise

URL = "http://127.0.0.1:1/v1#m"
FAMILIES = {"pairwise": Pairwise, "listwise": Listwise, "pointwise": Pointwise}
SHARED = ("max_calls", "passage_tokens", "query_tokens", "concurrency", "max_retries", "top_k")
WHOLE = [
    *[(family, name, {}) for family in FAMILIES for name in SHARED],
    ("pairwise", "k", {"method": "heapsort"}),
    ("pairwise", "rounds", {"method": "swiss"}),
    ("pairwise", "max_tokens", {"mode": "text"}),
    *[("listwise", name, {}) for name in ("window", "stride", "repeats", "seed", "max_tokens")],
    ("listwise", "k", {"method": "setwise"}),
    ("pointwise", "max_windows", {}),
]
TRUTHS = [("pairwise", "soft"), ("pairwise", "closure")]
WORDS = [
    ("pairwise", "method", "heap-sort", "heapsort", {}),
    ("pairwise", "aggregate", "bradley_terry", "bradley-terry", {}),
    ("pairwise", "mode", "score", "scores", {}),
    ("pairwise", "template", "prp-leter", "prp-letter", {}),
    ("pairwise", "on_error", "keep-order", "keep_order", {}),
    ("listwise", "method", "setwize", "setwise", {}),
    ("listwise", "template", "rankgbt", "rankgpt", {}),
    ("pointwise", "method", "yesno", "yes-no", {}),
    ("pointwise", "method", "likelyhood", "likelihood", {}),
    ("pointwise", "template", "scores", "score", {}),
    ("pointwise", "long_passages", "top2mean", "top2-mean", {}),
]


def spec_of(family, **options):
    return f"{family}:{URL}[{','.join(f'{name}={value}' for name, value in options.items())}]"


@pytest.mark.parametrize(("family", "name", "more"), WHOLE)
@pytest.mark.parametrize("value", [True, 2.5, "5", math.nan, -1, np.float64(3.0), [3]])
def test_a_whole_number_is_taken_for_nothing_else(family, name, more, value):
    with pytest.raises(InputError, match=rf"{name} must be a .*whole number.*, got") as caught:
        FAMILIES[family](URL, **more, **{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("family", "name", "more"), WHOLE)
def test_numpy_numbers_are_whole_numbers(family, name, more):
    FAMILIES[family](URL, **more, **{name: np.int64(3)}).close()


@pytest.mark.parametrize(("family", "name", "more"), WHOLE)
@pytest.mark.parametrize("written", ["true", "2.5", "five", "1/2", "nan", "1e3"])
def test_a_spec_is_held_to_whole_numbers_too(family, name, more, written):
    with pytest.raises(SpecError, match=f"{name} must be a whole number.*, got '{written}', in '{family}:"):
        rerankit.load(spec_of(family, **more, **{name: written}))


@pytest.mark.parametrize(("family", "name"), TRUTHS)
@pytest.mark.parametrize("value", ["maybe", 3, 1, None, 0.0])
def test_true_and_false_are_the_only_truths(family, name, value):
    with pytest.raises(InputError, match=f"{name} must be True or False, got"):
        FAMILIES[family](URL, **{name: value})
    with pytest.raises(SpecError, match=f"{name} must be true or false, got '{str(value).lower()}'"):
        rerankit.load(spec_of(family, **{name: value}))


@pytest.mark.parametrize(("family", "name", "value", "near", "more"), WORDS)
def test_an_unknown_word_names_the_nearest(family, name, value, near, more):
    for build in (
        lambda: FAMILIES[family](URL, **more, **{name: value}),
        lambda: rerankit.load(spec_of(family, **more, **{name: value})),
    ):
        with pytest.raises((SpecError, InputError), match=f"did you mean {near!r}"):
            build()


@pytest.mark.parametrize(("family", "name", "value", "near", "more"), WORDS)
@pytest.mark.parametrize("thing", [3, True, ["x"]])
def test_what_is_no_word_is_refused(family, name, value, near, more, thing):
    with pytest.raises((SpecError, InputError), match=name):
        FAMILIES[family](URL, **more, **{name: thing})


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("pairwise", {"adaptive": "0.2"}), ("pairwise", {"adaptive": True}), ("pairwise", {"timeout_s": "5"}),
        ("pairwise", {"timeout_s": 0}), ("listwise", {"timeout_s": True}), ("pointwise", {"price": 3}),
        ("listwise", {"price": "ab"}), ("listwise", {"method": "windows", "k": 3}), ("listwise", {"k": 3}),
        ("listwise", {"method": "tournament", "stride": 3}),
    ],
)  # fmt: skip
def test_other_options_that_cannot_be_meant(family, options):
    with pytest.raises(InputError, match=list(options)[-1]):
        FAMILIES[family](URL, **options)


def test_a_read_out_without_a_template_is_no_bare_stop_iteration():
    with pytest.raises(SpecError, match=r"method is one of yes-no, score, .*; got 'yesno'; did you mean 'yes-no'\?"):
        choose_template("pointwise", "m", among="yesno")


ANYTHING = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))


@given(ANYTHING)
def test_the_checks_let_through_what_they_say_and_nothing_else(value):
    def passes(check):
        try:
            check()
        except RerankitError:
            return False
        return True

    whole = type(value) is int
    assert passes(lambda: check_whole(1, x=value)) == (whole and value >= 1)
    assert passes(lambda: check_whole(1, or_none=True, x=value)) == (value is None or (whole and value >= 1))
    assert passes(lambda: check_bool(x=value)) == (type(value) is bool)
    assert passes(lambda: check_choice("x", value, ["a", "b"])) == (value in ("a", "b"))
    assert is_number(value) == (type(value) in (int, float))
