"""Text vectors and token vectors, on every back end."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import WORDS, save_cross_encoder, save_embedder

from rerankit.errors import InputError, ModelError
from rerankit.models.encoder import Frame, TextEncoder
from rerankit.models.meter import Meter
from rerankit.models.text_vectors import encoder_fingerprint

BACKENDS = ["torch", "onnxruntime", "openvino"]
TEXTS = ["sow maize in soil", "", "water", "the dry season in soil", "cow " * 100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_embedder(tmp_path_factory.mktemp("models") / "tiny-embedder")


@pytest.fixture(scope="module")
def encoders(folder):
    return {backend: TextEncoder(folder, backend=backend, dtype="float32", device="cpu") for backend in BACKENDS}


def torch_states(folder, text):
    """Last-layer vectors by transformers, one text at a time."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(64)
    with torch.inference_mode():
        model = AutoModel.from_pretrained(folder).eval()
        return model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].numpy()


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_are_the_normalised_means(encoders, folder, backend):
    means = np.array([torch_states(folder, text).mean(axis=0) for text in TEXTS])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    found = encoders[backend].encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=6)
@given(st.lists(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join), min_size=1, max_size=8))
def test_a_vector_does_not_depend_on_its_company(encoders, backend, texts):
    encoder = encoders[backend]
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("pooling", "row"), [("cls", 0), ("last", -1)])
def test_other_poolings_come_from_the_checkpoints_files(tmp_path, pooling, row):
    folder = save_embedder(tmp_path / "model", pooling=pooling)
    encoder = TextEncoder(folder, backend="torch", device="cpu")
    vector = torch_states(folder, TEXTS[0])[row]
    np.testing.assert_allclose(encoder.encode(TEXTS[:1])[0], vector / np.linalg.norm(vector), atol=1e-5)


def test_what_would_silently_be_left_out_is_refused(tmp_path):
    with pytest.raises(ModelError, match="pools by"):
        TextEncoder(save_embedder(tmp_path / "max", pooling="max"), backend="torch")
    folder = save_embedder(tmp_path / "dense")
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    modules.append({"path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    with pytest.raises(ModelError, match="Dense"):
        TextEncoder(folder, backend="torch")


def test_states_and_vectors_come_from_one_pass(encoders, folder):
    meter = Meter()
    states, vectors = encoders["openvino"].states_and_vectors(TEXTS[:4], meter=meter)
    assert meter.forward_passes == 1
    np.testing.assert_allclose(vectors, encoders["openvino"].encode(TEXTS[:4]), atol=1e-6)
    for text, state in zip(TEXTS, states, strict=False):
        np.testing.assert_allclose(state.vectors, torch_states(folder, text), atol=1e-4)
        assert state.special.tolist() == [True, *[False] * (len(state) - 2), True]
        words = [text[start:end] for start, end in state.offsets[~state.special]]
        assert words == text.split()
        assert (state.offsets[state.special] == 0).all()


def test_prompts_are_part_of_the_input_but_not_of_the_text(folder):
    encoder = TextEncoder(folder, backend="torch", device="cpu", query_prompt="sow: ")
    plain = encoder.encode(["sow: maize"], kind="passage")
    np.testing.assert_allclose(encoder.encode(["maize"], kind="query"), plain, atol=1e-6)
    (state,) = encoder.token_states(["maize rust"], kind="query")
    assert state.offsets[~state.special].tolist() == [[0, 5], [6, 10]]
    assert state.special.tolist() == [True, True, True, False, False, True]


def test_prompts_come_from_the_checkpoint_or_the_catalogue(tmp_path):
    folder = save_embedder(tmp_path / "my-e5-small")
    encoder = TextEncoder(folder, backend="torch", device="cpu")
    assert encoder.prompts == {"query": "query: ", "passage": "passage: "}
    own = {"prompts": {"query": "ask ", "document": "tell "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(own), "utf-8")
    encoder = TextEncoder(folder, backend="torch", device="cpu", query_prompt="")
    assert encoder.prompts == {"query": "", "passage": "tell "}


def test_frames_add_markers_and_expansion(encoders):
    encoder = encoders["openvino"]
    frame = Frame(marker_ids=(7,), expand_to=12, expand_id=4)
    (state,) = encoder.token_states(["maize soil"], kind="query", frame=frame)
    assert state.ids[:2].tolist() == [2, 7]
    assert state.ids[4] == 3
    assert state.ids[5:].tolist() == [4] * 7
    assert state.special.tolist() == [True, True, False, False, *[True] * 8]
    (plain,) = encoder.token_states(["maize soil"], frame=Frame(marker_ids=(7,)))
    # Unattended expansion leaves the text's own vectors alone; attended expansion does not.
    np.testing.assert_allclose(state.vectors[:5], plain.vectors, atol=1e-5)
    (seen,) = encoder.token_states(["maize soil"], frame=Frame((7,), 12, 4, attend=True))
    assert np.abs(seen.vectors[:5] - plain.vectors).max() > 1e-3
    (short,) = encoder.token_states(["maize " * 50], frame=Frame((7,), max_tokens=10))
    assert len(short) == 10


def test_progress_and_meter(encoders):
    done = []
    meter = Meter()
    encoders["torch"].encode(TEXTS, meter=meter, progress=done.append)
    assert sum(done) == len(TEXTS)
    assert meter.input_tokens == sum(min(n, 62) + 2 for n in encoders["torch"].count_tokens(TEXTS))
    assert meter.padded_tokens >= meter.input_tokens


def test_windows_leave_room_for_the_frame(encoders):
    encoder = encoders["torch"]
    text = "maize soil water " * 50
    spans = encoder.windows(text, reserve=10)
    assert max(encoder.count_tokens([text[a:b] for a, b in spans])) <= 64 - 2 - 10


def test_strings_only(encoders):
    with pytest.raises(InputError, match="sequence of strings"):
        encoders["torch"].encode("maize")
    with pytest.raises(InputError, match="sequence of strings"):
        encoders["torch"].encode([b"maize"])
    assert encoders["torch"].encode([]).shape == (0, 32)


def test_a_stated_length_is_kept(tmp_path):
    folder = save_embedder(tmp_path / "model")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16}', "utf-8")
    encoder = TextEncoder(folder, backend="torch", device="cpu")
    assert encoder.max_tokens == 16
    assert len(encoder.token_states(["cow " * 100])[0]) == 16


def test_a_cross_encoder_is_an_encoder_too(tmp_path):
    encoder = TextEncoder(save_cross_encoder(tmp_path / "model"), backend="torch", device="cpu")
    assert encoder.encode(["maize"]).shape == (1, 32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_weights_that_were_cut_short_are_named(tmp_path, backend, keep):
    folder = save_embedder(tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged.*download it again"):
        TextEncoder(folder, backend=backend, device="cpu")


@pytest.mark.parametrize(("name", "content"), [("config.json", "null"), ("tokenizer_config.json", "[1]")])
def test_files_that_hold_no_object_are_named(tmp_path, name, content):
    folder = save_embedder(tmp_path / "model")
    (folder / name).write_text(content, "utf-8")
    with pytest.raises(ModelError, match=f"{name} should hold a JSON object"):
        TextEncoder(folder, backend="torch", device="cpu")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = save_embedder(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"] |= {f"word{i}": 1000 + i for i in range(500)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ModelError, match="do not belong together"):
        TextEncoder(folder, backend="torch", device="cpu")


def test_broken_numbers_are_not_blamed_on_the_conversion(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = save_embedder(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: np.full_like(value, np.nan) for name, value in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="holds broken numbers"):
        TextEncoder(folder, backend="openvino", device="cpu")


@pytest.mark.parametrize("device", ["cdua", "cuda:99", "mps:3", 7])
def test_devices_that_do_not_exist_are_input_errors(folder, device):
    with pytest.raises(InputError, match=r"device.*cpu"):
        TextEncoder(folder, device=device)


@pytest.mark.parametrize(
    "options", [{"max_tokens": "12"}, {"max_tokens": 12.5}, {"batch_tokens": "7"}, {"pooling": "nonsense"}]
)
def test_options_of_a_wrong_kind_are_input_errors(folder, options):
    with pytest.raises(InputError, match=next(iter(options))):
        TextEncoder(folder, backend="torch", device="cpu", **options)


def test_an_unknown_kind_is_an_input_error(encoders):
    with pytest.raises(InputError, match="'zzz'"):
        encoders["torch"].encode(["maize"], kind="zzz")


def test_the_model_id_says_whether_the_caller_overruled_something(folder, encoders):
    usual = encoders["torch"].model_id
    options = {"pooling": "cls", "max_tokens": 32, "query_prompt": "ask: "}
    found = {TextEncoder(folder, backend="torch", device="cpu", **{k: v}).model_id for k, v in options.items()}
    assert len(found) == 3
    assert all(name.startswith(f"{usual}+") for name in found)
    assert TextEncoder(folder, backend="torch", device="cpu", pooling="mean", max_tokens=64).model_id == usual


def test_another_tokenizer_is_another_fingerprint(tmp_path, encoders):
    folder = save_embedder(tmp_path / "tiny-embedder")
    same = encoder_fingerprint(TextEncoder(folder, backend="torch", device="cpu"))
    assert same == encoder_fingerprint(encoders["torch"])
    path = folder / "tokenizer.json"
    path.write_text(path.read_text("utf-8") + " ", "utf-8")
    other = encoder_fingerprint(TextEncoder(folder, backend="torch", device="cpu"))
    assert other != encoder_fingerprint(encoders["torch"])
