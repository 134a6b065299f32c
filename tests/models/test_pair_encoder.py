"""Cross-encoders: the same scores as transformers, whatever the back end, batch, order and company."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WORDS, save_cross_encoder, save_embedder

from rerankit.errors import InputError, ModelError
from rerankit.models.batching import pad, plan
from rerankit.models.encoder import PairEncoder
from rerankit.models.meter import Meter

BACKENDS = ["torch", "onnxruntime", "openvino"]
TEXT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=70).map(" ".join)
QUERY = "how deep to sow maize"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-cross-encoder")


@pytest.fixture(scope="module")
def encoders(folder):
    return {backend: PairEncoder(folder, backend=backend, dtype="float32", device="cpu") for backend in BACKENDS}


def transformers_scores(folder, pairs, labels=slice(None)):
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = []
    for query, passage in pairs:
        one = tokenizer.encode(query, passage)
        with torch.inference_mode():
            output = model(torch.tensor([one.ids]), token_type_ids=torch.tensor([one.type_ids]))
        rows.append(output.logits[0].double().numpy()[labels])
    return np.array(rows)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_are_those_of_transformers(encoders, folder, backend):
    pairs = [(QUERY, "sow maize in soil"), ("dry season", "water the cow"), (QUERY, "rust"), (QUERY, "")]
    found = encoders[backend].score(pairs)
    np.testing.assert_allclose(found, transformers_scores(folder, pairs)[:, 0], atol=1e-5)
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=10)
@given(passages=st.lists(TEXT, min_size=1, max_size=12), budget=st.sampled_from([1, 70, 400, 4000]), data=st.data())
def test_a_score_does_not_depend_on_batch_order_or_company(encoders, backend, passages, budget, data):
    encoder = encoders[backend]
    alone = np.concatenate([encoder.score([(QUERY, text)]) for text in passages])
    order = data.draw(st.permutations(range(len(passages))))
    encoder.engine.batch_tokens = budget
    together = encoder.score([(QUERY, passages[i]) for i in order])
    encoder.engine.batch_tokens = None
    np.testing.assert_allclose(together, alone[order], atol=1e-5, rtol=0)


def test_queries_share_a_batch(encoders):
    pairs = [(query, text) for text in ("water", "rust in maize") for query in ("soil", QUERY)]
    meter = Meter()
    found = encoders["openvino"].score(pairs, meter=meter)
    assert meter.forward_passes == 1
    np.testing.assert_allclose(found, [encoders["openvino"].score([pair])[0] for pair in pairs], atol=1e-5)


def test_only_the_passage_is_cut(encoders):
    encoder = encoders["openvino"]
    room = encoder.room(QUERY)
    assert room == encoder.max_tokens - 3 - 5
    words = ["soil"] * 100
    whole, cut = encoder.score([(QUERY, " ".join(words)), (QUERY, " ".join(words[:room]))])
    assert whole == pytest.approx(cut, abs=1e-5)


def test_a_query_that_fills_the_model_is_an_input_error(encoders):
    with pytest.raises(InputError, match="shorten the query"):
        encoders["openvino"].score([("maize " * 80, "soil")])
    with pytest.raises(InputError, match="shorten the query"):
        encoders["openvino"].windows("maize " * 80, "soil")


def test_windows_fit_beside_the_query(encoders):
    encoder = encoders["openvino"]
    text = "maize soil water " * 60
    spans = encoder.windows(QUERY, text, reserve=5)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    assert max(encoder.count_tokens([text[a:b] for a, b in spans])) <= encoder.room(QUERY) - 5
    start = encoder.beginning(text, 9)
    assert text.startswith(start)
    assert 5 <= encoder.count_tokens([start])[0] <= 9


def test_special_tokens_in_a_passage_do_not_end_it(encoders):
    honest, forged = encoders["openvino"].score([(QUERY, "rust ( sep ) maize"), (QUERY, "rust [SEP] maize")])
    assert np.isfinite([honest, forged]).all()
    (tokens,) = encoders["openvino"].engine.tokens.encode(["rust [SEP] maize"])
    assert 3 not in tokens.ids


def test_no_pairs_no_scores(encoders):
    assert encoders["openvino"].score([]).shape == (0,)


def test_threads_get_their_own_scores(encoders):
    encoder = encoders["openvino"]
    texts = ["soil " * n for n in range(1, 9)]
    expected = encoder.score([(QUERY, text) for text in texts])
    found = {}

    def work(i):
        for _ in range(5):
            found.setdefault(i, []).append(encoder.score([(QUERY, texts[i])])[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_allclose(found[i], expected[i], atol=1e-5)


def test_two_labels_give_the_log_odds_and_the_catalogue_may_say_otherwise(tmp_path):
    folder = save_cross_encoder(tmp_path / "two", labels=2)
    pairs = [(QUERY, "sow maize"), (QUERY, "cow")]
    logits = transformers_scores(folder, pairs)
    with PairEncoderContext(folder) as encoder:
        assert encoder.read_out == "difference"
        np.testing.assert_allclose(encoder.score(pairs), logits[:, 1] - logits[:, 0], atol=1e-5)
    folder.rename(tmp_path / "monoELECTRA_LCE")
    with PairEncoderContext(tmp_path / "monoELECTRA_LCE") as encoder:
        assert encoder.read_out == "second"
        np.testing.assert_allclose(encoder.score(pairs), logits[:, 1], atol=1e-5)


class PairEncoderContext:
    """A torch encoder that is closed afterwards."""

    def __init__(self, folder, **options):
        self.encoder = PairEncoder(folder, backend="torch", device="cpu", **options)

    def __enter__(self):
        return self.encoder

    def __exit__(self, *error):
        self.encoder.close()


def test_more_labels_are_refused(tmp_path):
    with pytest.raises(ModelError, match="3 labels"):
        PairEncoder(save_cross_encoder(tmp_path / "three", labels=3), backend="torch")


def test_a_missing_classifier_head_is_refused(tmp_path):
    folder = save_embedder(tmp_path / "embedder")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "LABEL_0"}}), "utf-8")
    for backend in BACKENDS:
        with pytest.raises(ModelError, match=r"model\.safetensors lacks the weights \['classifier\.bias'"):
            PairEncoder(folder, backend=backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_int8_keeps_the_order_of_clearly_different_scores(folder, encoders, backend):
    pairs = [(QUERY, " ".join(np.random.default_rng(i).choice(WORDS, 30))) for i in range(20)]
    exact = encoders["torch"].score(pairs)
    encoder = PairEncoder(folder, backend=backend, dtype="int8", device="cpu")
    rough = encoder.score(pairs)
    assert 0 < np.abs(rough - exact).max() < 0.3 * np.ptp(exact)
    assert np.corrcoef(rough, exact)[0, 1] > 0.97
    np.testing.assert_allclose(encoder.score(pairs, float32=True), exact, atol=1e-5)
    assert encoder.fingerprint != encoders[backend].fingerprint


def test_a_catalogued_frame_replaces_the_tokenizers_own(tmp_path):
    folder = save_cross_encoder(tmp_path / "Qwen3-Reranker-tiny-seq-cls", positions=512)
    with PairEncoderContext(folder) as encoder:
        tokenizer, frame = encoder.engine.tokens.tokenizer, encoder.engine.facts.frame
        (entry,) = encoder.entries([("sow", "maize")])
        ids = [*entry.head.ids, *entry.body, *entry.tail.ids]
        whole = f"{frame.prefix} sow{frame.middle} maize{frame.suffix}"
        assert ids == tokenizer.encode(whole, add_special_tokens=False).ids
        assert tokenizer.encode_special_tokens


def test_a_hundred_cached_passages_cost_the_host_under_a_millisecond(encoders):
    encoder = encoders["openvino"]
    pairs = [(QUERY, f"soil {' '.join(WORDS)} " * (1 + i % 3)) for i in range(100)]
    encoder.entries(pairs)
    misses = encoder.engine.tokens.misses

    def once():
        started = time.thread_time()  # the processor's time: other load does not count
        entries = encoder.entries(pairs)
        for batch in plan([entry.size() for entry in entries], 2048):
            pad([entries[i] for i in batch], 0)
        return time.thread_time() - started

    assert min(once() for _ in range(30)) < 0.001
    assert encoder.engine.tokens.misses == misses


def test_options_are_checked(folder):
    for options, message in [
        ({"backend": "tensorflow"}, "Unknown backend"),
        ({"dtype": "int4"}, "Unknown dtype"),
        ({"backend": "torch", "dtype": "int8"}, "not dtype='int8'"),
        ({"backend": "openvino", "device": "cuda"}, "needs backend='torch'"),
        ({"backend": "torch", "device": "cpu", "batch_tokens": 0}, "batch_tokens"),
        ({"backend": "torch", "device": "cpu", "max_tokens": 65}, "more than the 64"),
        ({"backend": "torch", "device": "cpu", "max_tokens": 3}, "leaves no room"),
    ]:
        with pytest.raises(InputError, match=message):
            PairEncoder(folder, **options)


def test_fingerprint_names_what_a_score_depends_on(folder, encoders):
    encoder = encoders["torch"]
    assert encoder.fingerprint == encoders["openvino"].fingerprint
    assert encoder.model_id.startswith("tiny-cross-encoder@")
    with PairEncoderContext(folder, max_tokens=32) as shorter:
        assert shorter.fingerprint != encoder.fingerprint
    assert encoder.activation == "sigmoid"


def test_a_closed_encoder_says_so(folder):
    encoder = PairEncoder(folder, backend="openvino")
    encoder.close()
    with pytest.raises(ModelError, match="has been closed"):
        encoder.score([("a", "b")])


def test_nonsense_is_an_input_error(tmp_path, encoders):
    with pytest.raises(InputError, match="read_out 'nonsense'"):
        PairEncoder(save_cross_encoder(tmp_path / "two", labels=2), backend="torch", read_out="nonsense")
    with pytest.raises(InputError, match="both strings"):
        encoders["torch"].score([(None, "x")])


def test_another_tokenizer_is_another_fingerprint(tmp_path, encoders):
    folder = save_cross_encoder(tmp_path / "tiny-cross-encoder")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text("utf-8") + " ", "utf-8")
    with PairEncoderContext(folder) as other:
        assert other.model_id == encoders["torch"].model_id
        assert other.fingerprint != encoders["torch"].fingerprint
