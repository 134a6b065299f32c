from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_models import save_reader

from rerankit.errors import InputError
from rerankit.models.embedded import embedder
from rerankit.models.span_reader import SpanReader
from rerankit.rag.context import Context, pack
from rerankit.rag.extractive import ABSTENTION, ExtractiveGenerator
from rerankit.rag.reader_answer import READ_FEATURES, shipped_reader, with_spans
from rerankit.rag.support import FEATURES, Calibration, statements
from rerankit.types import Hit, Passage

WHEAT = "Wheat is an old crop. Into moist soil, wheat is best sown 3 to 5 cm deep. Check the depth by digging."
SHEEP = "Footrot makes sheep lame. Pare the hoof and stand the sheep in zinc sulphate for fifteen minutes."
QUESTION = "How deep should I sow wheat?"


def context_of(*texts):
    named = [Passage(f"p{n}", text, f"Title {n}") for n, text in enumerate(texts, 1)]
    return pack([Hit(passage, n, 1.0 / n, n) for n, passage in enumerate(named, 1)])


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A real reader that knows nothing."""
    folder, base = save_reader(tmp_path_factory.mktemp("reader"))
    return SpanReader(folder, base=base)


@pytest.fixture(scope="module")
def context():
    return context_of(WHEAT, SHEEP)


def generator_for(reader, **options):
    calibration = Calibration(embedder().model_id, (4.0, 8.0, 1.0), -8.0, 0.2, reader.model_id)
    return ExtractiveGenerator(reader=reader, calibration=calibration, **options)


def test_without_weight_the_order_stays_and_features_are_added(reader, context):
    found = statements(QUESTION, context, embedder())
    read = with_spans(QUESTION, found, reader, weight=0.0)
    assert [s.text for s in read] == [s.text for s in found]
    for before, after in zip(found, read, strict=True):
        assert after.features[: len(FEATURES)] == before.features
        assert len(after.features) == len(READ_FEATURES)
        assert all(-1.0 <= value <= 1.0 for value in after.features[len(FEATURES) :])


def test_a_span_lies_in_its_sentence(reader, context):
    read = with_spans(QUESTION, statements(QUESTION, context, embedder()), reader)
    assert any(statement.span for statement in read)
    for statement in read:
        if statement.span:
            assert statement.start <= statement.span[0] < statement.span[1] <= statement.end


def test_spans_count_in_the_passage_also_where_the_block_is_cut(reader):
    passage = Passage("long", "Nothing of note happens here at all. " * 40 + WHEAT, "Wheat")
    context = pack([Hit(passage, 1, 1.0, 1)], budget=60)
    [block] = context.blocks
    assert block.is_cut
    for statement in with_spans(QUESTION, statements(QUESTION, context, embedder()), reader):
        if statement.span:
            assert block.start <= statement.span[0] < statement.span[1] <= block.end


def test_a_heavier_span_moves_its_sentence_up(reader, context):
    found = statements(QUESTION, context, embedder())
    read = with_spans(QUESTION, found, reader, weight=1000.0)
    passages = [Passage("p", block.text, block.passage.title) for block in context.blocks]
    readings = reader.read(QUESTION, passages, keep=8)
    spans = {(n, s.start, s.end): s.score for n, one in enumerate(readings, 1) for s in one.spans}
    likely = {(s.block.number, *s.span): s for s in read if s.span}
    assert likely[max(likely, key=lambda key: spans[key])] is read[0]


def test_the_answer_cites_the_sentence_and_keeps_the_span(reader, context):
    answer = generator_for(reader, floor=0.0).generate(QUESTION, context)
    assert not answer.abstained
    for citation in answer.citations:
        text = context.blocks[citation.number - 1].passage.text
        assert text[citation.start : citation.end] == citation.quote
        if citation.span:
            assert citation.start <= citation.span[0] < citation.span[1] <= citation.end
    assert json.dumps(answer.to_dict())


def test_below_the_floor_it_abstains_and_in_a_thread_it_says_the_same(reader, context):
    generator = generator_for(reader, floor=1.0)
    answer = generator.generate(QUESTION, context)
    assert answer.abstained
    assert answer.text.startswith(ABSTENTION)
    later = asyncio.run(generator.agenerate(QUESTION, context))
    assert (later.text, later.confidence) == (answer.text, answer.confidence)


def test_the_work_of_both_models_is_counted(reader, context):
    plain = ExtractiveGenerator(floor=0.0).generate(QUESTION, context).usage
    read = generator_for(reader, floor=0.0).generate(QUESTION, context).usage
    assert read.forward_passes > plain.forward_passes
    assert read.input_tokens > plain.input_tokens


def test_an_empty_context_needs_no_reader(reader):
    answer = generator_for(reader).generate(QUESTION, Context())
    assert answer.abstained
    assert answer.confidence == 0.0


def test_a_calibration_for_another_reader_is_refused(reader, context):
    calibration = Calibration(embedder().model_id, (4.0, 8.0, 1.0), -8.0, 0.2, "reader:other@0")
    generator = ExtractiveGenerator(reader=reader, calibration=calibration)
    with pytest.raises(InputError, match="calibrated for the reader 'reader:other@0'"):
        generator.generate(QUESTION, context)


def test_a_calibration_without_a_reader_does_not_go_with_one(reader):
    with pytest.raises(InputError, match="without a reader"):
        ExtractiveGenerator(reader=reader, calibration=Calibration.bundled())


def test_a_calibration_of_other_features_is_refused():
    with pytest.raises(InputError, match="must be for the features"):
        Calibration.from_dict({"features": list(FEATURES)}, READ_FEATURES)


@given(st.lists(st.text(max_size=60), min_size=1, max_size=3), st.text(min_size=1, max_size=30))
@settings(max_examples=15, deadline=None)
def test_any_text_gets_an_answer_or_an_abstention(reader, texts, question):
    answer = generator_for(reader).generate(question, context_of(*texts))
    assert answer.text


def test_the_shipped_reader_finds_the_words_and_knows_a_stranger():
    generator = ExtractiveGenerator(reader=True)
    assert generator.reader is shipped_reader()
    context = context_of(WHEAT, SHEEP)
    answer = generator.generate(QUESTION, context)
    citation = answer.citations[0]
    assert not answer.abstained
    assert "5 cm" in WHEAT[slice(*citation.span)]
    stranger = generator.generate("Who won the chess world championship in 1972?", context)
    assert stranger.abstained
    assert stranger.confidence < answer.confidence
