from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import BackendError, InputError, MissingExtraError, RerankitError, require
from rerankit.types import Hit, Passage, Ranking, Span, Usage, as_passages

texts = st.text(max_size=30)
passages = st.builds(
    Passage,
    id=texts,
    text=texts,
    title=texts,
    metadata=st.dictionaries(texts, st.integers() | texts),
    score=st.none() | st.floats(-9, 9),
)
hits = st.builds(
    Hit,
    passage=passages,
    rank=st.integers(1, 9),
    score=st.none() | st.floats(-9, 9),
    prior_rank=st.integers(1, 9),
    prior_score=st.none() | st.floats(-9, 9),
    probability=st.none() | st.floats(0, 1),
    status=st.sampled_from(["scored", "cached", "unscored"]),
    truncated_tokens=st.integers(0, 5),
    evidence=st.lists(st.builds(Span, start=st.integers(0, 5), end=st.integers(5, 9)), max_size=2).map(tuple),
)
rankings = st.builds(
    Ranking,
    query=texts,
    hits=st.lists(hits, max_size=4).map(tuple),
    model=texts,
    scale=texts,
    usage=st.builds(Usage),
    trace=st.lists(texts, max_size=2).map(tuple),
)


@given(rankings)
def test_a_ranking_survives_json_pickle_and_copy(ranking):
    assert Ranking.from_dict(json.loads(json.dumps(ranking.to_dict()))) == ranking
    assert pickle.loads(pickle.dumps(ranking)) == ranking
    assert copy.deepcopy(ranking) == ranking
    assert hash(ranking) == hash(copy.deepcopy(ranking))


def test_a_ranking_is_a_sequence_whose_slices_are_rankings():
    hits = tuple(Hit(Passage(str(i), "t"), i + 1, 1.0, i + 1) for i in range(4))
    ranking = Ranking("q", hits, "m", "logit")
    assert len(ranking) == 4
    assert [hit.rank for hit in ranking[:2]] == [1, 2]
    assert isinstance(ranking[1:3], Ranking)
    assert ranking[0].id == "0"
    assert ranking[-1].text == "t"
    assert ranking.passages == [hit.passage for hit in hits]


def test_values_do_not_share_or_lose_the_callers_metadata():
    metadata = {"source": "a.txt"}
    passage = Passage("1", "text", metadata=metadata)
    metadata["source"] = "changed"
    assert passage.metadata == {"source": "a.txt"}
    with pytest.raises(AttributeError):
        passage.text = "other"


def test_embeddings_take_no_part_in_equality_or_hash():
    one, two = Passage("1", "t", embedding=np.ones(3)), Passage("1", "t", embedding=np.zeros(3))
    assert one == two
    assert hash(one) == hash(two)


@pytest.mark.parametrize(
    "bad", [{"id": 3, "text": "t"}, {"id": "3", "text": None}, {"id": "3", "text": "t", "title": 1}]
)
def test_a_passage_of_the_wrong_type_names_the_field(bad):
    with pytest.raises(InputError, match=r"Passage\.(id|text|title) must be a string"):
        Passage(**bad)


@pytest.mark.parametrize(
    "bad", [{"score": "x"}, {"metadata": "xy"}, {"metadata": None}, {"embedding": "abc"}, {"embedding": [[1.0]]}]
)
def test_values_that_cannot_be_used_are_refused(bad):
    with pytest.raises(InputError, match=r"Passage\.(score|metadata|embedding)"):
        Passage("1", "t", **bad)


@pytest.mark.parametrize(
    "data", [{}, {"query": "q"}, {"query": "q", "hits": [{}], "model": "m", "scale": "s"}, {"x": 1}]
)
def test_dictionaries_that_are_no_ranking_are_refused(data):
    with pytest.raises(InputError):
        Ranking.from_dict(data)


def test_unknown_fields_are_refused():
    with pytest.raises(InputError, match="meatadata"):
        Passage.from_dict({"id": "1", "text": "t", "meatadata": {}})


def test_strings_become_passages_and_a_lone_string_is_refused():
    assert [p.id for p in as_passages(["a", Passage("x", "b")])] == ["0", "x"]
    with pytest.raises(InputError, match="wrap it in a list"):
        as_passages("abc")
    with pytest.raises(InputError, match="Passage 1 must be"):
        as_passages(["a", 3])


def test_trec_lines_keep_the_order_even_for_ties_and_refuse_what_the_format_cannot_hold():
    hits = tuple(Hit(Passage(name, "t"), i, 0.5, i) for i, name in enumerate(["b", "a"], 1))
    ranking = Ranking("q", hits, "m", "logit")
    assert ranking.to_trec("run", "7") == "7 Q0 b 1 2 run\n7 Q0 a 2 1 run\n"
    with pytest.raises(InputError, match="white space"):
        Ranking("q", (Hit(Passage("a b", "t"), 1, 0.5, 1),), "m", "logit").to_trec()
    with pytest.raises(InputError, match="twice"):
        Ranking("q", hits + hits, "m", "logit").to_trec()


def test_a_threshold_needs_calibrated_scores():
    raw = Ranking("q", (Hit(Passage("a", "t"), 1, 3.0, 1),), "m", "logit")
    with pytest.raises(InputError, match="not calibrated"):
        raw.above(0.5)
    sure = Ranking("q", tuple(Hit(Passage(str(p), "t"), 1, 3.0, 1, probability=p) for p in (0.9, 0.2)), "m", "logit")
    assert [hit.probability for hit in sure.above(0.5)] == [0.9]
    with pytest.raises(InputError, match="between 0 and 1"):
        sure.above(50)


def test_usage_adds_up():
    total = Usage(seconds=1, cache_hits=3, cache_misses=1) + Usage(seconds=0.5, input_tokens=7)
    assert total == Usage(seconds=1.5, input_tokens=7, cache_hits=3, cache_misses=1)
    assert total.cache_hit_rate == 0.75
    assert Usage().cache_hit_rate is None


def test_errors_are_one_family_and_say_what_to_do():
    with pytest.raises(MissingExtraError, match=r"pip install 'rerankit\[chroma\]'") as caught:
        require("no_such_package_anywhere", extra="chroma", purpose="The Chroma store")
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, RerankitError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    error = BackendError("It broke", endpoint="http://x/v1", status=500, attempts=3, retryable=True)
    assert str(error) == "It broke (http://x/v1, status 500, 3 attempts)"
