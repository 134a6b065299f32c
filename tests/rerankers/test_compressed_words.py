"""Compressed with word matches: what enters beside the vectors, and that the laws hold with it too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import save_embedder

from rerankit.errors import InputError
from rerankit.models.encoder import TextEncoder
from rerankit.models.resrank import ResRank
from rerankit.models.resrank_files import ResRankConfig, save_resrank
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.compressed import Compressed
from rerankit.rerankers.dense import Dense
from rerankit.rerankers.lexical import Lexical
from rerankit.types import Passage

QUERY = "how deep to sow maize"
WORDS = ["maize", "soil", "water", "cow", "rust", "seed", "deep", "sow", "dry", "season", "the", "in"]

texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = save_embedder(tmp_path_factory.mktemp("models") / "tiny")
    encoder = TextEncoder(folder, device="cpu", dtype="float32", backend="torch")
    yield encoder
    encoder.close()


def saved(folder, encoder, noise):
    config = ResRankConfig(encoder.model_id, encoder.dim, width=16, layers=1, heads=2, words=True, score_residual=True)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = ResRank(config)
        for parameter in module.parameters():
            parameter.data += noise * torch.randn_like(parameter)
    return save_resrank(module, folder)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, encoder):
    return saved(tmp_path_factory.mktemp("models") / "untrained", encoder, 0.0)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory, encoder):
    folder = saved(tmp_path_factory.mktemp("models") / "trained", encoder, 0.1)
    with Compressed(folder, encoder=encoder, vectors=VectorCache()) as reranker:
        yield reranker


def scores(ranking):
    return {hit.text: hit.score for hit in ranking}


def standard(found, many):
    values = np.array([found[text] for text in many])
    return np.zeros(len(many)) if values.std() < 1e-4 else (values - values.mean()) / values.std()


@given(texts)
@settings(max_examples=25, deadline=None)
def test_untrained_it_is_the_fusion_of_cosines_and_bm25(untrained, encoder, many):
    many, cache = list(dict.fromkeys(many)), VectorCache()
    found = scores(Compressed(untrained, encoder=encoder, vectors=cache).rank(QUERY, many))
    cosines = scores(Dense(encoder, vectors=cache).rank(QUERY, many))
    expected = standard(cosines, many) + np.log1p(np.exp(-0.7)) * standard(scores(Lexical().rank(QUERY, many)), many)
    np.testing.assert_allclose([found[text] for text in many], expected, atol=2e-3)


@given(texts, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_input_does_not_matter(reranker, many, random):
    reranker.rank(QUERY, many)
    expected = scores(reranker.rank(QUERY, many))
    assert scores(reranker.rank(QUERY, random.sample(many, len(many)))) == expected


def test_passages_of_one_vector_keep_their_own_words(reranker, encoder):
    vector = encoder.encode(["maize"])[0]
    passages = [
        Passage(str(i), text, embedding=vector, embedding_model=encoder.model_id)
        for i, text in enumerate(["sow maize deep", "the dry season"])
    ]
    first, second = reranker.rank(QUERY, passages)
    assert first.score != second.score


def test_a_list_of_equals_has_equal_scores(reranker):
    found = reranker.rank(QUERY, [Passage("a", "cow"), Passage("b", "cow")])
    assert found[0].score == found[1].score
    assert len(reranker.rank(QUERY, ["cow"])) == 1


def test_the_scale_says_what_the_scores_are(reranker):
    assert reranker.rank(QUERY, ["cow", "maize"]).scale == "z-score"


def test_words_are_needed_where_the_model_reads_them():
    module = ResRank(ResRankConfig("e", 8, width=8, layers=1, heads=2, words=True))
    unit = torch.nn.functional.normalize(torch.ones(1, 2, 8), dim=-1)
    with pytest.raises(InputError, match="words"):
        module(unit, torch.ones(1, 2, dtype=torch.bool), unit[:, 0], unit, torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_lists_without_any_spread_have_gradients(value):
    module = ResRank(ResRankConfig("e", 8, width=8, layers=1, heads=2, words=True))
    unit = torch.nn.functional.normalize(torch.ones(1, 3, 8), dim=-1)
    mask = torch.ones(1, 3, dtype=torch.bool)
    module(unit, mask, unit[:, 0], unit, mask, torch.full((1, 3), value)).sum().backward()
    found = [p.grad for p in module.parameters() if p.grad is not None]
    assert found
    assert all(bool(grad.isfinite().all()) for grad in found)
