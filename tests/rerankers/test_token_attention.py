from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rerankit
from rerankit.errors import InputError
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.call import Call
from rerankit.rerankers.token_attention import TokenAttention
from rerankit.types import Passage

QUERY = "What is the orange powder on my wheat?"
PASSAGES = [
    "Wheat is best sown 3 to 5 cm deep into moist soil.",
    "Leaf rust shows as small orange pustules scattered over wheat leaves.",
    "Sheep are shorn once a year, in spring.",
    "A hen lays about one egg a day in her first year.",
    "Clean water matters most in hot weather.",
]


@pytest.fixture(scope="module")
def reranker():
    with TokenAttention() as reranker:
        yield reranker


def by_hand(reranker: TokenAttention, query: str, texts: list[str]) -> list[float]:
    """The formula, written out token by token."""
    q = reranker.encoder.query(query).vectors.astype(float)
    found = reranker.encoder.passages(texts)
    keys = [one.vectors.astype(float) * one.scales[:, None] for one in found]
    scores = []
    totals = [sum(np.exp(row @ key / 0.05) for passage in keys for key in passage) for row in q]
    for passage in keys:
        shares = [
            sum(np.exp(row @ key / 0.05) for key in passage) / total for row, total in zip(q, totals, strict=True)
        ]
        scores.append(np.mean([np.log(share + 1e-6) for share in shares]) - 0.5 * np.log(len(passage)))
    return scores


def test_it_is_what_the_family_is_without_a_model():
    with rerankit.load("in-context[temperature=0.1]") as reranker:
        assert isinstance(reranker, TokenAttention)
        assert reranker.temperature == 0.1


def test_scores_are_the_attention_that_each_passage_gets(reranker):
    ranking = reranker.rank(QUERY, PASSAGES)
    found = [hit.score for hit in sorted(ranking, key=lambda hit: hit.prior_rank)]
    assert found == pytest.approx(by_hand(reranker, QUERY, PASSAGES), abs=1e-4)
    assert ranking[0].passage.text == PASSAGES[1]
    assert ranking.scale == "attention"


def test_passages_are_encoded_in_batches_and_each_gets_its_own_tokens():
    many = [f"{text} Field {i}." for i, text in enumerate(PASSAGES * 8)]
    many[7] = "And on it goes. " * 200 + many[7]
    with TokenAttention(vectors=VectorCache()) as reranker:
        ranking = reranker.rank("Is there rust on the wheat of field 7?", many)
        assert 0 < ranking.usage.forward_passes < len(many) / 4
        alone = TokenAttention(vectors=VectorCache())
        parts = [alone._read([Passage(str(i), text)], Call())[0] for i, text in enumerate(many)]
        together = reranker._read([Passage(str(i), text) for i, text in enumerate(many)], Call())
    assert [(one.text, one.size) for one in together] == [(one.text, one.size) for one in parts]
    assert all(np.array_equal(a.offsets, b.offsets) for a, b in zip(together, parts, strict=True))


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(len(PASSAGES))))
def test_the_order_of_the_input_does_not_matter(reranker, order):
    expected = {hit.text: hit.score for hit in reranker.rank(QUERY, PASSAGES)}
    for hit in reranker.rank(QUERY, [PASSAGES[i] for i in order]):
        assert hit.score == pytest.approx(expected[hit.text], abs=1e-9)


def test_passages_compete(reranker):
    """The same passage gets less where another one answers too."""
    alone = reranker.rank(QUERY, [PASSAGES[1], PASSAGES[2]])
    rivalled = reranker.rank(QUERY, [PASSAGES[1], PASSAGES[2], "Orange powder on wheat leaves is leaf rust."])
    score = {id(ranking): next(h.score for h in ranking if h.text == PASSAGES[1]) for ranking in (alone, rivalled)}
    assert score[id(rivalled)] < score[id(alone)]


def test_duplicates_do_not_take_attention_from_each_other(reranker):
    once = reranker.rank(QUERY, PASSAGES)
    twice = reranker.rank(QUERY, [*PASSAGES, PASSAGES[1]])
    assert len(twice) == 6
    assert twice[0].score == twice[1].score == pytest.approx(once[0].score)


def test_evidence_are_words_of_the_text(reranker):
    hit = reranker.rank(QUERY, [Passage("1", PASSAGES[1], title="Diseases of wheat")])[0]
    assert hit.evidence
    for span in hit.evidence:
        assert any(map(str.isalpha, hit.text[span.start : span.end]))


def test_long_passages_are_read_whole(reranker):
    text = "Nothing of use here. " * 300 + "Leaf rust is an orange powder on wheat leaves. " + "And on it goes. " * 200
    ranking = reranker.rank(QUERY, ["Nothing of use here. " * 300, text])
    assert ranking[0].passage.text == text
    assert ranking[0].truncated_tokens == 0
    assert any("orange" in text[span.start : span.end] for span in ranking[0].evidence)


def test_a_deadline_leaves_the_rest_unscored(reranker):
    many = [f"{PASSAGES[0]} Field {i}, {time.monotonic_ns()}." for i in range(400)]
    ranking = reranker.rank(QUERY, many, deadline_s=0.05)
    assert len(ranking) == 400
    unscored = [hit for hit in ranking if hit.status == "unscored"]
    assert unscored
    assert "deadline" in ranking.reason
    assert [hit.prior_rank for hit in unscored] == sorted(hit.prior_rank for hit in unscored)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": "warm"}, {"max_windows": 0}])
def test_options_out_of_range(options):
    with pytest.raises(InputError, match=next(iter(options))):
        TokenAttention(**options)
