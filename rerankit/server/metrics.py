"""Counters and histograms for Prometheus, in a registry of each server's own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["CONTENT_TYPE_LATEST", "Metrics", "ModelMetrics"]

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What a server counts."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter("rerankit_requests_total", "Answers.", ["route", "method", "status"], registry=own)
        self.seconds = Histogram(
            "rerankit_request_seconds",
            "From the request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=own,
        )
        self.rankings = Counter(
            "rerankit_rankings_total", "Rankings by how they ended.", ["model", "status"], registry=own
        )
        self.gone = Counter("rerankit_disconnects_total", "Callers that did not wait for their answer.", registry=own)
        self._queue = Gauge("rerankit_queue_requests", "Requests that wait for the model.", ["model"], registry=own)
        self._batch = Histogram(
            "rerankit_batch_requests", "Requests per batch.", ["model"], buckets=_SIZES, registry=own
        )
        self._passages = Counter("rerankit_passages_total", "Passages that were ranked.", ["model"], registry=own)
        self._busy = Counter("rerankit_model_seconds_total", "Seconds that the model worked.", ["model"], registry=own)

    def of(self, model: str) -> ModelMetrics:
        """The recorder of one model's batches."""
        return ModelMetrics(self, model)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelMetrics:
    """What one model's batcher reports."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._depth = metrics._queue.labels(model)
        self._batch, self._passages = metrics._batch.labels(model), metrics._passages.labels(model)
        self._busy = metrics._busy.labels(model)

    def watch(self, depth: Callable[[], float]) -> None:
        """Ask ``depth`` whenever the metrics are read."""
        self._depth.set_function(depth)

    def __call__(self, *, requests: int, passages: int, seconds: float) -> None:
        """Count one batch."""
        self._batch.observe(requests)
        self._passages.inc(passages)
        self._busy.inc(seconds)
