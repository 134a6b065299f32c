from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.lexical import Lexical
from rerankit.rerankers.words import Words, bm25

WORDS = ["wheat", "rust", "sheep", "lambing", "the", "soil", "soils", "pH", "7", "水", "rain", "raining"]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(texts, st.lists(texts, min_size=2, max_size=8, unique=True))
def test_scores_are_those_of_the_lexical_family(query, passages):
    words = Words()
    scores = bm25(words.query(query), words.sketches(passages, VectorCache()))
    ranking = Lexical().rank(query, passages)
    expected = {hit.prior_rank - 1: hit.score for hit in ranking}
    np.testing.assert_allclose(scores, [expected[i] for i in range(len(passages))], atol=1e-5)


def test_a_sketch_is_made_once(monkeypatch):
    words, cache = Words(), VectorCache()
    first = words.sketches(["Rust on wheat, rust on oats"], cache)[0]
    assert first.counts.sum() == 4
    assert sorted(first.counts) == [1, 1, 2]

    def never(_texts):
        raise AssertionError("read the text again")

    monkeypatch.setattr(words, "stems", never)
    again = words.sketches(["Rust on wheat, rust on oats"], cache)[0]
    np.testing.assert_array_equal(again.stems, first.stems)


@pytest.mark.parametrize("texts", [[""], ["", "the of"], ["\ud800", "wheat"]])
def test_texts_without_words_score_nothing(texts):
    words = Words()
    assert bm25(words.query("wheat"), words.sketches(texts, VectorCache()))[0] == 0.0
    assert not bm25(words.query(""), words.sketches(texts, VectorCache())).any()


def test_an_unknown_language_is_refused():
    with pytest.raises(InputError, match="no stemmer"):
        Words("klingon")
