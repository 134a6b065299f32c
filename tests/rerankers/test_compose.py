from __future__ import annotations

import copy
import time

import numpy as np
import pytest
from families import Broken, WordOverlap
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError, ModelError
from rerankit.rerankers.call import Scored
from rerankit.rerankers.compose import Cascade, Fusion, Prior
from rerankit.rerankers.diversify import DPP, MMR, Freshness, SourceCap
from rerankit.rerankers.scaling import unit_scores, z_scores
from rerankit.types import Passage, Span

WORDS = ["wheat", "rust", "sheep", "rain", "", " ", "\ud800", "\x00"]


class Length(WordOverlap):
    """Longer texts score higher."""

    scale = "length"

    def __init__(self, model="v1", **options):
        super().__init__(model, **options)
        self.model = f"length:{model}"

    def score_pairs(self, pairs, call):
        super().score_pairs(pairs, call)
        return np.array([float(len(passage.text)) for _, passage in pairs])


class Given(Broken):
    """Scores by passage id, from a table; NaN in the table means left unscored."""

    scale = "table"

    def __init__(self, table, **options):
        super().__init__(self.look_up, **options)
        self.model, self.table, self.asked = "given", table, []

    def look_up(self, request, call):
        self.asked.append(request.passages)
        scores = np.array([self.table[passage.id] for passage in request.passages], float)
        missing = np.isnan(scores)
        late = "the deadline passed" if missing.any() else ""
        return Scored(np.where(missing, 0.0, scores), scored=~missing, partial=late)


def ids(ranking):
    return [hit.id for hit in ranking]


def by_position(ranking):
    return {hit.prior_rank: hit for hit in ranking}


# Vectors for all, so that no embedding model is needed.
candidates = st.lists(
    st.builds(
        Passage,
        id=st.sampled_from("abc"),
        text=st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join),
        title=st.sampled_from(WORDS),
        metadata=st.sampled_from([{}, {"source": "x"}, {"source": 1, "date": "2024"}, {"date": "soon"}]),
        score=st.none() | st.floats(0, 1),
        embedding=st.sampled_from([np.array([1.0, 0.0]), np.array([0.6, 0.8]), np.zeros(2), -np.ones(2)]),
    ),
    max_size=10,
)
leaves = st.sampled_from(
    [WordOverlap, Length, Prior, MMR, DPP, SourceCap, lambda: Freshness(now="2026"), lambda: Broken(never)]
).map(lambda make: make())
views = st.none() | st.integers(1, 5)


def never(request, call):
    return ModelError("out of order")


def composites(parts):
    lists = st.lists(parts, min_size=1, max_size=3)
    cascades = st.builds(Cascade, lists, on_error=st.just("keep_order"))
    fusions = st.builds(Fusion, lists, method=st.just("rrf"), on_error=st.just("keep_order"))
    return st.tuples(cascades | fusions, views).map(lambda pair: pair[0][: pair[1]])


nests = st.recursive(st.tuples(leaves, views).map(lambda pair: pair[0][: pair[1]]), composites, max_leaves=6)


@settings(max_examples=100)
@given(nests, candidates, st.none() | st.integers(1, 5))
def test_every_candidate_survives_any_nesting(reranker, passages, top_k):
    reranker = Cascade([reranker], on_error="keep_order")
    before = copy.deepcopy(passages)
    full = reranker.rank("wheat rust", passages, top_k=max(1, len(passages)))
    assert sorted(hit.prior_rank for hit in full) == list(range(1, len(passages) + 1))
    assert all(hit.passage is passages[hit.prior_rank - 1] for hit in full)
    assert all(hit.prior_score == hit.passage.score for hit in full)
    assert [hit.rank for hit in full] == list(range(1, len(passages) + 1))
    assert all(hit.status == "unscored" or hit.score is not None for hit in full)
    assert all((item.embedding == old.embedding).all() for item, old in zip(passages, before, strict=True))
    assert passages == before
    view = reranker.top_k if top_k is None else top_k
    assert reranker.rank("wheat rust", passages, top_k=top_k).hits == full.hits[:view]
    if full.status != "fallback":
        last = [hit.prior_rank for hit in full if not hit.text.replace("\x00", "").strip()]
        assert [hit.prior_rank for hit in full.hits[len(full) - len(last) :]] == last == sorted(last)


@settings(max_examples=30)
@given(nests, st.lists(candidates, max_size=3))
def test_many_at_once_equals_one_by_one(reranker, lists):
    reranker = Cascade([reranker], on_error="keep_order")
    together = reranker.rank_many([("wheat rust", passages) for passages in lists])
    assert [r.hits for r in together] == [reranker.rank("wheat rust", passages).hits for passages in lists]


@settings(max_examples=40)
@given(candidates, st.integers(1, 6))
def test_a_cascade_equals_its_stages_by_hand(passages, cut):
    first, second = WordOverlap(), Length()
    whole = (first[:cut] | second).rank("wheat rust", passages)
    stage_one = [hit for hit in first.rank("wheat rust", passages) if hit.text.replace("\x00", "").strip()]
    let_through = [hit.passage for hit in stage_one[:cut]]
    stage_two = second.rank("wheat rust", let_through)
    expected = [stage_one[hit.prior_rank - 1].prior_rank for hit in stage_two]
    expected += [hit.prior_rank for hit in stage_one[cut:]]
    count = len(stage_one)
    assert [hit.prior_rank for hit in whole][:count] == expected
    assert [hit.score for hit in whole][: len(let_through)] == [hit.score for hit in stage_two]
    assert all(hit.score is None and hit.status == "unscored" for hit in whole[len(let_through) : count])


FIVE = [Passage(name, f"text {name}", score=1.0) for name in "abcde"]


def test_three_stages_each_see_what_the_one_before_lets_through():
    one, two, three = (
        Given({"a": 5, "b": 4, "c": 3, "d": 2, "e": 1}),
        Given({"a": 1, "b": 2, "c": 3, "d": 9}),
        Given({"c": 1, "d": 0}),
    )
    cascade = one[:4] | two[:2] | three[:1]
    ranking = cascade.rank("q", FIVE, top_k=5)
    assert ids(ranking) == ["c", "d", "b", "a", "e"]
    assert [hit.score for hit in ranking] == [1, 0, None, None, None]
    assert [hit.prior_score for hit in ranking] == [1.0] * 5
    assert [[(item.id, item.score) for item in stage.asked[0]] for stage in (one, two, three)] == [
        [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)],
        [("a", 5), ("b", 4), ("c", 3), ("d", 2)],
        [("d", 9), ("c", 3)],
    ]
    assert [len(stage) for stage in ranking.stages] == [5, 4, 2]
    assert (ranking.status, ranking.reason, ranking.scale) == ("scored", "", "table")
    assert ids(cascade.rank("q", FIVE)) == ["c"]


def test_pipes_flatten_and_views_survive():
    a, b, c = WordOverlap("a"), WordOverlap("b"), WordOverlap("c")
    for cascade in ((a[:30] | b[:10]) | c[:5], a[:30] | (b[:10] | c[:5])):
        assert [stage.model for stage in cascade.stages] == ["word-overlap:a", "word-overlap:b", "word-overlap:c"]
        assert [stage.top_k for stage in cascade.stages] == [30, 10, 5]
        assert cascade.top_k == 5
        assert cascade.model == "word-overlap:a[:30] | word-overlap:b[:10] | word-overlap:c[:5]"
    inner = (a | b[:10])[:20]
    assert [stage.top_k for stage in (inner | c).stages] == [None, 10, None]
    assert (b.top_k, inner.top_k, inner.stages[1].top_k) == (None, 10, 10)
    careful = Cascade([a, b], on_error="keep_order")
    assert (careful | c).stages == (careful, c)
    assert Cascade([a, b[:10]], top_k=3).top_k == 3


@settings(max_examples=40)
@given(candidates, views, views)
def test_flattening_changes_no_ranking(passages, inner_view, outer_view):
    inner = (WordOverlap()[:3] | Length()[:inner_view])[:outer_view]
    nested = Cascade([Cascade(inner.stages, on_error="keep_order")[:outer_view], WordOverlap("v2")])
    assert len(nested.stages) == 2
    assert (inner | WordOverlap("v2")).rank("rain", passages).hits == nested.rank("rain", passages).hits


def test_the_fingerprint_knows_stages_and_cuts_but_not_the_last_view():
    a, b = WordOverlap("a"), WordOverlap("b")
    prints = [r.fingerprint for r in (a[:5] | b, a[:6] | b, b[:5] | a, Fusion([a, b]), Fusion([a, b], method="rrf"))]
    assert len(set(prints)) == 5
    assert (a[:5] | b[:3]).fingerprint == (a[:5] | b).fingerprint
    assert Fusion([a, b], weights=(1, 2)).fingerprint != Fusion([a, b]).fingerprint


@pytest.mark.parametrize("parts", [[], ["dense"], [WordOverlap(), None], WordOverlap(), 5, None])
def test_composites_are_made_of_rerankers(parts):
    for composite in (Cascade, Fusion):
        with pytest.raises(InputError, match="at least one reranker"):
            composite(parts)


def test_usage_of_the_parts_adds_up_once():
    lists = [("wheat", ["wheat", "rust wheat", "rain"]), ("rain", ["rain", "sheep"])]
    cascade = WordOverlap()[:2] | Fusion([WordOverlap("x"), Length()]) | Prior()
    rankings = cascade.rank_many(lists)
    inner = [stage.usage for ranking in rankings for stage in ranking.stages]
    assert sum(ranking.usage.forward_passes for ranking in rankings) == 3
    assert sum(ranking.usage.forward_passes for ranking in rankings) == sum(usage.forward_passes for usage in inner)
    assert sum(ranking.usage.input_tokens for ranking in rankings) == sum(usage.input_tokens for usage in inner)


def test_cached_stages_say_so(tmp_path):
    cascade = WordOverlap(cache=tmp_path / "a.sqlite") | Length(cache=tmp_path / "b.sqlite")[:2]
    with cascade:
        cascade.rank("wheat", ["wheat", "rain"])
        warm = cascade.rank("wheat", ["wheat", "rain"])
    assert {hit.status for hit in warm} == {"cached"}
    assert (warm.usage.cache_hits, warm.usage.cache_misses) == (4, 0)


def test_an_expired_deadline_stops_between_stages_and_keeps_the_order_so_far():
    slow, second = Given({"a": 1, "b": 2, "c": 3}), WordOverlap("late")

    def dawdle(request, call):
        time.sleep(0.05)
        return slow.look_up(request, call)

    ranking = (Broken(dawdle)[:2] | second).rank("q", FIVE[:3], deadline_s=0.02)
    assert ids(ranking) == ["c", "b", "a"]
    assert ranking.status == "partial"
    assert ranking.reason == "the deadline passed before stage 2 (word-overlap:late)"
    assert all(hit.score is None and hit.status == "unscored" for hit in ranking)
    assert not second.seen
    kept = (Broken(dawdle) | SourceCap()).rank("q", FIVE[:3], deadline_s=0.02)
    assert (kept.status, [hit.score for hit in kept]) == ("partial", [3, 2, 1])


def test_the_deadline_reaches_into_a_stage():
    texts = [f"rain {i}" for i in range(40)]
    ranking = (Prior() | WordOverlap(delay=0.01)).rank("rain", texts, deadline_s=0.12)
    assert ranking.status == "partial"
    assert ranking.reason.startswith("stage 2 (word-overlap:v1): the deadline passed")
    assert 0 < sum(hit.status == "scored" for hit in ranking) < 40


def test_a_stage_that_fails_is_never_called_scored():
    bad, good = Broken(never, on_error="keep_order"), Given({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5})
    last = (good[:3] | bad).rank("q", FIVE)
    assert (last.status, ids(last)) == ("fallback", ["e", "d", "c", "b", "a"])
    assert last.reason == "stage 2 (broken): ModelError: out of order"
    assert all(hit.status == "unscored" for hit in last)
    first = (bad[:3] | good).rank("q", FIVE)
    assert (first.status, ids(first)) == ("partial", ["c", "b", "a", "d", "e"])
    with pytest.raises(ModelError):
        (good | Broken(never)).rank("q", FIVE)
    sourced = [passage.replace(metadata={"source": 1} if passage.id in "de" else {}) for passage in FIVE]
    behind = (good | bad | SourceCap(per=1)).rank("q", sourced)  # what failed hands on its input; mmr and co. go on
    assert (behind.status, ids(behind)) == ("fallback", ["e", "c", "b", "a", "d"])
    assert behind.reason == "stage 2 (broken): ModelError: out of order"
    whole = Cascade([good, Broken(never)], on_error="keep_order").rank("q", FIVE)
    assert (whole.status, ids(whole)) == ("fallback", list("abcde"))


def test_a_rearranging_last_stage_keeps_all_but_the_order():
    first = WordOverlap(window=10)[:4]
    texts = ["rain rain rain", "wheat rain rain", "rain rain rust", "rain wheat rust", "wheat rain rust", "sun"]
    passages = [Passage(str(i), text, metadata={"source": i // 3}) for i, text in enumerate(texts)]
    alone, capped = first.rank("wheat rust", passages, top_k=6), (first | SourceCap(per=1)).rank("wheat rust", passages)
    assert ids(alone) == ["1", "2", "3", "4", "0", "5"]
    assert ids(capped) == ["1", "3", "2", "4", "0", "5"]
    before, after = by_position(alone), by_position(capped)
    assert all((after[i].score, after[i].evidence) == (before[i].score, before[i].evidence) for i in before)
    assert (capped.scale, capped.status) == ("logit", "scored")


def test_evidence_and_truncation_come_from_the_last_stage_that_has_them():
    text = "rain rain.wheat rust.rain rain."
    short, full = WordOverlap(window=10, max_windows=2), Length()
    (hit,) = (short | full).rank("wheat rust", [text])
    assert [text[span.start : span.end] for span in hit.evidence] == ["wheat rust"]
    assert hit.truncated_tokens == 0
    (only,) = (short | SourceCap()).rank("wheat rust", [text])
    assert only.truncated_tokens == 3
    (cut,) = [hit for hit in (short[:1] | full).rank("wheat", ["wheat", text]) if hit.id == "1"]
    assert cut.truncated_tokens == 3


def test_empty_passages_carry_the_floor_through_composites():
    passages = ["", "wheat", "rain", " "]
    for reranker in (Prior() | WordOverlap(), Fusion([WordOverlap(), Length()]), MMR()):
        items = [Passage(str(i), text, embedding=np.eye(4)[i]) for i, text in enumerate(passages)]
        ranking = reranker.rank("wheat", items)
        assert ids(ranking) == ["1", "2", "0", "3"]
        assert [hit.status for hit in ranking] == ["scored", "scored", "unscored", "unscored"]
        assert ranking[2].score == ranking[3].score == ranking[1].score


def test_a_calibrated_stage_hands_its_probabilities_through():
    from rerankit.rerankers.calibration import Calibrator

    calibrator = Calibrator.fit([0.0, 0.0, 1.0, 2.0], [0, 0, 1, 1], reranker=WordOverlap())
    cascade = Length()[:2] | WordOverlap(calibrator=calibrator) | SourceCap()
    ranking = cascade.rank("wheat", ["wheat", "rain rain", "sun"])
    assert [hit.probability is not None for hit in ranking] == [True, True, False]
    assert len(ranking.above(0.5)) == 1
    assert len((Length() | cascade).stages) == 4


@given(st.lists(st.none() | st.floats(allow_nan=True), max_size=6))
def test_prior_keeps_the_order_whatever_the_scores(scores):
    passages = [Passage("x", "same", score=score) for score in scores]
    ranking = Prior().rank("q", passages)
    assert [hit.prior_rank for hit in ranking] == list(range(1, len(scores) + 1))
    usable = all(score is not None and np.isfinite(score) for score in scores)
    assert [hit.score for hit in ranking] == (scores if usable else [1 / rank for rank in range(1, len(scores) + 1)])
    assert (ranking.scale, ranking.model, ranking.status) == ("order", "none", "scored")


def test_z_scores_by_hand():
    one, two = Given({"a": 1, "b": 2, "c": 3}), Given({"a": 300, "b": 100, "c": 200})
    ranking = Fusion([one, two], weights=(3, 1)).rank("q", FIVE[:3])
    step = np.sqrt(1.5)
    assert {hit.id: hit.score for hit in ranking} == pytest.approx(
        {"a": (-3 * step + step) / 4, "b": -step / 4, "c": 3 * step / 4}
    )
    assert (ids(ranking), ranking.scale) == (["c", "b", "a"], "z-score")
    assert [stage.model for stage in ranking.stages] == ["given", "given"]


def test_exponentials_by_hand():
    one, two = Given({"a": 1, "b": 2, "c": 3}), Given({"a": 300, "b": 100, "c": 200})
    ranking = Fusion([one, two], method="exp", weights=(3, 1)).rank("q", FIVE[:3])
    up = np.exp(np.sqrt(1.5) / 2)
    assert {hit.id: hit.score for hit in ranking} == pytest.approx(
        {"a": (3 / up + up) / 4, "b": (3 + 1 / up) / 4, "c": (3 * up + 1) / 4}
    )
    assert ranking.scale == "exp"


def test_one_that_stands_out_counts_more():
    """One member is sure of b, the other, of more weight, finds c a little better than the rest."""
    sure = Given({"a": 0, "b": 9, "c": 0, "d": 0, "e": 0})
    lukewarm = Given({"a": 0, "b": 2, "c": 4, "d": 1, "e": 3})
    assert ids(Fusion([sure, lukewarm], weights=(1, 1.82)).rank("q", FIVE))[0] == "c"
    assert ids(Fusion([sure, lukewarm], method="exp", weights=(1, 1.82)).rank("q", FIVE))[0] == "b"


def test_reciprocal_ranks_by_hand():
    one, two = Given({"a": 3, "b": 2, "c": 1}), Given({"a": 0, "b": 9, "c": 8})
    ranking = Fusion([one, two[:2]], method="rrf", weights=[1, 2], k=10).rank("q", FIVE[:3])
    assert {hit.id: hit.score for hit in ranking} == pytest.approx(
        {"a": 1 / 11, "b": 1 / 12 + 2 / 11, "c": 1 / 13 + 2 / 12}
    )
    assert (ids(ranking), ranking.scale) == (["b", "c", "a"], "rrf")


scores_ = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8)


@given(scores_)
def test_scaling_is_finite_and_keeps_the_order(scores):
    array = np.array(scores)
    z, unit = z_scores(array), unit_scores(array)
    assert np.isfinite(z).all()
    assert ((unit >= 0) & (unit <= 1)).all()
    order = np.argsort(array)
    assert (np.diff(z[order]) >= 0).all()
    assert (np.diff(unit[order]) >= 0).all()
    assert abs(z.mean()) < 1e-9
    assert z.std() == pytest.approx(1) or not z.any()


@pytest.mark.parametrize("scores", [[3.0], [2.0, 2.0, 2.0], [0.1, 0.1, 0.1], [0.0, 0.0], [1e308] * 2])
def test_a_list_without_differences_is_all_zeros(scores):
    assert z_scores(np.array(scores)).tolist() == [0.0] * len(scores)
    assert unit_scores(np.array(scores)).tolist() == [1.0] * len(scores)


def test_the_largest_floats_do_not_overflow():
    assert z_scores(np.array([-1.7e308, 1.7e308])) == pytest.approx([-1, 1])
    assert unit_scores(np.array([-1.7e308, 0.0, 1.7e308])) == pytest.approx([0, 0.5, 1])


def test_scaling_of_nothing():
    assert len(z_scores(np.empty(0))) == len(unit_scores(np.empty(0))) == 0


@settings(max_examples=40)
@given(candidates, st.floats(0.1, 9), st.floats(-5, 5))
def test_a_member_may_use_any_unit(passages, slope, offset):
    class Other(WordOverlap):
        def score_pairs(self, pairs, call):
            return slope * super().score_pairs(pairs, call) + offset

    plain = Fusion([WordOverlap(), Length()]).rank("wheat rust", passages)
    other = Fusion([Other(), Length()]).rank("wheat rust", passages)
    before, after = by_position(plain), by_position(other)
    assert [after[i].score for i in after] == pytest.approx([before[i].score for i in after], abs=1e-6)


def test_what_a_member_left_unscored_counts_as_its_lowest():
    partial, full = Given({"a": 5, "b": 7, "c": np.nan}), Given({"a": 0, "b": 0, "c": 1})
    ranking = Fusion([partial, full]).rank("q", FIVE[:3])
    hits = {hit.id: hit.score for hit in ranking}
    z = z_scores(np.array([0.0, 0.0, 1.0]))
    assert hits == pytest.approx({"a": (-1 + z[0]) / 2, "b": (1 + z[1]) / 2, "c": (-1 + z[2]) / 2})
    assert (ranking.status, ranking.reason) == ("partial", "given: the deadline passed")
    assert all(hit.status == "scored" for hit in ranking)


def test_a_member_that_fails_is_left_out_and_named():
    bad, good = Broken(never, on_error="keep_order"), Given({"a": 1, "b": 2, "c": 3})
    ranking = Fusion([bad, good], weights=(9, 1)).rank("q", FIVE[:3])
    assert [hit.score for hit in ranking] == pytest.approx(z_scores(np.array([3.0, 2.0, 1.0])).tolist())
    assert (ranking.status, ranking.reason) == ("partial", "broken: ModelError: out of order")
    none = Fusion([bad, bad]).rank("q", FIVE[:3])
    assert (none.status, ids(none)) == ("fallback", ["a", "b", "c"])
    assert all(hit.score is None for hit in none)
    with pytest.raises(ModelError):
        Fusion([Broken(never), good]).rank("q", FIVE)


@pytest.mark.parametrize("method", ["z-score", "rrf"])
def test_a_member_of_weight_zero_has_no_vote(method):
    bad, good = Broken(never, on_error="keep_order"), Given({"a": 1, "b": 2, "c": 3})
    alone = Fusion([good, bad], weights=(0, 1), method=method).rank("q", FIVE[:3])
    assert (alone.status, ids(alone)) == ("fallback", ["a", "b", "c"])
    assert alone.reason == "broken: ModelError: out of order"
    assert {(hit.score, hit.status) for hit in alone} == {(None, "unscored")}
    some = Given({"a": 1, "b": 2, "c": np.nan})
    partly = Fusion([good, some], weights=(0, 1), method=method).rank("q", FIVE[:3])
    assert [(hit.id, hit.status) for hit in partly] == [("b", "scored"), ("a", "scored"), ("c", "unscored")]
    assert partly.status == "partial"
    silent = Given({"a": np.nan, "b": np.nan, "c": np.nan})
    nothing = Fusion([good, silent], weights=(0, 1), method=method).rank("q", FIVE[:3])
    assert (nothing.status, {hit.status for hit in nothing}) == ("partial", {"unscored"})


def test_a_member_that_comes_too_late_is_left_out_and_named():
    table = Given({"a": 1, "b": 2, "c": 3})

    def dawdle(request, call):
        time.sleep(0.05)
        return table.look_up(request, call)

    ranking = Fusion([Broken(dawdle), WordOverlap("late")]).rank("q", FIVE[:3], deadline_s=0.02)
    assert ids(ranking) == ["c", "b", "a"]
    assert (ranking.status, len(ranking.stages)) == ("partial", 1)
    assert ranking.reason == "the deadline passed before member 2 (word-overlap:late)"


def test_fusion_shows_the_first_evidence_and_counts_what_no_member_read():
    text = "rain rain.wheat rust.rain rain."
    short = WordOverlap(window=10, max_windows=2)
    (hit,) = Fusion([Length(), short]).rank("wheat rust", [text])
    assert hit.evidence == (Span(10, 20),)
    assert hit.truncated_tokens == 0
    (alone,) = Fusion([Prior(), short]).rank("wheat rust", [text])
    assert alone.truncated_tokens == 3


def test_fusing_with_the_first_stage():
    passages = [Passage("a", "rain", score=0.9), Passage("b", "wheat", score=0.8), Passage("c", "sun", score=0.1)]
    assert ids(Fusion([Prior(), WordOverlap()]).rank("wheat", passages)) == ["b", "a", "c"]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "borda"},
        {"k": 0},
        {"k": "x"},
        {"k": None},
        {"k": float("nan")},
        {"weights": (1,)},
        {"weights": (1, -1)},
        {"weights": (0, 0)},
        {"weights": (1, float("inf"))},
        {"weights": 1},
        {"weights": "ab"},
    ],
)
def test_wrong_fusion_options_are_refused(options):
    with pytest.raises(InputError):
        Fusion([WordOverlap(), Length()], **options)


def test_members_without_scores_of_their_own_need_ranks():
    with pytest.raises(InputError, match="Put it behind the fusion"):
        Fusion([WordOverlap(), SourceCap()])
    assert (
        Fusion([WordOverlap(), SourceCap()], method="rrf", weights=(2, 1)).rank("wheat", ["rain", "wheat"])[0].id == "1"
    )


def test_closing_a_composite_closes_its_parts(tmp_path):
    parts = [WordOverlap(cache=tmp_path / f"{i}.sqlite") for i in range(3)]
    with parts[0] | Fusion(parts[1:]) as cascade:
        cascade.rank("wheat", ["wheat"])
        assert all(part.cache._file._connection is not None for part in parts)
    assert all(part.cache._file._connection is None for part in parts)
