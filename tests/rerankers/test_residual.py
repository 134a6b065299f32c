"""A base ranking and its correction: what the score is, and what stays as the contract wants it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_adapter import save_adapter
from tiny_models import WORDS, save_cross_encoder

import rerankit
from rerankit.errors import InputError, ModelError, SpecError
from rerankit.evaluation.sharing import Memo, share
from rerankit.models import shipped
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.rerankers.residual import Residual
from rerankit.rerankers.scaling import z_scores

QUERY = "how deep to sow maize"
TEXTS = [
    "the cow in the dry season",
    "sow maize deep",
    "maize",
    "how deep is the water",
    "rust in the soil",
    "to sow in the dry soil is how maize",
]
CPU = {"backend": "torch", "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("residual")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANKIT_CACHE", str(folder / "cache"))
        yield save_adapter(folder)


@pytest.fixture(scope="module")
def reranker(made):
    place, base = made
    with Residual(place, encoder=base, depth=len(TEXTS), **CPU) as reranker:
        yield reranker


def by_text(ranking):
    return {hit.text: hit.score for hit in ranking}


def logits(reranker, query, texts):
    return by_text(reranker.cross.rank(query, texts))


def test_the_score_is_that_of_the_base_and_the_logit(reranker):
    base = by_text(rerankit.load("lexical").rank(QUERY, TEXTS))
    z = z_scores(np.array([base[text] for text in TEXTS]))
    logit = logits(reranker, QUERY, TEXTS)
    ranking = reranker.rank(QUERY, TEXTS)
    assert by_text(ranking) == {text: pytest.approx(z[i] + logit[text] / 2) for i, text in enumerate(TEXTS)}
    assert [hit.score for hit in ranking] == sorted((hit.score for hit in ranking), reverse=True)
    assert ranking.scale == "z-score"
    assert ranking.status == "scored"
    assert [stage.model for stage in ranking.stages] == [one.model for one in reranker.members]


def test_what_is_not_read_counts_as_the_lowest_logit_and_stays_behind(made):
    place, base = made
    with Residual(place, encoder=base, **CPU) as reranker:
        ranking = reranker.rank(QUERY, TEXTS)
    prior = [hit.text for hit in rerankit.load("lexical").rank(QUERY, TEXTS)]
    assert {hit.text for hit in ranking[:4]} == set(prior[:4])
    assert [hit.text for hit in ranking[4:]] == prior[4:]
    assert all(hit.score is not None for hit in ranking)
    assert sum(hit.status == "unscored" for hit in ranking.stages[1]) == 2


def test_without_a_base_the_logit_is_the_score(made):
    place, base = made
    with Residual(place, encoder=base, residual="none", **CPU) as reranker:
        ranking = reranker.rank(QUERY, TEXTS)
        assert by_text(ranking) == pytest.approx(logits(reranker, QUERY, TEXTS))
    assert ranking.scale == "logit"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join), min_size=1, max_size=6),
       st.randoms(use_true_random=False))  # fmt: skip
def test_the_order_of_the_input_does_not_matter_and_equals_are_equal(reranker, texts, random):
    mixed = random.sample(texts, len(texts))
    one, two = reranker.rank("dry soil", texts), reranker.rank("dry soil", mixed)
    assert sorted(hit.prior_rank for hit in one) == list(range(1, len(texts) + 1))
    assert by_text(one) == {text: pytest.approx(score, abs=1e-4) for text, score in by_text(two).items()}
    for hit in one:
        assert hit.score == pytest.approx(by_text(one)[hit.text], abs=1e-6)


def test_a_query_longer_than_the_window_is_read_in_its_beginning(reranker):
    ranking = reranker.rank("sow maize " * 60, TEXTS)
    assert ranking.status == "scored"


def test_when_time_is_up_before_the_correction_the_base_is_the_answer(made):
    place, base = made
    with Residual(place, encoder=base, **CPU) as reranker:
        prior = rerankit.load("lexical").rank(QUERY, TEXTS)
        reranker.cross.score_pairs = None  # must not be called
        inner = reranker.members[0]
        rank = inner.rank_whole
        inner.rank_whole = lambda lists, deadline, cancelled=None: rank(lists, None, cancelled)
        ranking = reranker.rank(QUERY, TEXTS, deadline_s=1e-9)
    assert [hit.text for hit in ranking] == [hit.text for hit in prior]
    assert ranking.status == "partial"
    assert "deadline" in ranking.reason


def test_an_experiment_may_share_its_parts(reranker):
    memo = Memo()
    assert by_text(share(reranker, memo).rank(QUERY, TEXTS)) == by_text(reranker.rank(QUERY, TEXTS))


def test_the_fingerprint_names_what_the_score_depends_on(made, reranker):
    place, base = made
    with Residual(place, encoder=base, **CPU) as other:
        assert other.fingerprint != reranker.fingerprint
        assert other.model == reranker.model


class TestSpec:
    def test_a_folder_of_either_kind(self, made, tmp_path):
        place, base = made
        with rerankit.load(f"cross-encoder:{place}[encoder={base},depth=3][:2]", **CPU) as reranker:
            assert isinstance(reranker, Residual)
            assert len(reranker.rank(QUERY, TEXTS)) == 2
        plain = save_cross_encoder(tmp_path / "plain")
        with rerankit.load(f"cross-encoder:{plain}", **CPU) as reranker:
            assert isinstance(reranker, CrossEncoder)

    def test_alone_it_is_the_shipped_one_checked(self, made, tmp_path, monkeypatch):
        place, base = made
        monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
        shutil.copytree(place, tmp_path / "cross-encoder")
        shipped.seal("cross-encoder")
        with rerankit.load("lexical[:4] | cross-encoder[:2]", encoder=base, **CPU) as reranker:
            assert len(reranker.rank(QUERY, TEXTS)) == 2
        (tmp_path / "cross-encoder" / "config.json").write_text("{}")
        with pytest.raises(ModelError, match=r"not the published one.*pip install"):
            rerankit.load("cross-encoder", encoder=base)

    def test_without_shipped_weights_it_says_what_to_do(self, tmp_path, monkeypatch):
        monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
        with pytest.raises(ModelError, match="rerankit train cross-encoder"):
            rerankit.load("cross-encoder")

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"residual": "remote:http://evil.example"}, InputError, "residual"),
            ({"depth": 0}, InputError, "depth"),
            ({"max_tokens": 1000}, InputError, "max_tokens"),
            ({"revision": "main"}, SpecError, "revision"),
        ],
    )
    def test_options_out_of_range(self, made, options, error, message):
        place, base = made
        with pytest.raises(error, match=message):
            rerankit.load(f"cross-encoder:{place}", encoder=base, **options)

    def test_the_base_ranking_is_named_by_the_folder(self, made, tmp_path):
        place, base = made
        copy = shutil.copytree(place, tmp_path / "copy")
        config = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps({**config, "residual": "none"}))
        with rerankit.load(f"cross-encoder:{copy}", encoder=base, **CPU) as reranker:
            assert reranker.scale == "logit"
