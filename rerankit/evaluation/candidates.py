"""The candidates of an experiment: retrieved once, written down, the same for every arm and every resumed run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rerankit.errors import InputError
from rerankit.evaluation.datasets import Dataset
from rerankit.evaluation.formats import Run, read_jsonl
from rerankit.evaluation.runfolder import RunFolder
from rerankit.types import Passage

__all__ = ["Candidates", "Retrieve", "from_run", "obtain"]

Candidates = dict[str, list[Passage]]
"""Per query id, the candidates, best first."""

Retrieve = Callable[[Sequence[str]], Sequence[Sequence[Passage]]]
"""Queries in, candidates out."""


def from_run(dataset: Dataset, name: str, depth: int) -> Candidates:
    """Candidates from first-stage results that came with the data.

    Raises:
        InputError: the collection has no run of that name.
    """
    if name not in dataset.runs:
        raise InputError(f"{dataset.name} has no run {name!r}; it has {sorted(dataset.runs) or 'none'}")
    return _with_texts(dataset, _cut(dataset.runs[name], depth))


def obtain(folder: RunFolder, dataset: Dataset, find: Callable[[], Candidates]) -> Candidates:
    """The folder's candidates, found now if this is its first run."""
    path = folder.path / "candidates.jsonl"
    if path.is_file():
        return _read(folder, path, dataset)
    candidates = find()
    _write(folder, candidates)
    return candidates


def retrieved(dataset: Dataset, retrieve: Retrieve, *, batch: int = 64) -> Candidates:
    """Candidates of every question, asked in batches."""
    found: Candidates = {}
    questions = list(dataset.questions.values())
    for start in range(0, len(questions), batch):
        group = questions[start : start + batch]
        lists = retrieve([question.text for question in group])
        found |= {question.id: list(passages) for question, passages in zip(group, lists, strict=True)}
    return found


def _cut(run: Run, depth: int) -> Run:
    best = {query: sorted(results.items(), key=lambda item: -item[1])[:depth] for query, results in run.items()}
    return {query: dict(results) for query, results in best.items()}


def _with_texts(dataset: Dataset, run: Mapping[str, Mapping[str, float]]) -> Candidates:
    wanted = {passage for query in dataset.questions for passage in run.get(query, ())}
    texts = {passage.id: passage for passage in dataset.passages(wanted)}
    return {
        query: [texts[name].replace(score=score) for name, score in run.get(query, {}).items() if name in texts]
        for query in dataset.questions
    }


def _write(folder: RunFolder, candidates: Candidates) -> None:
    vectors = {p.id: p for passages in candidates.values() for p in passages if p.embedding is not None}
    if vectors:
        folder.path.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            folder.path / "candidates.npz",
            ids=np.array(list(vectors)),
            vectors=np.stack([np.asarray(p.embedding, np.float32) for p in vectors.values()]),
            models=np.array([p.embedding_model for p in vectors.values()]),
        )
    lines = [
        json.dumps({"query": query, "passages": [[passage.id, passage.score] for passage in passages]})
        for query, passages in candidates.items()
    ]
    folder.write("candidates.jsonl", "".join(line + "\n" for line in lines))


def _read(folder: RunFolder, path: Path, dataset: Dataset) -> Candidates:
    scores = {str(row["query"]): dict(row["passages"]) for _, row in read_jsonl(path)}
    if missing := [query for query in dataset.questions if query not in scores]:
        raise InputError(f"{path} has no candidates for query {missing[0]!r}; start the experiment in a new folder")
    candidates = _with_texts(dataset, scores)
    vectors = folder.path / "candidates.npz"
    if not vectors.is_file():
        return candidates
    with np.load(vectors, allow_pickle=False) as data:
        rows = zip(data["ids"].tolist(), data["vectors"], data["models"].tolist(), strict=True)
        known = {name: {"embedding": vector, "embedding_model": model} for name, vector, model in rows}
    return {query: [p.replace(**known.get(p.id, {})) for p in passages] for query, passages in candidates.items()}
