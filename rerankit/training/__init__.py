"""Fit what rerankers use to the data at hand."""

from __future__ import annotations
