"""Test collections for experiments: named by whoever starts the app, opened when asked for, indexed once."""

from __future__ import annotations

import functools
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rerankit.demo.desk import sample_store
from rerankit.demo.settings import Limits, Settings
from rerankit.errors import InputError, RerankitError
from rerankit.evaluation.candidates import Candidates, retrieved
from rerankit.evaluation.datasets import Dataset, corpus_file, open_dataset, read_corpus
from rerankit.rag.chroma import ChromaRetriever
from rerankit.types import Passage

__all__ = ["SAMPLE", "Datasets", "Held", "Told"]

SAMPLE = "sample corpus"
"""Names the dataset that every app has."""

_READMES = ("README.md", "README.txt", "README")
_README_CHARACTERS = 65_536
_LICENCE_CHARACTERS = 200
_BATCH = 32

Told = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A dataset that has been opened.

    Attributes:
        dataset: all of its questions.
        judged: the same with only those that have a relevant passage, which an experiment asks.
        passages: how many there are.
        licence: what its README says of it; empty if nothing.
        retriever: over its passages, once they are indexed.
    """

    dataset: Dataset
    judged: Dataset
    passages: int
    licence: str
    retriever: ChromaRetriever

    def about(self) -> str:
        """It in a few sentences."""
        questions = self.dataset.questions.values()
        answers = sum(bool(question.answers) for question in questions)
        held = (
            f"{self.passages:,} passages, {len(questions):,} questions: {len(self.judged.questions):,} of them with "
            f"judged passages, {answers:,} with reference answers."
        )
        return f"{held} Licence, as its README says: {self.licence}" if self.licence else held


class Datasets:
    """All datasets of an app; what was read and indexed is kept until it ends.

    Args:
        settings: of the app.
    """

    def __init__(self, settings: Settings) -> None:
        self._folders: dict[str, Path | None] = {SAMPLE: None, **settings.datasets}
        self._limits = settings.limits
        self._held: dict[str, Held] = {}
        self._indexed: set[str] = set()
        # Apart, so that a dataset can be looked at while another one is indexed.
        self._opening, self._indexing = threading.Lock(), threading.Lock()

    @property
    def names(self) -> list[str]:
        """What visitors may choose."""
        return list(self._folders)

    def get(self, name: str) -> Held:
        """A dataset by its name, read if this is the first time.

        Raises:
            InputError: there is none of that name, or it cannot be used.
        """
        if name not in self._folders:
            raise InputError("Choose one of the datasets in the list.")
        with self._opening:
            if name not in self._held:
                self._held[name] = _opened(name, self._folders[name], self._limits)
            return self._held[name]

    def candidates(self, name: str, questions: int, depth: int, told: Told) -> tuple[Dataset, Candidates]:
        """A sample of the questions with what is retrieved for them; the passages are indexed the first time.

        Raises:
            InputError: see :meth:`get`.
        """
        held = self.get(name)
        with self._indexing:
            if name not in self._indexed:
                self._index(held, told)
                self._indexed.add(name)
        asked = held.judged.sample(questions)
        return asked, retrieved(asked, lambda queries: held.retriever.retrieve_many(queries, k=depth))

    def _index(self, held: Held, told: Told) -> None:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            told("Indexing passages, the first time only", min(done, held.passages), held.passages)

        advance(0)
        held.retriever.index(held.dataset.passages(), prune=True, batch=_BATCH, progress=advance)


def _opened(name: str, folder: Path | None, limits: Limits) -> Held:
    """Read a dataset; None is the sample."""
    try:
        dataset = open_dataset("farm") if folder is None else replace(_in_folder(folder, limits), name=name)
        judged = {query for query, grades in dataset.qrels.items() if max(grades.values(), default=0) > 0}
        if not judged:
            raise InputError("no question has a relevant passage among its passages, so there is nothing to compare by")
        asked = replace(dataset, questions={key: item for key, item in dataset.questions.items() if key in judged})
        passages = sum(1 for _ in dataset.passages())
        licence = _licence(folder) if folder is not None else ""
    except (RerankitError, OSError) as failure:
        # Where the folder is, is no visitor's business.
        reason = str(failure).replace(f"{folder}/", "").replace(str(folder), "its folder")
        raise InputError(f"The dataset {name!r} cannot be used: {reason}") from failure
    in_memory = f"demo-{secrets.token_hex(16)}"
    retriever = ChromaRetriever("memory", collection=in_memory) if folder is not None else sample_store()
    return Held(dataset, asked, passages, licence, retriever)


def _in_folder(folder: Path, limits: Limits) -> Dataset:
    return open_dataset(folder, corpus=functools.partial(_bounded, corpus_file(folder), limits))


def _bounded(path: Path, limits: Limits) -> Iterator[Passage]:
    for number, passage in enumerate(read_corpus(path, most_bytes=limits.corpus_bytes), 1):
        if number > limits.corpus:
            raise InputError(
                f"it has more than the {limits.corpus:,} passages that this app indexes. Run rerankit compare on it, "
                "and start the app with --runs to show the result"
            )
        yield passage


def _licence(folder: Path) -> str:
    """What follows the word in its README, on the same line or below."""
    readme = next((folder / name for name in _READMES if (folder / name).is_file()), None)
    if readme is None:
        return ""
    with readme.open(encoding="utf-8", errors="replace") as file:
        lines = iter(file.read(_README_CHARACTERS).splitlines())
    for line in lines:
        word, _, rest = line.strip(" \t#*_->").partition(":")
        if word.strip(" *_").casefold() in ("licence", "license"):
            below = next((other for other in map(str.strip, lines) if other), "")
            return (rest.strip(" *_") or below)[:_LICENCE_CHARACTERS]
    return ""
