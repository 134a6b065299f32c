"""What the app is told when it starts, and what a visitor may ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["EXTRACTIVE", "Limits", "Settings"]

EXTRACTIVE = "best sentences (offline)"
"""Names the embedded writer, which every app has."""

RERANKERS = {
    "default": "default",
    "late-interaction": "late-interaction",
    "dense": "dense",
    "lexical": "lexical",
    "dense, then default": "dense[:20] | default",
    "default, then diverse": "default | mmr[:10]",
    "none (as retrieved)": "none",
}
"""What the menus hold unless the app is started with rerankers of its own; all run offline."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one visitor, and all of them together, may take.

    Attributes:
        question: characters of a question.
        depth: candidates per question.
        top_k: passages of a context.
        seconds: for one answer.
        file_bytes: of one uploaded file.
        files: per visitor.
        passages: per visitor, all files together.
        reading_s: for reading one file.
        libraries: visitors with documents at a time.
        library_s: seconds after which documents that nobody uses are deleted.
        running: questions that are worked on at a time, and as many uploads; the others wait in the queue.
        waiting: places in the queue.
        questions: that an experiment asks.
        corpus: passages of a dataset that experiments index.
        corpus_bytes: of a dataset's file of passages, unpacked.
    """

    question: int = 2000
    depth: int = 100
    top_k: int = 10
    seconds: float = 60.0
    file_bytes: int = 10 * 2**20
    files: int = 20
    passages: int = 2000
    reading_s: float = 30.0
    libraries: int = 50
    library_s: int = 3600
    running: int = 2
    waiting: int = 100
    questions: int = 40
    corpus: int = 20_000
    corpus_bytes: int = 200 * 10**6


@dataclass(frozen=True, slots=True)
class Settings:
    """The app's whole configuration.

    Attributes:
        rerankers: name -> spec; visitors choose among them. Only these may load models or call endpoints.
        writers: name -> chat model's spec (``URL#MODEL``); the embedded writer is always there.
        store: Chroma's folder or address; None asks the sample corpus.
        collection: in that store.
        runs: folder whose subfolders are runs of ``rerankit compare``; None shows none.
        datasets: name -> folder of a test collection that visitors may make small comparisons on; the sample corpus is
            always there.
        votes: jsonl file of the arena's votes; None keeps them in memory.
        limits: see :class:`Limits`.
    """

    rerankers: Mapping[str, str] = field(default_factory=lambda: dict(RERANKERS))
    writers: Mapping[str, str] = field(default_factory=dict)
    store: str | None = None
    collection: str = "rerankit"
    runs: Path | None = None
    datasets: Mapping[str, Path] = field(default_factory=dict)
    votes: Path | None = None
    limits: Limits = field(default_factory=Limits)
