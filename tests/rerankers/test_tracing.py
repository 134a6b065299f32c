from __future__ import annotations

import subprocess
import sys

import pytest
from families import WordOverlap
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture(scope="module")
def exporter():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def test_a_call_is_one_span_with_openinference_names(exporter):
    exporter.clear()
    WordOverlap().rank("wheat", ["rain", "wheat"], top_k=2)
    (span,) = exporter.get_finished_spans()
    attributes = dict(span.attributes)
    assert attributes["openinference.span.kind"] == "RERANKER"
    assert attributes["reranker.query"] == "wheat"
    assert attributes["reranker.model_name"] == "word-overlap:v1"
    assert attributes["reranker.top_k"] == 2
    assert attributes["reranker.input_documents.0.document.id"] == "0"
    assert attributes["reranker.output_documents.0.document.id"] == "1"
    assert attributes["reranker.output_documents.0.document.score"] == 1.0
    WordOverlap().rank("wheat", ["rain", "wheat", "hay"], top_k=1)
    cut = exporter.get_finished_spans()[-1].attributes
    assert "reranker.input_documents.2.document.id" in cut
    assert "reranker.output_documents.1.document.id" not in cut
    assert not any("content" in name for name in attributes)


def test_texts_are_traced_only_when_asked_for(exporter, monkeypatch):
    exporter.clear()
    monkeypatch.setenv("RERANKIT_TRACE_CONTENT", "1")
    WordOverlap().rank("wheat", ["wheat"])
    (span,) = exporter.get_finished_spans()
    assert span.attributes["reranker.output_documents.0.document.content"] == "wheat"


def test_a_failed_call_is_recorded(exporter):
    exporter.clear()

    class Failing(WordOverlap):
        def score_pairs(self, pairs, call):
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        Failing().rank("wheat", ["wheat"])
    (span,) = exporter.get_finished_spans()
    assert not span.status.is_ok


def test_without_opentelemetry_nothing_is_imported():
    code = "import sys; sys.path.insert(0, 'tests'); from families import WordOverlap\n"
    code += "WordOverlap().rank('wheat', ['wheat']); sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
