"""A whole comparison: data, candidates, experiment, results. What ``rerankit compare`` runs and ``explain`` reopens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerankit.errors import InputError
from rerankit.evaluation.candidates import Candidates, from_run, obtain, retrieved
from rerankit.evaluation.datasets import Corpus, Dataset, open_dataset
from rerankit.evaluation.metrics import DEFAULT_METRICS
from rerankit.evaluation.results import Results
from rerankit.evaluation.runfolder import RunFolder
from rerankit.evaluation.summary import read_summary

if TYPE_CHECKING:
    from rerankit.rag.chroma import ChromaRetriever

__all__ = ["DENSE", "HYBRID", "Plan", "reopen"]

DENSE, HYBRID = "dense", "hybrid"
"""Candidates from Chroma, by embedding alone or together with BM25; any other name is a run that came with the data."""

Stage = Callable[[str], None]
"""Told what is being done now."""


@dataclass(frozen=True)
class Plan:
    """What a run folder's results depend on, arms apart.

    Attributes:
        data: ``farm``, a folder, or a jsonl file of questions.
        corpus: passages of a file of questions.
        split: of a BEIR folder.
        candidates: ``dense``, ``hybrid``, or the name of a run.
        store: a Chroma store that is asked as it is; None builds one in the run folder.
        collection: in that store.
        depth: candidates per query.
        top_k: passages in a context.
        max_queries: take so many questions, evenly spread.
        generator: ``extractive``, a chat model's spec, or empty for no answers.
        judge: a chat model's spec, or empty.
        seed: of the order in which arms run.
    """

    data: str
    corpus: str | None = None
    split: str = "test"
    candidates: str = DENSE
    store: str | None = None
    collection: str = "rerankit"
    depth: int = 50
    top_k: int = 5
    max_queries: int | None = None
    generator: str = "extractive"
    judge: str = ""
    seed: int = 0

    def open(self) -> Dataset:
        """The questions that are asked, and their passages.

        Raises:
            InputError: the data cannot be read, or hold no judgement.
        """
        corpus: str | Corpus | None = self.corpus
        if corpus is None and self.store is not None and Path(self.data).expanduser().is_file():
            corpus = self._stored
        dataset = open_dataset(self.data, split=self.split, corpus=corpus).sample(self.max_queries)
        if not dataset.qrels:
            raise InputError(f"No question of {dataset.name} has a judged passage in its corpus: nothing to compare by")
        return dataset

    def begin(self, folder: RunFolder, dataset: Dataset) -> None:
        """Start the experiment in its folder, or go on with it.

        Raises:
            InputError: the folder holds another experiment, or the data have changed since.
        """
        places = {"data": self.data, "corpus": self.corpus, "store": self.store}
        absolute = {name: place and _absolute(place) for name, place in places.items()}
        folder.begin({**asdict(self), **absolute, "data_sha256": dataset.digest()})

    def find(self, folder: RunFolder, dataset: Dataset, stage: Stage = lambda _: None) -> Candidates:
        """The candidates: the folder's, or found now.

        Raises:
            InputError: there is no such run, or the store's passages are not those of the data.
            StoreError: the store cannot be used.
        """
        if self.candidates not in (DENSE, HYBRID):
            return obtain(folder, dataset, lambda: from_run(dataset, self.candidates, self.depth))
        return obtain(folder, dataset, lambda: self._retrieve(folder, dataset, stage))

    def _retrieve(self, folder: RunFolder, dataset: Dataset, stage: Stage) -> Candidates:
        with self._retriever(self.store or folder.path / "store") as retriever:
            if self.store is None:
                stage("Embedding the passages")
                retriever.index(dataset.passages())
            stage("Retrieving")
            found = retrieved(dataset, lambda queries: retriever.retrieve_many(queries, k=self.depth))
        if self.store is not None:
            _check_ids(found, dataset, self.store)
        return found

    @contextmanager
    def _retriever(self, store: str | Path) -> Iterator[ChromaRetriever]:
        from rerankit.rag.chroma import ChromaRetriever

        hybrid = self.candidates == HYBRID
        with ChromaRetriever(store, collection=self.collection, hybrid=hybrid, fetch_k=self.depth) as retriever:
            yield retriever

    def _stored(self) -> Iterator[Any]:
        with self._retriever(str(self.store)) as retriever:
            yield from retriever.passages()


def _absolute(name: str) -> str:
    special = name == "farm" or name.startswith(("http://", "https://"))
    return name if special else str(Path(name).expanduser().resolve())


def _check_ids(found: Candidates, dataset: Dataset, store: str) -> None:
    """Ids that the corpus does not have could never be judged."""
    ids = {passage.id for passages in found.values() for passage in passages}
    known = {passage.id for passage in dataset.passages(ids)}
    if unknown := sorted(ids - known):
        raise InputError(
            f"{len(unknown)} of the passages found in {store} are not in the corpus of {dataset.name}, for example "
            f"{unknown[0]!r}. Leave --store away to build one from the corpus"
        )


def reopen(path: str | Path, *, data: str | None = None, metrics: Sequence[str] = ()) -> Results:
    """The results of a finished run.

    Args:
        path: its folder.
        data: where the data are now, if they were moved.
        metrics: the first decides; default those of the run's summary.

    Raises:
        InputError: there is no experiment, or its data cannot be opened or have changed since.
    """
    folder = RunFolder(path)
    setup = folder.setup()
    digest = setup.pop("data_sha256", None)
    plan = Plan(**{**setup, "data": data or setup["data"]})
    dataset = plan.open()
    if dataset.digest() != digest:
        raise InputError(f"The data in {plan.data} are not those of {path}: questions, judgements or passages changed")
    try:
        summary = read_summary(path)
    except InputError:
        summary = {}  # a run that was stopped has none yet
    arms = [*summary["arms"], *summary["dead"]] if summary else None
    chosen = tuple(metrics) or tuple(summary.get("metrics", DEFAULT_METRICS))
    margin, seed = float(summary.get("margin", 0.0)), int(summary.get("seed", 0))
    return Results(dataset, folder, chosen, margin, seed, plan.top_k, arms)
