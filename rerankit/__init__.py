"""rerankit: the reranking layer of RAG.

    >>> import rerankit
    >>> ranking = rerankit.load("lexical").rank("wheat rust", ["Sheep shearing", "Rust on wheat leaves"])
    >>> ranking[0].text
    'Rust on wheat leaves'

Names are imported when they are first used, so that ``import rerankit`` is quick and brings no heavy package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerankit.errors import (
        BackendError,
        InputError,
        MissingExtraError,
        ModelError,
        RerankitError,
        SpecError,
        StoreError,
    )
    from rerankit.rag.chroma import ChromaRetriever, rerank_query_result
    from rerankit.rag.pipeline import RagPipeline
    from rerankit.rerankers.base import Reranker
    from rerankit.rerankers.cache import ScoreCache
    from rerankit.rerankers.calibration import Calibrator
    from rerankit.rerankers.compose import Cascade, Fusion
    from rerankit.rerankers.compressed import Compressed
    from rerankit.rerankers.listwise import Listwise
    from rerankit.rerankers.pairs import PointwiseReranker
    from rerankit.rerankers.pairwise import Pairwise
    from rerankit.spec import load
    from rerankit.types import Hit, Passage, Ranking, Span, Usage

__version__ = "0.1.0"

_HOME = {
    "rerankit.errors": ("BackendError InputError MissingExtraError ModelError RerankitError SpecError StoreError"),
    "rerankit.rag.chroma": "ChromaRetriever rerank_query_result",
    "rerankit.rag.pipeline": "RagPipeline",
    "rerankit.rerankers.base": "Reranker",
    "rerankit.rerankers.cache": "ScoreCache",
    "rerankit.rerankers.calibration": "Calibrator",
    "rerankit.rerankers.compose": "Cascade Fusion",
    "rerankit.rerankers.compressed": "Compressed",
    "rerankit.rerankers.listwise": "Listwise",
    "rerankit.rerankers.pairs": "PointwiseReranker",
    "rerankit.rerankers.pairwise": "Pairwise",
    "rerankit.spec": "load",
    "rerankit.types": "Hit Passage Ranking Span Usage",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [  # noqa: RUF022 (grouped for the reader)
    "load", "Reranker", "PointwiseReranker", "Cascade", "Fusion", "Calibrator", "ScoreCache", "Listwise",
    "Pairwise", "Compressed",
    "Passage", "Hit", "Ranking", "Span", "Usage",
    "ChromaRetriever", "rerank_query_result", "RagPipeline",
    "RerankitError", "SpecError", "MissingExtraError", "ModelError", "InputError", "BackendError", "StoreError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
