"""The reranker families: how is this list ordered?"""

from __future__ import annotations
