"""The farm assistant: a corpus, a store on disk, a reranker and a memory, put together."""

from __future__ import annotations

from pathlib import Path

import rerankit
from rerankit.rag.agent import Assistant
from rerankit.rag.loading import load
from rerankit.samples import farm

FOLDER = Path(".rerankit/farm-assistant")


def build(
    files: list[str] | None = None, *, folder: Path = FOLDER, rerank: str = "default", llm: str | None = None
) -> Assistant:
    """An assistant over ``files``, or over the sample corpus; its store and memory are kept in ``folder``."""
    passages = load(files).passages if files else farm.passages()
    retriever = rerankit.ChromaRetriever(folder / "store", hybrid=True)
    retriever.index(passages, prune=True)
    return Assistant(retriever, rerankit.load(rerank), llm=llm, memory=folder / "memory.sqlite")
