"""Does a reranker help here, and is the difference real: data, metrics, experiments, statistics, live tests."""

from __future__ import annotations
