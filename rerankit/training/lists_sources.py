"""Where training lists come from: which reader a file or folder wants, and the passages that it names by id."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.evaluation.candidates import from_run
from rerankit.evaluation.datasets import Corpus, Dataset, open_dataset, read_corpus
from rerankit.evaluation.formats import read_jsonl
from rerankit.evaluation.labels_file import read_labels
from rerankit.training.clicks import PositionBias, from_clicks
from rerankit.training.lists_feedback import from_sqlite, is_sqlite
from rerankit.training.lists_files import HIGHEST, Draft, Judged, Row, from_judgements, from_lists, from_pairs
from rerankit.types import Passage

__all__ = ["drafts_of"]

_SHAPES = (
    "{query, positives, negatives}, {query, passages}, {query, id, grade}, {query, text, grade}, {query, grades}, "
    "{query, shown, clicked} or {id, question, relevant}"
)


def drafts_of(
    source: str | os.PathLike[str],
    *,
    corpus: str | Path | Corpus | None,
    split: str,
    depth: int,
    run: str | None,
    position_bias: PositionBias,
    tell: Callable[[str], None],
) -> list[Draft]:
    """Lists of a source, with passages in place of ids; see :func:`~rerankit.training.lists.read_lists`."""
    path = Path(source).expanduser()
    if not path.is_file():
        return list(_collection(open_dataset(str(source), split=split, corpus=corpus), depth, run, tell))
    if is_sqlite(path):
        return _looked_up(from_sqlite(path, position_bias, tell), path, corpus, tell)
    rows = ((f"{path}, line {number}", row) for number, row in read_jsonl(path))
    where, first = next(rows, ("", {}))
    if not where:
        raise InputError(f"{path} is empty: expected lines of {_SHAPES}")
    if "relevant" in first:
        return list(_collection(open_dataset(path, corpus=corpus), depth, run, tell))
    if "labeller" in first:
        labelled = ((str(path), row) for row in read_labels(path))  # what several calls found for a query, in one row
        return list(from_lists(labelled, path.name))
    read = _reader(first, where, position_bias)
    return _looked_up(read(itertools.chain([(where, first)], rows), path.name), path, corpus, tell)


def _reader(
    first: dict[str, Any], where: str, position_bias: PositionBias
) -> Callable[[Iterable[Row], str], Iterable[Draft]]:
    """The reader for lines like the first one."""
    if "passages" in first:
        return from_lists
    if "clicked" in first:
        return functools.partial(from_clicks, position_bias=position_bias)
    if {"grade", "grades", "helpful"} & set(first):
        return from_judgements
    if {"positives", "positive", "pos"} & set(first):
        return from_pairs
    raise InputError(f"{where}: has the keys {sorted(first)}; expected {_SHAPES}")


def _collection(dataset: Dataset, depth: int, run: str | None, tell: Callable[[str], None]) -> Iterator[Draft]:
    """Judged passages, best first, and first-stage results, which count as not relevant where nobody judged them."""
    for problem in dataset.problems:
        tell(f"{dataset.name}: {problem}")
    name = run if run is not None else next(iter(dataset.runs), None)
    found = from_run(dataset, name, depth) if name is not None else {}
    wanted = {passage for grades in dataset.qrels.values() for passage in grades}
    texts = {passage.id: passage for passage in dataset.passages(wanted)}
    for query, grades in dataset.qrels.items():
        passages = {passage.id: passage for passage in found.get(query, ())}
        passages |= {passage: texts[passage] for passage in grades if passage not in passages}
        judged = (Judged(p, float(min(max(grades.get(p.id, 0), 0), HIGHEST))) for p in passages.values())
        yield Draft(dataset.questions[query].text, tuple(judged), f"query {query!r}", dataset.name)


def _looked_up(
    drafts: Iterable[Draft], path: Path, corpus: str | Path | Corpus | None, tell: Callable[[str], None]
) -> list[Draft]:
    """The drafts with passages in place of ids; unknown ids are left out and counted."""
    drafts = list(drafts)
    asked = {item.passage: draft.where for draft in drafts for item in draft.judged if isinstance(item.passage, str)}
    if not asked:
        return drafts
    if corpus is None:
        name, where = next(iter(asked.items()))
        raise InputError(f"{where}: names passage {name!r} by id; say where the passages are: corpus=... (--corpus)")
    passages = corpus() if callable(corpus) else read_corpus(Path(corpus))
    known = {passage.id: passage for passage in passages if passage.id in asked}
    if lost := [name for name in asked if name not in known]:
        tell(
            f"{path}: {len(lost)} of {len(asked)} passage ids are not in the corpus and are left out, first {lost[0]!r}"
        )
    return [replace(draft, judged=tuple(_filled(draft.judged, known))) for draft in drafts]


def _filled(judged: Iterable[Judged], known: dict[str, Passage]) -> Iterator[Judged]:
    for item in judged:
        if not isinstance(item.passage, str):
            yield item
        elif item.passage in known:
            yield replace(item, passage=known[item.passage])
