"""Labelled lists to find retrieval heads with: a query, one relevant passage, and passages that are not.

From a test collection (see :mod:`rerankit.evaluation.datasets`), or from a jsonl file of
``{"query": ..., "positive": text, "negatives": [text, ...]}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rerankit.checks import check_whole
from rerankit.errors import InputError
from rerankit.evaluation.candidates import from_run
from rerankit.evaluation.datasets import Dataset, open_dataset
from rerankit.evaluation.formats import read_jsonl, text_field
from rerankit.types import Passage

__all__ = ["Example", "read_examples"]

POOL = 500
"""Passages of a collection without first-stage results among which the most similar wrong ones are looked for."""


@dataclass(frozen=True, slots=True)
class Example:
    """One list.

    Attributes:
        query: the question.
        passages: texts, in random order.
        relevant: the position of the right one.
    """

    query: str
    passages: tuple[str, ...]
    relevant: int


def read_examples(
    source: str | Path,
    *,
    count: int = 128,
    negatives: int = 31,
    split: str = "train",
    corpus: str | Path | None = None,
    seed: int = 0,
) -> list[Example]:
    """Labelled lists.

    Args:
        source: a test collection, or a jsonl file with ``positive`` and ``negatives``.
        count: most lists; drawn at random.
        negatives: wrong passages per list: of the first stage's results, else those most similar by BM25.
        split: of a collection with several.
        corpus: passages for a file of questions.
        seed: of the draw and the order of passages.

    Raises:
        InputError: the source cannot be read, or has no labelled question.
    """
    check_whole(0, seed=seed)
    check_whole(1, count=count, negatives=negatives)
    random = np.random.default_rng(seed)
    path = Path(source).expanduser()
    if path.is_file() and corpus is None:
        lists = list(_from_file(path, negatives))
    else:
        lists = list(_from_dataset(open_dataset(source, split=split, corpus=corpus), negatives, random))
    lists = [(query, right, wrong) for query, right, wrong in lists if wrong and query.strip() and right.strip()]
    if not lists:
        raise InputError(f"{source} has no question with a relevant passage and others beside it")
    chosen = random.permutation(len(lists))[:count]
    return [_example(lists[i], random) for i in sorted(chosen)]


def _example(labelled: tuple[str, str, list[str]], random: np.random.Generator) -> Example:
    query, right, wrong = labelled
    texts = [right, *wrong]
    order = random.permutation(len(texts))
    return Example(query, tuple(texts[i] for i in order), int(np.flatnonzero(order == 0)[0]))


def _from_file(path: Path, negatives: int) -> Iterator[tuple[str, str, list[str]]]:
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        if not all(isinstance(row.get(name, ""), str) for name in ("query", "question", "positive")):
            raise InputError(f"{where}: query and positive must be text")
        query, right = text_field(row, ("query", "question"), where), text_field(row, ("positive",), where)
        if not query.strip() or not right.strip():
            raise InputError(f"{where}: query and positive must hold text")
        yield query, right, _others(right, _texts(row, where))[:negatives]


def _texts(row: Mapping[str, Any], where: str) -> list[str]:
    value = row.get("negatives")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: 'negatives' is a list of texts")
    return value


def _others(right: str, wrong: Sequence[str]) -> list[str]:
    """The wrong passages without blank ones and copies of the right one."""
    return [text for text in wrong if text.strip() and text.strip() != right.strip()]


def _from_dataset(
    dataset: Dataset, negatives: int, random: np.random.Generator
) -> Iterator[tuple[str, str, list[str]]]:
    gold = {query: max(grades, key=lambda name: grades[name]) for query, grades in _relevant(dataset).items()}
    texts = {passage.id: passage for passage in dataset.passages(set(gold.values()))}
    found = _candidates(dataset, negatives, random)
    for query, name in gold.items():
        if name in texts:
            relevant = _relevant(dataset)[query]
            wrong = [_shown(passage) for passage in found.get(query, ()) if passage.id not in relevant]
            right = _shown(texts[name])
            yield dataset.questions[query].text, right, _others(right, wrong)[:negatives]


def _relevant(dataset: Dataset) -> dict[str, dict[str, int]]:
    positive = {query: {name: g for name, g in grades.items() if g > 0} for query, grades in dataset.qrels.items()}
    return {query: grades for query, grades in positive.items() if grades and query in dataset.questions}


def _candidates(dataset: Dataset, negatives: int, random: np.random.Generator) -> dict[str, list[Passage]]:
    """Per question, passages that a first stage finds: its recorded results, else BM25 over a sample of the corpus."""
    if dataset.runs:
        return from_run(dataset, next(iter(dataset.runs)), depth=4 * negatives)
    from rerankit.rerankers.lexical import Lexical

    everything = [passage for passage in dataset.passages() if passage.text.strip()]
    pool = [everything[i] for i in sorted(random.permutation(len(everything))[:POOL])]
    queries = list(_relevant(dataset))
    with Lexical(top_k=4 * negatives) as lexical:
        rankings = lexical.rank_many([(dataset.questions[query].text, pool) for query in queries])
    return {query: ranking.passages for query, ranking in zip(queries, rankings, strict=True)}


def _shown(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text
