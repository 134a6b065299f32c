from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.rerankers.lexical import Lexical
from rerankit.types import Passage

TEXTS = [
    "Sowing maize too deep delays it.",
    "Hay is baled when dry.",
    "Sheep graze stubble.",
    "Dry soil, dry hay, dry season.",
    "Nitrogen (N) is lost from wet soils.",
]


def by_id(ranking):
    return {hit.id: hit.score for hit in ranking}


def test_scores_are_bm25_over_the_candidates():
    passages = ["dry hay", "dry dry soil", "wet soil"]
    found = by_id(Lexical(k1=1.2, b=0.5).rank("dry", passages))
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    mean = 7 / 3

    def score(times, length):
        return idf * times / (times + 1.2 * (1 - 0.5 + 0.5 * length / mean))

    assert found == pytest.approx({"0": score(1, 2), "1": score(2, 3), "2": 0.0}, abs=1e-6)


def test_words_meet_by_their_stems_and_titles_count():
    ranking = Lexical().rank("sowed", [*TEXTS, Passage("t", "Five centimetres.", "Sow depth")])
    assert {hit.id for hit in ranking if hit.score > 0} == {"0", "t"}


def test_single_letters_are_words():
    assert Lexical().rank("Is N lost?", TEXTS)[0].id == "4"


@given(st.permutations(range(len(TEXTS))))
def test_the_order_of_the_candidates_does_not_matter(order):
    passages = [Passage(str(i), TEXTS[i]) for i in order]
    expected = by_id(Lexical().rank("dry hay in the soil", [Passage(str(i), text) for i, text in enumerate(TEXTS)]))
    assert by_id(Lexical().rank("dry hay in the soil", passages)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("query", ["the of and", "zzz", "?!", "what about it"])
def test_without_a_common_word_the_input_order_stays(query):
    assert [hit.id for hit in Lexical().rank(query, TEXTS)] == ["0", "1", "2", "3", "4"]


def test_passages_without_words_are_no_trouble():
    assert [hit.score for hit in Lexical().rank("dry", ["!!!", "...", "--"])] == [0.0, 0.0, 0.0]
    assert Lexical().rank("dry", ["!!!", "dry"])[0].id == "1"


def test_other_languages():
    german = ["Der Mais wird tief gesät.", "Die Kühe geben Milch."]
    assert Lexical(language="german").rank("Welche Kuh gibt Milch?", german)[0].id == "1"
    assert Lexical(language="").rank("玉米播种", ["小麦收获", "玉米应播种五厘米深"])[0].id == "1"


def test_what_is_wrong_is_refused_by_name():
    with pytest.raises(InputError, match="klingon"):
        Lexical(language="klingon")
    with pytest.raises(InputError, match="b from 0 to 1"):
        Lexical(b=2)
    with pytest.raises(InputError, match="k1"):
        Lexical(k1=float("nan"))
