"""The machines that the reranker families run on."""

from __future__ import annotations
