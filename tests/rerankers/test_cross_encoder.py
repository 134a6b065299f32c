"""The cross-encoder family, on a tiny real model."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import save_cross_encoder

from rerankit.errors import InputError
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.types import Passage

QUERY = "how deep to sow maize"
TEXTS = ["sow maize in soil", "water the cow", "rust", "the dry season is dry", "sow maize in soil", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_cross_encoder(tmp_path_factory.mktemp("models") / "tiny", positions=64)


@pytest.fixture(scope="module")
def reranker(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        with CrossEncoder(folder, device="cpu", dtype="float32") as loaded:
            yield loaded


def test_every_candidate_comes_back_once_in_order_of_score(reranker):
    ranking = reranker.rank(QUERY, TEXTS)
    assert sorted(hit.prior_rank for hit in ranking) == [1, 2, 3, 4, 5, 6]
    scored = [hit.score for hit in ranking if hit.status == "scored"]
    assert scored == sorted(scored, reverse=True)
    assert ranking.model.startswith("cross-encoder:tiny@")
    assert ranking.scale == "logit"
    assert ranking.usage.forward_passes == 1


def test_scores_are_the_encoders(reranker):
    ranking = reranker.rank(QUERY, TEXTS[:4])
    expected = reranker.encoder.score([(QUERY, text) for text in TEXTS[:4]])
    for hit in ranking:
        assert hit.score == pytest.approx(expected[hit.prior_rank - 1], abs=1e-5)


def test_the_title_is_read_before_the_text(reranker):
    titled = reranker.rank(QUERY, [Passage("a", "soil", title="maize")])[0]
    assert titled.score == pytest.approx(reranker.encoder.score([(QUERY, "maize soil")])[0], abs=1e-5)
    assert titled.score != pytest.approx(reranker.encoder.score([(QUERY, "soil")])[0], abs=1e-4)


def test_a_huge_title_leaves_room_for_the_text(reranker):
    first, second = reranker.rank(
        QUERY, [Passage("a", "soil water", title="maize " * 500), Passage("b", "cow rust", title="maize " * 500)]
    )
    assert first.score != second.score
    assert 400 < first.truncated_tokens == second.truncated_tokens < 500


def test_a_long_passage_is_read_in_windows_and_the_best_one_is_the_evidence(reranker):
    text = "water the cow . " * 20 + "sow maize deep in the soil . " + "rust is in the seed . " * 20
    (hit,) = reranker.rank(QUERY, [text])
    spans = reranker.encoder.windows(QUERY, text)
    scores = reranker.encoder.score([(QUERY, text[start:end]) for start, end in spans])
    assert len(spans) > 3
    assert hit.score == pytest.approx(scores.max(), abs=1e-5)
    assert (hit.evidence[0].start, hit.evidence[0].end) == spans[int(scores.argmax())]
    assert hit.truncated_tokens == 0


def test_windows_beyond_the_limit_are_counted_as_truncated(folder):
    with CrossEncoder(folder, backend="torch", device="cpu", max_windows=2) as reranker:
        (hit,) = reranker.rank(QUERY, ["soil " * 300])
    assert 150 < hit.truncated_tokens < 220


def test_a_query_without_room_is_an_input_error(reranker):
    with pytest.raises(InputError, match="shorten the query"):
        reranker.rank("maize " * 90, ["soil"])


def test_many_lists_give_the_scores_of_each_alone(reranker):
    requests = [(QUERY, TEXTS[:4]), ("dry season", TEXTS[2:]), ("rust", ["rust"])]
    for together, (query, texts) in zip(reranker.rank_many(requests), requests, strict=True):
        alone = reranker.rank(query, texts)
        assert [hit.prior_rank for hit in together] == [hit.prior_rank for hit in alone]
        np.testing.assert_allclose(
            [hit.score for hit in together if hit.score is not None],
            [hit.score for hit in alone if hit.score is not None],
            atol=1e-5,
        )


def test_the_cache_answers_the_second_time(folder, tmp_path):
    with CrossEncoder(folder, backend="torch", device="cpu", cache=tmp_path / "scores.sqlite") as reranker:
        first, second = reranker.rank(QUERY, TEXTS), reranker.rank(QUERY, TEXTS)
    assert [hit.score for hit in first] == [hit.score for hit in second]
    assert second.usage.forward_passes == 0
    assert second.usage.cache_hit_rate == 1.0


async def test_arank_gives_the_same(reranker):
    ranking = await reranker.arank(QUERY, TEXTS)
    assert [hit.prior_rank for hit in ranking] == [hit.prior_rank for hit in reranker.rank(QUERY, TEXTS)]


def test_hostile_passages_do_no_harm(reranker):
    texts = ["x" * 1_000_000, "[SEP] " * 1000, "\ud800 maize \x00", "soil"]
    ranking = reranker.rank(QUERY, texts)
    assert all(np.isfinite(hit.score) for hit in ranking)
