from __future__ import annotations

import datetime
import logging
import time

import numpy as np
import pytest
from families import WordOverlap
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError, ModelError
from rerankit.models.embedded import embedder
from rerankit.models.vector_cache import shared_cache
from rerankit.rerankers.diversify import DPP, MMR, Freshness, SourceCap
from rerankit.rerankers.late_interaction import LateInteraction
from rerankit.rerankers.moments import moment
from rerankit.rerankers.scaling import unit_scores
from rerankit.spec import load
from rerankit.types import Passage

NOW = "2024-06-01"


@pytest.fixture(autouse=True)
def nothing_encoded_yet():
    shared_cache().clear_memory()


def ids(ranking):
    return [hit.id for hit in ranking]


def listed(vectors, scores=None, **fields):
    scores = [None] * len(vectors) if scores is None else scores
    return [
        Passage(str(i), f"text {i}", embedding=np.asarray(vector), score=score, **fields)
        for i, (vector, score) in enumerate(zip(vectors, scores, strict=True))
    ]


def cosines(vectors):
    array = np.asarray(vectors, float)
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    unit = array / np.where(norms > 0, norms, 1)
    return unit @ unit.T


def mmr_by_definition(vectors, scores, weight):
    """The formula, written out place by place."""
    relevance, similarity, order = unit_scores(np.array(scores)), cosines(vectors), []
    while len(order) < len(scores):
        left = [i for i in range(len(scores)) if i not in order]
        gains = [
            weight * relevance[i] - (1 - weight) * max((similarity[i, j] for j in order), default=-1.0) for i in left
        ]
        order.append(left[int(np.argmax(np.round(gains, 9)))])
    return [str(i) for i in order]


def dpp_by_definition(vectors, scores, weight, places):
    """Greedy on the log-determinant itself."""
    relevance, kernel, order = unit_scores(np.array(scores)), (1 + cosines(vectors)) / 2, []
    for _ in range(places):
        left = [i for i in range(len(scores)) if i not in order]
        values = []
        for i in left:
            chosen = [*order, i]
            determinant = np.linalg.det(kernel[np.ix_(chosen, chosen)])
            values.append(weight * relevance[chosen].sum() + (1 - weight) * np.log(max(determinant, 1e-300)))
        order.append(left[int(np.argmax(values))])
    return [str(i) for i in order]


vectors_ = st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=3, max_size=3)
lists = st.lists(st.tuples(vectors_, st.integers(0, 5).map(float)), min_size=1, max_size=8)


@settings(max_examples=60)
@given(lists, st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_mmr_is_its_formula(rows, weight):
    vectors, scores = [v for v, _ in rows], [s for _, s in rows]
    order = [int(name) for name in ids(MMR(lambda_=weight).rank("q", listed(vectors, scores)))]
    relevance, similarity = unit_scores(np.array(scores)), cosines(vectors)
    for place in range(len(order)):
        before, left = order[:place], sorted(order[place:])
        gains = [
            weight * relevance[i] - (1 - weight) * max((similarity[i, j] for j in before), default=-1.0) for i in left
        ]
        assert order[place] == next(i for i, gain in zip(left, gains, strict=True) if gain > max(gains) - 1e-9)


@given(st.lists(st.tuples(vectors_, st.floats(-9, 9)), min_size=1, max_size=8))
@settings(max_examples=60)
def test_relevance_alone_is_the_order_by_score(rows):
    passages = listed([v for v, _ in rows], [s for _, s in rows])
    expected = ids(sorted(passages, key=lambda passage: -passage.score))
    for reranker in (MMR(lambda_=1), DPP(lambda_=1)):
        found = reranker.rank("q", passages)
        relevance = unit_scores(np.array([hit.score for hit in found])).round(12)
        assert (np.diff(relevance) <= 0).all()
        if len(set(relevance)) == len(passages):
            assert ids(found) == expected


@pytest.mark.parametrize("seed", range(8))
def test_dpp_is_greedy_on_the_determinant(seed):
    rng = np.random.default_rng(seed)
    vectors, scores = rng.normal(size=(9, 6)), rng.normal(size=9).tolist()
    found = ids(DPP(lambda_=0.4).rank("q", listed(vectors, scores)))
    # S = (1 + cosine) / 2 of vectors in 6 dimensions has rank 7; what follows adds nothing and keeps its order.
    assert found[:7] == dpp_by_definition(vectors, scores, 0.4, 7)
    assert found[7:] == sorted(found[7:])


def test_mmr_random_against_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(10):
        vectors, scores = rng.normal(size=(12, 5)), rng.normal(size=12).tolist()
        assert ids(MMR(lambda_=0.5).rank("q", listed(vectors, scores))) == mmr_by_definition(vectors, scores, 0.5)


TWINS = [[1, 0, 0], [1, 0.01, 0], [1, 0.02, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("reranker", [MMR(lambda_=0.3), DPP(lambda_=0.3)])
def test_what_differs_comes_before_what_is_said_already(reranker):
    ranking = reranker.rank("q", listed(TWINS, [1.0, 0.99, 0.98, 0.5, 0.4]))
    assert ids(ranking)[:3] == ["0", "3", "4"]
    assert [hit.score for hit in ranking][:3] == [1.0, 0.5, 0.4]
    assert (ranking.status, ranking.scale) == ("scored", "order")


def test_exact_duplicates_come_last_and_in_order():
    vectors = [[1, 0], [1, 0], [0, 1], [1, 0]]
    assert ids(DPP(lambda_=0).rank("q", listed(vectors))) == ["0", "2", "1", "3"]
    assert ids(MMR(lambda_=0).rank("q", listed(vectors))) == ["0", "2", "1", "3"]


@pytest.mark.parametrize("kind", [MMR, DPP])
def test_without_scores_relevance_is_the_rank(kind):
    vectors = np.eye(4)
    ranking = kind(lambda_=0.9).rank("q", listed(vectors))
    assert ids(ranking) == ["0", "1", "2", "3"]
    assert [hit.score for hit in ranking] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert [hit.prior_score for hit in ranking] == [None] * 4


@pytest.mark.parametrize("kind", [MMR, DPP])
def test_behind_the_depth_the_input_order_stays(kind):
    rng = np.random.default_rng(1)
    passages = listed(rng.normal(size=(30, 8)), rng.normal(size=30).tolist())
    full, short = ids(kind().rank("q", passages)), ids(kind(depth=5).rank("q", passages))
    assert short[:5] == full[:5]
    assert short[5:] == sorted(set(full) - set(full[:5]), key=int)
    assert ids(kind()[:3].rank("q", passages)) == full[:3]


@pytest.mark.parametrize("kind", [MMR, DPP])
def test_no_vector_scale_or_score_scale_changes_the_choice(kind):
    rng = np.random.default_rng(2)
    vectors, scores = rng.normal(size=(10, 4)), rng.normal(size=10)
    plain = ids(kind().rank("q", listed(vectors, scores.tolist())))
    for factor in (1e-200, 1e200):
        assert ids(kind().rank("q", listed(vectors * factor, (scores * 1000 + 7).tolist()))) == plain


@pytest.mark.parametrize("kind", [MMR, DPP])
def test_a_thousand_candidates_in_reasonable_time(kind):
    rng = np.random.default_rng(3)
    passages = listed(rng.normal(size=(1000, 64)), rng.normal(size=1000).tolist())
    started = time.monotonic()
    assert len(set(ids(kind(depth=100).rank("q", passages)))) == 1000
    assert time.monotonic() - started < 5


def test_a_deadline_stops_the_walk():
    rng = np.random.default_rng(4)
    passages = listed(rng.normal(size=(4000, 256)), rng.normal(size=4000).tolist())
    full = MMR(depth=4000)
    started = time.monotonic()
    ranking = full.rank("q", passages, deadline_s=0.05)
    assert time.monotonic() - started < 3
    assert ranking.status == "partial"
    assert "deadline" in ranking.reason
    assert len(set(ids(ranking))) == 4000
    late = (WordOverlap(delay=0.05) | full).rank("text", passages[:3], deadline_s=0.02)
    assert late.status == "partial"


FARM = [
    "Sow winter wheat in October, three centimetres deep.",
    "Winter wheat is sown in October, at a depth of 3 cm.",
    "Shear sheep in late spring, when the wool has risen.",
]


@pytest.mark.parametrize("kind", [MMR, DPP])
def test_passages_without_vectors_are_embedded(kind):
    ranking = kind(lambda_=0.3).rank("When to sow wheat?", [*FARM, ""])
    assert ids(ranking) == ["0", "2", "1", "3"]
    assert ranking.usage.forward_passes >= 1
    assert ranking.usage.input_tokens > 20


def test_stored_vectors_are_used_only_where_they_can_be_compared():
    encoder = embedder()
    own = encoder.encode(FARM)
    passages = [
        Passage(str(i), text, embedding=vector, embedding_model=encoder.model_id)
        for i, (text, vector) in enumerate(zip(FARM, own, strict=True))
    ]
    mixed = [passages[0], passages[1].replace(embedding=None, embedding_model=""), passages[2]]
    shorter = [passages[0], passages[1].replace(embedding=np.ones(7), embedding_model="other"), passages[2]]
    foreign = [passages[0], passages[1].replace(embedding=own[2], embedding_model="other"), passages[2]]
    broken = [passages[0], passages[1].replace(embedding=np.full(384, np.nan)), passages[2]]
    expected = ids(MMR(lambda_=0.3).rank("q", passages))
    assert MMR().rank("q", passages).usage.forward_passes == 0
    for items in (mixed, shorter, foreign, broken):
        shared_cache().clear_memory()
        ranking = MMR(lambda_=0.3, embedder=encoder).rank("q", items)
        assert ids(ranking) == expected == ["0", "2", "1"]
        assert ranking.usage.forward_passes == 1


@pytest.mark.parametrize("kind", [MMR, DPP])
def test_what_an_earlier_stage_has_encoded_is_not_encoded_again(kind):
    passages = [Passage("long", "Sheep graze on the hill. " * 200, "About sheep"), *FARM]
    LateInteraction().rank("When to sow wheat?", passages)
    assert kind().rank("When to sow wheat?", passages).usage.forward_passes == 0
    shared_cache().clear_memory()
    assert kind().rank("q", passages).usage.forward_passes > 0
    assert kind().rank("another q", passages).usage.forward_passes == 0


def test_lists_are_embedded_together_and_texts_once():
    rankings = MMR(lambda_=0.3).rank_many([("a", FARM), ("b", FARM[::-1])])
    assert [ids(ranking) for ranking in rankings] == [["0", "2", "1"], ["0", "1", "2"]]
    assert sum(ranking.usage.forward_passes for ranking in rankings) == 1


class Nameless:
    """Has no width, so no stored vector can be told to be its own."""

    model_id = "nameless"

    def encode(self, texts, *, kind="passage", meter=None):
        return np.eye(len(texts), 2)


@pytest.mark.parametrize("embedder", [5, 1.5, object(), Nameless(), b"name"])
def test_what_is_no_embedder_is_refused_at_once(embedder):
    with pytest.raises(InputError, match="loaded TextEncoder"):
        MMR(embedder=embedder)


def test_an_embedder_may_be_named_or_brought(tmp_path):
    class Whole(Nameless):
        dim = 2

    assert ids(MMR(embedder=Whole()).rank("q", ["a", "b"])) == ["0", "1"]
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        MMR(embedder=str(tmp_path)).rank("q", ["a", "b"])


@pytest.mark.parametrize("kind", [MMR, DPP])
@pytest.mark.parametrize(
    "options", [{"lambda_": -0.1}, {"lambda_": 1.1}, {"lambda_": "a"}, {"lambda_": float("nan")}, {"depth": 0}]
)
def test_wrong_options_are_refused(kind, options):
    with pytest.raises(InputError):
        kind(**options)


def sourced(*sources):
    return [Passage(str(i), f"text {i}", metadata={} if s is None else {"source": s}) for i, s in enumerate(sources)]


def test_the_surplus_of_a_source_moves_behind_all_others():
    passages = sourced("a", "a", "a", None, "b", "a", None, None, "b", "b")
    assert ids(SourceCap(per=2).rank("q", passages)) == ["0", "1", "3", "4", "6", "7", "8", "2", "5", "9"]
    assert ids(SourceCap(per=1).rank("q", passages)) == ["0", "3", "4", "6", "7", "1", "2", "5", "8", "9"]
    assert ids(SourceCap(per=9).rank("q", passages)) == [str(i) for i in range(10)]
    assert ids(SourceCap(per=1, key="id").rank("q", passages)) == [str(i) for i in range(10)]


@given(st.lists(st.none() | st.sampled_from(["x", "1", 1, True, ["x"], {"y": 1}]), max_size=12), st.integers(1, 3))
def test_no_source_has_more_than_its_share_in_front(sources, per):
    ranking = SourceCap(per=per).rank("q", sourced(*sources))
    front = len(sources) - sum(max(0, sum(repr(s) == repr(x) for x in sources) - per) for s in distinct(sources))
    named = [repr(hit.passage.metadata["source"]) for hit in ranking[:front] if hit.passage.metadata]
    assert all(named.count(name) <= per for name in named)
    for part in (ranking.hits[:front], ranking.hits[front:]):
        assert [hit.prior_rank for hit in part] == sorted(hit.prior_rank for hit in part)


def distinct(sources):
    return {repr(source): source for source in sources if source is not None}.values()


@pytest.mark.parametrize("per", [0, -1, 1.5, True])
def test_a_cap_is_a_positive_number(per):
    with pytest.raises(InputError):
        SourceCap(per=per)


def dated(*rows):
    return [Passage(str(i), f"text {i}", metadata={"date": date}, score=score) for i, (score, date) in enumerate(rows)]


def test_age_halves_relevance():
    reranker = Freshness(half_life_days=10, weight=1, now=NOW)
    old, middle = "2024-05-12", "2024-05-22"  # two half-lives and one
    ranking = reranker.rank("q", dated((10.0, old), (4.0, middle), (6.0, NOW), (0.0, NOW)))
    assert ids(ranking) == ["2", "0", "1", "3"]  # 0.6, 0.25, 0.2, 0
    assert [hit.score for hit in ranking] == [6, 10, 4, 0]
    assert ids(Freshness(weight=0, now=NOW).rank("q", dated((3.0, old), (2.0, NOW)))) == ["0", "1"]


def test_equal_relevance_leaves_the_order_to_age():
    ranking = Freshness(now=NOW).rank("q", dated((1.0, "2020"), (1.0, "2024-05-01"), (1.0, "2023")))
    assert ids(ranking) == ["1", "2", "0"]


def test_the_future_is_new_and_no_more():
    assert ids(Freshness(now=NOW, weight=1).rank("q", dated((1.0, NOW), (1.0, "2030"), (1.0, "2020")))) == [
        "0",
        "1",
        "2",
    ]


def test_a_missing_date_is_neither_favoured_nor_punished(caplog):
    reranker = Freshness(half_life_days=30, now=NOW, weight=1)
    rows = [(1.0, "2022-01-01"), (1.0, None), (1.0, NOW), (1.0, "yesterday")]
    with caplog.at_level(logging.INFO):
        assert ids(reranker.rank("q", dated(*rows))) == ["2", "1", "3", "0"]
    assert "2 of 4 passages have no date under 'date'" in caplog.text
    assert {record.levelname for record in caplog.records} == {"INFO"}
    caplog.clear()
    assert ids(reranker.rank("q", ["a", "b"])) == ["0", "1"]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_without_now_age_counts_from_the_call():
    fresh, stale = time.time() - 60, time.time() - 86_400 * 360
    assert ids(Freshness(weight=1).rank("q", dated((1.0, stale), (0.9, fresh), (0.0, fresh)))) == ["1", "0", "2"]


@pytest.mark.parametrize(
    "options",
    [{"half_life_days": 0}, {"half_life_days": float("inf")}, {"weight": 2}, {"weight": -1}, {"now": "soon"}],
)
def test_wrong_freshness_is_refused(options):
    with pytest.raises(InputError):
        Freshness(**options)


MAY_SIXTH = 1714953600.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-05-06", MAY_SIXTH),
        (" 2024-05-06T02:00:00+02:00 ", MAY_SIXTH),
        ("2024-05-06T00:00:00Z", MAY_SIXTH),
        (datetime.date(2024, 5, 6), MAY_SIXTH),
        (datetime.datetime(2024, 5, 6), MAY_SIXTH),
        (1714953600, MAY_SIXTH),
        ("1714953600.0", MAY_SIXTH),
        (1714953600000, MAY_SIXTH),
        (2024, 1704067200.0),
        (np.int64(2024), 1704067200.0),
        (np.float32(2024), 1704067200.0),
        (20240506, MAY_SIXTH),
        (20240506.0, MAY_SIXTH),
        ("20240506", MAY_SIXTH),
        (np.int64(20240506), MAY_SIXTH),
        (20241345, 20241345.0),
        ("2024-01", 1704067200.0),
        ("2024-13", None),
        (np.datetime64("2024-05-06T00:00:00.000000000"), MAY_SIXTH),
        (np.datetime64("NaT"), None),
        (np.True_, None),
        ("2024", 1704067200.0),
        (-86400, -86400.0),
        (None, None),
        (True, None),
        ("", None),
        ("2024-13-45", None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        ("1e999", None),
        (["2024"], None),
    ],
)
def test_dates_are_read_in_the_forms_people_write(value, expected):
    assert moment(value) == expected


@given(st.text() | st.integers() | st.floats() | st.datetimes() | st.dates() | st.binary())
def test_no_date_breaks_the_reader(value):
    found = moment(value)
    assert found is None or np.isfinite(found)


def test_specs_build_them():
    cascade = load(
        "none[:9] | mmr[lambda_=0.4, depth=7] | dpp | cap[per=1,key=url] | freshness[now=2024-06-01,weight=1][:4]"
    )
    mmr, cap, fresh = cascade.stages[1], cascade.stages[3], cascade.stages[4]
    assert (mmr.lambda_, mmr.depth, cap.per, cap.key, fresh.weight, cascade.top_k) == (0.4, 7, 1, "url", 1, 4)
    assert len(cascade.rank("q", listed(np.eye(6)))) == 4
