"""What is to be labelled: candidates of a collection, pairs that people judged, or lists from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.evaluation.candidates import Candidates, from_run, retrieved
from rerankit.evaluation.datasets import Dataset
from rerankit.evaluation.formats import read_jsonl, read_run, text_field
from rerankit.evaluation.labels_file import Pool
from rerankit.types import Passage

__all__ = ["DENSE", "HYBRID", "JUDGED", "are_lists", "pools_of", "read_pools"]

DENSE, HYBRID, JUDGED = "dense", "hybrid", "judged"
"""Candidates from Chroma, by embedding alone or together with BM25; or the passages that people judged."""


def pools_of(
    dataset: Dataset,
    candidates: str = DENSE,
    *,
    depth: int = 20,
    store: str | Path | None = None,
    collection: str = "rerankit",
) -> list[Pool]:
    """Every question with its candidates, best first.

    Args:
        dataset: the questions and their corpus.
        candidates: ``dense``, ``hybrid``, ``judged``, the name of a run that came with the data, or a file with one.
        depth: most passages per question. Of judged ones an even draw, always the same.
        store: a Chroma store that is asked as it is; None builds one in memory.
        collection: in that store.

    Raises:
        InputError: there is no such run, or nothing to label.
        StoreError: the store cannot be used.
    """
    if candidates in (DENSE, HYBRID):
        found = _retrieved(dataset, depth, store or "memory", collection, hybrid=candidates == HYBRID)
    elif candidates == JUDGED:
        drawn = {query: sorted(grades, key=lambda p: _lot(query, p))[:depth] for query, grades in dataset.qrels.items()}
        found = _with_texts(dataset, drawn)
    elif candidates not in dataset.runs and Path(candidates).is_file():
        run = read_run(Path(candidates))
        found = _with_texts(dataset, {q: sorted(r, key=lambda p: -r[p])[:depth] for q, r in run.items()})
    else:
        found = from_run(dataset, candidates, depth)
    texts = dataset.questions
    pools = [Pool(query, texts[query].text, tuple(passages)) for query, passages in found.items() if passages]
    if not pools:
        raise InputError(f"No question of {dataset.name} has a passage to label among the candidates {candidates!r}")
    return pools


def _retrieved(dataset: Dataset, depth: int, store: str | Path, collection: str, *, hybrid: bool) -> Candidates:
    from rerankit.rag.chroma import ChromaRetriever

    with ChromaRetriever(store, collection=collection, hybrid=hybrid, fetch_k=depth) as retriever:
        if store == "memory":
            retriever.index(dataset.passages())
        return retrieved(dataset, lambda queries: retriever.retrieve_many(queries, k=depth))


def _with_texts(dataset: Dataset, chosen: Mapping[str, list[str]]) -> Candidates:
    known = {query: chosen[query] for query in dataset.questions if query in chosen}
    texts = {p.id: p for p in dataset.passages({name for names in known.values() for name in names})}
    return {query: [texts[name] for name in names if name in texts] for query, names in known.items()}


def _lot(query: str, passage: str) -> bytes:
    """A random number of its own for every pair, so that no grade is drawn more often than another."""
    return hashlib.sha256(f"{query}\0{passage}".encode("utf-8", "replace")).digest()


def are_lists(path: Path) -> bool:
    """Whether a file holds queries with their passages, and not questions over a corpus."""
    if not path.is_file():
        return False
    return any("passages" in row for _, row in islice(read_jsonl(path), 1))


def read_pools(path: Path, *, depth: int | None = None) -> list[Pool]:
    """Lists from jsonl: ``{"query", "passages": [text or {"id", "text", "title"}], "query_id" or "id"}``.

    Further fields are not looked at, so that one model's labels can be given to another. A query without an id gets one
    made from its text, a passage its position, from 0; lists with the same query and id are put together.

    Raises:
        InputError: a line is something else, or an id stands for two queries or, within a query, for two passages.
    """
    found: dict[str, tuple[str, dict[str, Passage]]] = {}
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        query = text_field(row, ("query", "question"), where)
        name = text_field(row, ("query_id", "id", "_id"), where, default=_identifier(query))
        known, passages = found.setdefault(name, (query, {}))
        if known != query or not query.strip():
            raise InputError(f"{where}: the query {name!r} is empty, or had another text before")
        for passage in islice(_passages(row, where), depth):
            if passages.setdefault(passage.id, passage) != passage:
                raise InputError(f"{where}: two passages of query {name!r} have the id {passage.id!r}")
    if not found:
        raise InputError(f"{path} holds no list")
    return [Pool(name, query, tuple(passages.values())) for name, (query, passages) in found.items()]


def _passages(row: Mapping[str, Any], where: str) -> Iterator[Passage]:
    items = row.get("passages")
    if not isinstance(items, list):
        raise InputError(f"{where}: 'passages' is a list of texts or of objects with 'text'")
    for place, item in enumerate(items):
        if isinstance(item, str):
            yield Passage(str(place), item)
        elif isinstance(item, Mapping):
            at = f"{where}, passage {place}"
            name = text_field(item, ("id", "_id"), at, default=str(place))
            yield Passage(name, text_field(item, ("text",), at), text_field(item, ("title",), at, default=""))
        else:
            raise InputError(f"{where}, passage {place}: expected a text or an object with 'text'")


def _identifier(text: str) -> str:
    return f"q-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
