from __future__ import annotations

import itertools
import json
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_models import adapter_tensors, save_reader
from tiny_models import save_cross_encoder

from rerankit.errors import InputError, ModelError
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.layout import Entry, Piece, piece
from rerankit.models.meter import Meter
from rerankit.models.span_decode import LONGEST, AnswerSpan, Found, decode
from rerankit.models.span_frame import QUESTION_TOKENS, TITLE_TOKENS, Window
from rerankit.models.span_net import load_net, merge, read_tensors
from rerankit.models.span_reader import MAX_WINDOWS, SpanReader
from rerankit.types import Passage

QUESTION = "how deep to sow maize"
TEXTS = ["sow the maize in dry soil", "water the cow", "in the dry season sow deep " * 8, "rust"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return save_reader(tmp_path_factory.mktemp("reader"), calibration={"slope": 0.5, "intercept": -1.0})


@pytest.fixture(scope="module")
def reader(folders):
    return SpanReader(folders[0], base=folders[1])


def copied(folders, tmp_path, **changes):
    return save_reader(tmp_path, base=find_checkpoint(folders[1]).digest, **changes)[0]


def test_a_span_is_a_piece_of_its_passage_and_none_overlap(reader):
    for text, reading in zip(TEXTS, reader.read(QUESTION, TEXTS), strict=True):
        assert reading.spans
        for span in reading.spans:
            assert text[span.start : span.end] == span.text
            assert span.text.strip()
        ordered = sorted((span.start, span.end) for span in reading.spans)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ordered))
        assert [span.score for span in reading.spans] == sorted((span.score for span in reading.spans), reverse=True)


def test_a_passage_answers_at_least_as_likely_as_its_best_span_says(reader):
    for reading in reader.read(QUESTION, TEXTS):
        assert reading.score >= reading.spans[0].score
        assert reading.probability == pytest.approx(1 / (1 + math.exp(-(0.5 * reading.score - 1.0))))


def test_without_calibration_the_probability_is_the_models_own(folders):
    plain = SpanReader(folders[0], base=folders[1], calibrated=False)
    [reading] = plain.read(QUESTION, TEXTS[:1])
    assert reading.probability == pytest.approx(1 / (1 + math.exp(-reading.score)))


def test_a_passage_reads_alike_in_any_company_and_order(reader, folders):
    alone = [reader.read(QUESTION, [text])[0] for text in TEXTS]
    together = reader.read(QUESTION, TEXTS[::-1])[::-1]
    narrow = SpanReader(folders[0], base=folders[1], batch_tokens=1).read(QUESTION, TEXTS)
    for one, two, three in zip(alone, together, narrow, strict=True):
        assert one.score == pytest.approx(two.score, abs=1e-4)
        assert one.score == pytest.approx(three.score, abs=1e-4)
        assert [span.text for span in one.spans] == [span.text for span in two.spans]


def test_the_same_twice_is_the_same(reader):
    assert reader.read(QUESTION, TEXTS) == reader.read(QUESTION, TEXTS)


def test_a_long_passage_is_read_in_windows_and_its_offsets_count_in_the_whole(reader):
    text = "the cow in the dry season " * 60 + "sow maize deep"
    meter = Meter()
    [reading] = reader.read(QUESTION, [text], keep=50, meter=meter)
    assert meter.input_tokens > 300
    assert max(span.end for span in reading.spans) > len(text) // 2
    assert all(text[span.start : span.end] == span.text for span in reading.spans)


def test_a_span_that_two_windows_saw_has_its_better_score(reader):
    better, worse = (AnswerSpan(100, 110, "3 to 5 cm.", score) for score in (8.0, -2.0))
    other = AnswerSpan(300, 310, "elsewhere.", 1.0)
    reading = reader._reading([Found((better,), 0.0, 8.0), Found((other, worse), 0.0, 1.0)], 5)
    assert reading.spans == (better, other)


def test_titles_are_read_and_never_quoted(reader):
    plain, titled = (reader.read(QUESTION, [Passage("a", TEXTS[0], title)])[0] for title in ("", "maize season"))
    assert plain.score != titled.score
    assert all(TEXTS[0][span.start : span.end] == span.text for span in titled.spans)


def test_hostile_passages_are_read(reader):
    texts = ["", " \n\t", "\x00\x01\x02", "[SEP] [CLS]", "\ud800 maize", "x" * 5000, "سلام 你好 🌱", "maize " * 3]
    readings = reader.read(QUESTION, texts)
    assert len(readings) == len(texts)
    assert readings[0].spans == readings[1].spans == ()
    assert readings[0].probability == 0.0
    assert readings[0].score == -math.inf
    assert all(math.isfinite(reading.score) for reading in readings[3:])


def test_of_a_huge_passage_the_beginning_is_read(reader):
    meter = Meter()
    [reading] = reader.read(QUESTION, ["sow the maize deep " * 55_000], meter=meter)
    assert reading.spans
    assert meter.input_tokens <= MAX_WINDOWS * 112


def test_a_very_long_question_leaves_room_for_the_passage(reader):
    [reading] = reader.read("maize " * 10_000, [Passage("a", "sow deep", "title " * 500)])
    assert reading.spans
    [window] = reader.frame.windows("maize " * 10_000, "sow deep", "water " * 500)
    assert window.first == 3 + QUESTION_TOKENS + TITLE_TOKENS - 1


@given(st.lists(st.text(max_size=80), max_size=4), st.text(min_size=1, max_size=40).filter(str.strip))
@settings(max_examples=25, deadline=None)
def test_any_text_gets_a_reading(reader, texts, question):
    for text, reading in zip(texts, reader.read(question, texts), strict=True):
        assert 0.0 <= reading.probability <= 1.0
        assert all(text[span.start : span.end] == span.text for span in reading.spans)


def test_threads_do_not_disturb_each_other(reader):
    expected = [reader.read(QUESTION, [text])[0].score for text in TEXTS]
    found: dict[int, float] = {}

    def work(i):
        found[i] = reader.read(QUESTION, [TEXTS[i % 4]])[0].score

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == pytest.approx(expected * 2, abs=1e-4)


@pytest.mark.parametrize("question", ["", "  ", None, 3])
def test_an_empty_question_is_refused(reader, question):
    with pytest.raises(InputError, match="question is empty"):
        reader.read(question, TEXTS)


def test_what_is_no_passage_is_refused(reader):
    with pytest.raises(InputError, match="int"):
        reader.read(QUESTION, [3])
    with pytest.raises(InputError, match="keep"):
        reader.read(QUESTION, TEXTS, keep=0)


def test_a_closed_reader_says_so(folders):
    closed = SpanReader(folders[0], base=folders[1])
    closed.close()
    with pytest.raises(ModelError, match="closed"):
        closed.read(QUESTION, TEXTS)


# Weights


def test_the_merged_weights_are_those_of_the_low_rank_formula(folders):
    net = load_net(find_checkpoint(folders[1]), headless=True)
    name = "bert.encoder.layer.1.intermediate.dense"
    before = net.get_submodule(name).weight.detach().clone()
    tensors = read_tensors(folders[0] / "model.safetensors")
    merge(net, tensors, 2.0)
    a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    assert np.allclose(net.get_submodule(name).weight.detach(), before + 2.0 * b @ a, atol=1e-6)
    assert np.allclose(net.qa_outputs.bias.detach(), tensors["base_model.model.qa_outputs.bias"])


def test_an_adapter_for_another_encoder_is_refused(folders, tmp_path):
    folder = copied(folders, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "base": "0" * 64}))
    with pytest.raises(ModelError, match="was made for an encoder with sha256 000000000000"):
        SpanReader(folder, base=folders[1])


def test_the_adapters_names_and_shapes_must_fit(folders, tmp_path):
    import torch

    good = adapter_tensors()
    head = "base_model.model.qa_outputs.weight"
    one = "base_model.model.bert.encoder.layer.0.output.dense.lora_"
    for changed, message in (
        ({**good, head: torch.zeros(2, 31)}, "fits no weight"),
        ({name: t for name, t in good.items() if name != f"{one}B.weight"}, "incomplete"),
        ({**good, "base_model.model.bert.embeddings.word_embeddings.weight": torch.zeros(2)}, "neither low-rank"),
        ({**good, head: torch.full((2, 32), math.nan)}, "not finite"),
    ):
        folder = tmp_path / message.replace(" ", "-")
        folder.mkdir()
        reader, base = save_reader(folder, tensors=changed)
        with pytest.raises(ModelError, match=message):
            SpanReader(reader, base=base)


def test_a_damaged_file_is_refused(folders, tmp_path):
    folder = copied(folders, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ModelError, match="cannot be read"):
        SpanReader(folder, base=folders[1])


@pytest.mark.parametrize(("name", "value"), [("scale", "much"), ("scale", None), ("max_tokens", math.inf)])
def test_damaged_settings_are_refused(folders, tmp_path, name, value):
    folder = copied(folders, tmp_path, **{name: value})
    with pytest.raises(ModelError, match=f"{name} should be a number"):
        SpanReader(folder, base=folders[1])


def test_logits_that_are_not_finite_are_refused(folders, tmp_path):
    tensors = adapter_tensors()
    tensors["base_model.model.qa_outputs.weight"][:] = 3e38
    base = find_checkpoint(folders[1]).digest
    reader = SpanReader(save_reader(tmp_path, tensors=tensors, base=base)[0], base=folders[1])
    with pytest.raises(ModelError, match="not finite"):
        reader.read(QUESTION, TEXTS)


def test_max_tokens_are_checked(folders):
    for wrong, message in ((4000, "more than the 128"), (20, "at least"), (0, "max_tokens")):
        with pytest.raises(InputError, match=message):
            SpanReader(folders[0], base=folders[1], max_tokens=wrong)


def test_any_question_answering_checkpoint_reads(tmp_path):
    from tiny_models import _save
    from transformers import BertForQuestionAnswering

    folder = _save(tmp_path / "qa", BertForQuestionAnswering, 0, 128)
    [reading] = SpanReader(folder).read(QUESTION, TEXTS[:1])
    assert TEXTS[0][reading.spans[0].start : reading.spans[0].end] == reading.spans[0].text


def test_a_checkpoint_without_a_span_head_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no span reader"):
        SpanReader(save_cross_encoder(tmp_path / "ce", positions=128))


# Decoding


def window_of(count: int, first: int = 2) -> Window:
    head = Piece(np.zeros(first, np.int32), np.zeros(first, np.int32))
    entry = Entry(head, np.ones(count, np.int32), 1, piece([3], 1))
    return Window(entry, first, np.stack([np.arange(count), np.arange(1, count + 1)], 1).astype(np.int32))


def test_decoding_finds_the_best_pair_by_brute_force():
    random = np.random.default_rng(0)
    for count in (1, 5, 60):
        logits = random.normal(size=(count + 3, 2)).astype(np.float32)
        found = decode(logits, window_of(count), "x" * count, 1)
        null = logits[0].sum()
        pairs = {
            (i, j): logits[2 + i, 0] + logits[2 + j, 1] for i in range(count) for j in range(i, min(count, i + LONGEST))
        }
        best = max(pairs, key=pairs.get)
        assert (found.spans[0].start, found.spans[0].end - 1) == best
        assert found.spans[0].score == pytest.approx(pairs[best] - null, abs=1e-5)
        assert found.null_score == pytest.approx(null, abs=1e-5)


def test_decoding_ignores_padding_and_the_question():
    logits = np.zeros((12, 2), np.float32)
    logits[1] = logits[9:] = 50.0
    found = decode(logits, window_of(6), "abcdef", 3)
    assert all(span.score == 0.0 for span in found.spans)
