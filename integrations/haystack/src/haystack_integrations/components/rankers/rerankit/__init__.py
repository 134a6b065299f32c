"""rerankit for Haystack."""

from __future__ import annotations

from haystack_integrations.components.rankers.rerankit.ranker import RerankitRanker

__all__ = ["RerankitRanker"]
