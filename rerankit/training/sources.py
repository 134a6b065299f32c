"""What a reranker is trained on and chosen by: lists of all sources of a run, none of them on both sides."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import rerankit
from rerankit.errors import InputError
from rerankit.models.encoder import TextEncoder
from rerankit.models.vector_cache import KeepsVectors
from rerankit.training.card import Source
from rerankit.training.lists import TrainingList, read_lists, split_lists
from rerankit.training.lists_files import query_key
from rerankit.training.reader_examples import normalised, texts_of
from rerankit.training.retrieved import retrieved_lists

__all__ = ["ListSources", "Sources", "Tell", "facts_of", "source_name", "source_rows", "train_and_dev"]

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a run reads, and what the card of its model says about it.

    Attributes:
        data: to train on: test collections or files.
        dev: the same, of other domains, to choose the best weights by.
        corpus: passages for files that name them by id.
        count: most lists (of a reader: answerable examples) per source.
        dev_count: the same of the dev data.
        exclude: collections of which no question and no passage may be trained on.
        command: that starts this run.
        licence: of the weights.
    """

    data: Sequence[str]
    _: KW_ONLY
    dev: Sequence[str] = ()
    corpus: Path | None = None
    count: int | None = None
    dev_count: int | None = 60
    exclude: Sequence[str] = ()
    command: str = ""
    licence: str = "apache-2.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSources(Sources):
    """Sources of lists, see :func:`~rerankit.training.lists.read_lists`.

    Without ``dev`` a tenth of all queries is dev, at most ``dev_count`` of them.

    Attributes:
        depth: first-stage passages per list of a collection.
        retrieve: search the whole corpus of a collection with the encoder, instead of taking its recorded results.
        first: of a larger corpus, search so many passages beside the relevant ones.
        vectors: where the encoder's vectors are kept: a file, or True for one in the user's cache folder.
        cache: folder that keeps scores of a teacher or base ranking; None for one in the run's.
    """

    depth: int = 100
    retrieve: bool = False
    first: int | None = None
    vectors: Path | bool = True
    cache: Path | None = None


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
        InputError: a source cannot be read, or nothing is left to train on.
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
    if not train:
        raise InputError("No list is left to train on: all ask or hold what is excluded (--exclude); name other data")
    if not run.dev:
        return _held_out(train, run.dev_count, seed)
    dev: dict[str, list[TrainingList]] = {}
    for one in run.dev:
        found = read(one, run.dev_count, "test")
        dev[source_name(one, dev)] = [item for item in found if item.relevant]
    known = {query_key(item.query) for part in dev.values() for item in part}
    kept = [item for item in train if query_key(item.query) not in known]
    if not kept:
        raise InputError(
            f"All {len(train)} training lists ask what a dev list asks and are left out: nothing is left to train on. "
            "Name dev data with other questions, or none (a tenth of the data is then held out)"
        )
    if len(kept) < len(train):
        tell(f"{len(train) - len(kept)} training lists ask what a dev list asks and are left out")
    return kept, dev


def _held_out(
    lists: Sequence[TrainingList], most: int | None, seed: int
) -> tuple[list[TrainingList], dict[str, list[TrainingList]]]:
    """A tenth of the queries with a relevant passage, at most ``most``, from all sources alike; and all other lists."""
    judged = [item for item in lists if item.relevant]
    if not judged:
        raise InputError("No list has a passage with a grade above 0 to measure by; name dev data that has (--dev)")
    share = 0.1 if most is None else min(0.1, most / len({query_key(item.query) for item in judged}))
    _, dev = split_lists(judged, share, seed)
    known = {query_key(item.query) for item in dev}
    return [item for item in lists if query_key(item.query) not in known], {"held out": dev}


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


def source_name(source: str, taken: Collection[str] = ()) -> str:
    """What to call a source; with a number where the name is taken."""
    name = Path(source).name.partition(".")[0] or "data"
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)


def facts_of(run: Sources, seed: int, **more: object) -> dict[str, Any]:
    """What the configuration of a trained model says about its training."""
    return {
        "data": [source_name(one) for one in run.data],
        "dev": [source_name(one) for one in run.dev],
        **more,
        "seed": seed,
        "rerankit": rerankit.__version__,
    }


def source_rows(run: Sources, chosen: str = "choice of the weights", sizes: Sequence[str] = ()) -> list[Source]:
    """The sources as the card lists them.

    Args:
        run: that read them.
        chosen: what the dev data served for.
        sizes: of the training data, one per source; may be left out.
    """
    uses = [(one, "training", size) for one, size in zip_longest(run.data, sizes, fillvalue="")]
    uses += [(one, chosen, "") for one in run.dev]
    return [Source(source_name(one), _licence(one), use, size) for one, use, size in uses]


def _licence(source: str) -> str:
    """What the collection's own README says in a line ``Licence: ...``."""
    readme = Path(source).expanduser() / "README.md"
    text = readme.read_text("utf-8", errors="replace") if readme.is_file() else ""
    found = re.search(r"(?m)^Licen[cs]e: *(.+)$", text)
    return found[1].strip() if found else "not stated"
