"""What a reranker is trained on and chosen by: lists of all sources of a run, none of them on both sides."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rerankit.models.encoder import TextEncoder
from rerankit.models.vector_cache import KeepsVectors
from rerankit.training.lists import TrainingList, read_lists, split_lists
from rerankit.training.lists_files import query_key
from rerankit.training.reader_examples import normalised, texts_of
from rerankit.training.retrieved import retrieved_lists

__all__ = ["ListSources", "Tell", "licence_of", "source_name", "train_and_dev"]

Tell = Callable[[str], None]


class ListSources(Protocol):
    """The part of a run's settings that says where lists come from."""

    @property
    def data(self) -> Sequence[str]:
        """What :func:`~rerankit.training.lists.read_lists` reads."""

    @property
    def dev(self) -> Sequence[str]:
        """The same, to choose the best weights by; empty: a tenth of the training queries."""

    @property
    def corpus(self) -> Path | None:
        """Passages for files that name them by id."""

    @property
    def count(self) -> int | None:
        """Most lists per source."""

    @property
    def dev_count(self) -> int | None:
        """The same of the dev data."""

    @property
    def depth(self) -> int:
        """First-stage passages per list of a collection."""

    @property
    def retrieve(self) -> bool:
        """Search the whole corpus of a collection, instead of taking its recorded results."""

    @property
    def first(self) -> int | None:
        """Of a larger corpus, search so many passages beside the relevant ones."""

    @property
    def exclude(self) -> Sequence[str]:
        """Collections of which no question and no passage may be trained on."""


def train_and_dev(
    run: ListSources, encoder: TextEncoder | None, vectors: KeepsVectors, seed: int, tell: Tell
) -> tuple[list[TrainingList], dict[str, list[TrainingList]]]:
    """Lists to train on, and dev lists by name; no query is in both.

    Args:
        run: where they come from.
        encoder: searches collections; needed only where that is asked for.
        vectors: keeps the vectors of their passages.
        seed: of all draws.
        tell: is told what takes long, and what was left out.

    Raises:
        InputError: a source cannot be read.
    """
    excluded = frozenset[str]().union(*map(texts_of, run.exclude))

    def read(source: str, count: int | None, split: str) -> list[TrainingList]:
        left_out = excluded if split == "train" else frozenset[str]()
        if encoder is not None and run.retrieve and Path(source).is_dir():
            tell(f"Searching the corpus of {source}")
            return retrieved_lists(
                source, encoder, vectors, depth=run.depth, count=count, split=split, exclude=left_out, first=run.first
            )
        found = read_lists(source, corpus=run.corpus, split=split, count=count, depth=run.depth, seed=seed, tell=tell)
        return _without(found, left_out)

    train = [item for one in run.data for item in read(one, run.count, "train")]
    if not run.dev:
        train, held_out = split_lists(train, 0.1, seed)
        return train, {"held out": [item for item in held_out if item.relevant][: run.dev_count]}
    dev: dict[str, list[TrainingList]] = {}
    for one in run.dev:
        found = read(one, run.dev_count, "test")
        dev[source_name(one, dev)] = [item for item in found if item.relevant]
    known = {query_key(item.query) for part in dev.values() for item in part}
    kept = [item for item in train if query_key(item.query) not in known]
    if len(kept) < len(train):
        tell(f"{len(train) - len(kept)} training lists ask what a dev list asks and are left out")
    return kept, dev


def _without(lists: Sequence[TrainingList], excluded: Collection[str]) -> list[TrainingList]:
    """The lists without excluded questions and passages; a list that is left with nothing to find is left out."""
    if not excluded:
        return list(lists)
    cut = [_cut(item, excluded) for item in lists if normalised(item.query) not in excluded]
    return [item for item in cut if item.relevant or (item.teacher is not None and item.passages)]


def _cut(item: TrainingList, excluded: Collection[str]) -> TrainingList:
    kept = [i for i, passage in enumerate(item.passages) if normalised(passage.text) not in excluded]
    return replace(
        item,
        passages=tuple(item.passages[i] for i in kept),
        grades=tuple(item.grades[i] for i in kept),
        teacher=None if item.teacher is None else tuple(item.teacher[i] for i in kept),
    )


def source_name(source: str, taken: Mapping[str, object] | None = None) -> str:
    """What to call a source; with a number where the name is taken."""
    name = Path(source).name.partition(".")[0] or "data"
    return name if name not in (taken or {}) else f"{name}-{len(taken or {}) + 1}"


def licence_of(source: str) -> str:
    """What the collection's own README says in a line ``Licence: ...``."""
    readme = Path(source).expanduser() / "README.md"
    found = re.search(r"(?m)^Licen[cs]e: *(.+)$", readme.read_text("utf-8")) if readme.is_file() else None
    return found[1].strip() if found else "not stated"
