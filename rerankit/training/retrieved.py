"""Training lists as retrieval would hand them over: the nearest passages of a collection's whole corpus."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from rerankit.errors import InputError
from rerankit.evaluation.datasets import Dataset, open_dataset
from rerankit.models.encoder import TextEncoder
from rerankit.models.text_vectors import text_vectors
from rerankit.models.vector_cache import KeepsVectors
from rerankit.training.lists import TrainingList
from rerankit.training.lists_files import HIGHEST
from rerankit.training.reader_examples import normalised
from rerankit.types import Passage

__all__ = ["retrieved_lists"]

_GROUP = 256


def retrieved_lists(
    source: str | Path,
    encoder: TextEncoder,
    vectors: KeepsVectors,
    *,
    depth: int = 100,
    count: int | None = None,
    split: str = "train",
    exclude: Collection[str] = frozenset(),
    first: int | None = None,
) -> list[TrainingList]:
    """The ``depth`` nearest passages of each judged question, with their grades; unjudged ones count as 0.

    Relevant passages that retrieval missed do not enter: a reranker never sees them either.

    Args:
        source: a test collection.
        encoder: searches the corpus; a text longer than it can read counts by its beginning.
        vectors: keeps the vectors of the corpus.
        depth: passages per list.
        count: most lists, spread evenly over the file.
        split: of a collection with several.
        exclude: from :func:`~rerankit.training.reader_examples.texts_of`: questions and passages to be left out.
        first: read no more than so many passages of the corpus beside the relevant ones, spread evenly over it.

    Raises:
        InputError: the source is no collection, or no question with a relevant passage is left.
    """
    dataset = open_dataset(source, split=split)
    relevant = {
        name: grades
        for name, grades in dataset.qrels.items()
        if max(grades.values()) > 0 and name in dataset.questions
    }  # fmt: skip
    kept = [name for name in relevant if normalised(dataset.questions[name].text) not in exclude]
    if count is not None and len(kept) > count:
        kept = [kept[i * len(kept) // count] for i in range(count)]
    corpus = _corpus(dataset, {p for name in kept for p in relevant[name]}, exclude, first)
    if not kept or not corpus:
        raise InputError(f"{source} has no question with a relevant passage that is not excluded")
    matrix = _matrix(corpus, encoder, vectors)
    lists = []
    for name in kept:
        question = dataset.questions[name].text
        query = encoder.encode([question], kind="query")[0]
        nearest = np.argsort(-(matrix @ query), kind="stable")[:depth]
        grades = [min(max(float(relevant[name].get(corpus[i].id, 0)), 0.0), HIGHEST) for i in nearest]
        if any(grades):
            passages = tuple(corpus[i].replace(embedding=matrix[i], embedding_model=encoder.model_id) for i in nearest)
            lists.append(TrainingList(question, passages, tuple(grades), source=dataset.name))
    return lists


def _corpus(dataset: Dataset, wanted: Collection[str], exclude: Collection[str], first: int | None) -> list[Passage]:
    everything = [passage for passage in dataset.passages() if passage.text.strip()]
    step = 1 if first is None else max(1, -(-len(everything) // first))
    kept = [passage for i, passage in enumerate(everything) if i % step == 0 or passage.id in wanted]
    return [passage for passage in kept if normalised(passage.text) not in exclude]


def _matrix(passages: list[Passage], encoder: TextEncoder, vectors: KeepsVectors) -> np.ndarray:
    texts = [f"{passage.title}\n{passage.text}" if passage.title else passage.text for passage in passages]
    parts = [text_vectors(encoder, texts[i : i + _GROUP], vectors) for i in range(0, len(texts), _GROUP)]
    return np.concatenate(parts)
