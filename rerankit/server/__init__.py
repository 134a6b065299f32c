"""rerankit over a network: ``rerankit serve`` (HTTP)."""

from __future__ import annotations
