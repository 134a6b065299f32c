"""``rerankit label``: relevance labels in three grades by a language model, held against people's."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.output import ERROR, JsonOption, counting, emit, messages, printable, reporting, results
from rerankit.cli.sink import check_target, sink
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.evaluation.agreement import Agreement, Comparison
    from rerankit.evaluation.datasets import Dataset
    from rerankit.evaluation.formats import Qrels, Run
    from rerankit.evaluation.labels import Labelled, Labeller
    from rerankit.evaluation.labels_file import Pool
    from rerankit.types import Passage


def label(
    data: Annotated[
        str,
        typer.Option(metavar="farm|FOLDER|FILE", help="Test collection, jsonl of questions, or of query and passages."),
    ],
    model: Annotated[
        str, typer.Option("--llm", "--model", metavar="URL#MODEL", help="Chat model that labels (OpenAI-compatible).")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File (jsonl) to add labels to.")],
    candidates: Annotated[
        str | None,
        typer.Option(
            metavar="dense|hybrid|judged|RUN",
            help="Passages to label: retrieved, judged ones, or those of a run; default dense.",
        ),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Passages (jsonl) for a file of questions.")
    ] = None,
    split: Annotated[str, typer.Option(help="Judgements of a BEIR folder to use: qrels/SPLIT.tsv.")] = "test",
    store: Annotated[
        str | None, typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma store to retrieve from, as it is.")
    ] = None,
    collection: Annotated[str, typer.Option("--collection", "-c", help="Name of the Chroma collection.")] = "rerankit",
    depth: Annotated[
        int | None, typer.Option(min=1, help="Passages per question; default 20, or all of a list in a file.")
    ] = None,
    max_queries: Annotated[int | None, typer.Option(min=1, help="Use at most N questions, evenly spread.")] = None,
    template: Annotated[str, typer.Option(help="grades, or reasons (a sentence before each grade).")] = "grades",
    instruction: Annotated[str | None, typer.Option(help="What counts as relevant here, told to the model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest reply in tokens, reasoning included.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at the same time.")] = 8,
    price: Annotated[
        str | None, typer.Option(metavar="IN,OUT", help="Price of a million tokens in and out, to add up the cost.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="QRELS", help="Human judgements to compare with; default those of the data.")
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="RUN", help="TREC run to measure by both kinds of labels; repeatable."),
    ] = None,
    relevant_from: Annotated[int, typer.Option(min=1, max=2, help="Lowest label that counts as relevant.")] = 2,
    qrels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write the labels to as TREC judgements.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the confidence intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Let a chat model label passages: 0 not relevant, 1 related, 2 answers; and report agreement with human labels.

    An interrupted run, even a killed one, continues when the same command is given again. What failed is marked,
    reported, and tried again by the next call. Exit status 1 if there is no label at all.
    """
    with reporting(as_json):
        from rerankit.evaluation.labels_file import LabelFile, check_ids, qrels_of, read_labels

        source = _Source(data, candidates, corpus, split, store, collection, depth, max_queries)
        if qrels is not None:
            check_target(qrels)
        with _labeller(model, concurrency, _price(price), template, instruction, max_tokens) as labeller:
            identity = labeller.lm.model_id, labeller.template.fingerprint
            LabelFile(out, *identity)  # a file that cannot be used is told before anything is done
            with messages().status("Opening the data"):
                task = source.open(against, runs or [])
            if qrels is not None:
                check_ids({pool.query_id: [passage.id for passage in pool.passages] for pool in task.pools})
            with counting("passages", sum(len(pool.passages) for pool in task.pools)) as advance:
                made = labeller.label(task.pools, out, progress=advance)
        labels = qrels_of(read_labels(out, model=identity[0], template=identity[1]))
        if qrels is not None:
            _write_qrels(labels, qrels)
        compared = task.compare(labels, relevant_from, seed)
        if as_json:
            emit(_summary(made, labels, identity, out, compared))
        else:
            _show(made, labels, out, compared)
        if not labels:
            raise typer.Exit(ERROR)


@dataclass(frozen=True)
class _Task:
    """What is to be labelled, and what the labels are held against."""

    pools: Sequence[Pool]
    human: Qrels
    orders: Mapping[str, Mapping[str, Sequence[str]]]

    def compare(self, labels: Qrels, relevant_from: int, seed: int) -> Comparison | None:
        """Agreement with people, where they judged any of the same pairs."""
        from rerankit.evaluation.agreement import compare_labels

        if not any(p in self.human.get(query, {}) for query, grades in labels.items() for p in grades):
            return None
        return compare_labels(self.human, labels, self.orders, labels_from=relevant_from, seed=seed)


@dataclass(frozen=True)
class _Source:
    """Where queries and passages come from, as the options say."""

    data: str
    candidates: str | None
    corpus: Path | None
    split: str
    store: str | None
    collection: str
    depth: int | None
    max_queries: int | None

    def open(self, against: Path | None, runs: Sequence[Path]) -> _Task:
        """Queries, passages, human judgements, and the runs to evaluate."""
        from rerankit.evaluation.formats import read_qrels, read_run
        from rerankit.evaluation.labels_pools import JUDGED, are_lists

        human = read_qrels(against) if against is not None else None
        found = {path.stem: read_run(path) for path in runs}
        if are_lists(Path(self.data).expanduser()):
            pools, ranked = self._lists(), True
        else:
            dataset = self._dataset()
            pools, ranked = self._candidates(dataset), self.candidates not in (JUDGED, *dataset.runs)
            human, found = dataset.qrels if human is None else human, {**dataset.runs, **found}
        orders = {name: _best_first(run, human or {}) for name, run in found.items()}
        if ranked:
            given = {pool.query_id: [passage.id for passage in pool.passages] for pool in pools}
            orders = {"candidates": given, **orders}
        return _Task(pools, human or {}, orders)

    def _lists(self) -> list[Pool]:
        from rerankit.evaluation.labels_pools import read_pools

        given = {"--candidates": self.candidates, "--corpus": self.corpus, "--store": self.store}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise InputError(f"{self.data} holds the passages of its queries: leave {wrong[0]} away")
        pools = read_pools(Path(self.data).expanduser(), depth=self.depth)
        count = min(self.max_queries or len(pools), len(pools))
        return [pools[i * len(pools) // count] for i in range(count)]

    def _dataset(self) -> Dataset:
        from rerankit.evaluation.datasets import Corpus, open_dataset

        corpus: Path | Corpus | None = self.corpus
        if corpus is None and self.store is not None and Path(self.data).expanduser().is_file():
            corpus = self._stored
        return open_dataset(self.data, split=self.split, corpus=corpus).sample(self.max_queries)

    def _candidates(self, dataset: Dataset) -> list[Pool]:
        from rerankit.evaluation.labels_pools import DENSE, pools_of

        chosen = self.candidates or DENSE
        return pools_of(dataset, chosen, depth=self.depth or 20, store=self.store, collection=self.collection)

    def _stored(self) -> Iterator[Passage]:
        from rerankit.rag.chroma import ChromaRetriever

        with ChromaRetriever(str(self.store), collection=self.collection) as retriever:
            yield from retriever.passages()


def _best_first(run: Run, human: Qrels) -> dict[str, list[str]]:
    return {query: sorted(run[query], key=lambda p: -run[query][p]) for query in human if query in run}


def _price(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text is not None else (0.0, 0.0)
    except ValueError:
        raise InputError(f"--price is two numbers such as 0.15,0.60, got {text!r:.80}") from None


@contextmanager
def _labeller(
    model: str,
    concurrency: int,
    price: Sequence[float],
    template: str,
    instruction: str | None,
    max_tokens: int | None,
) -> Iterator[Labeller]:
    from rerankit.evaluation.labels import Labeller
    from rerankit.models.chat import ChatLM

    with ChatLM.from_spec(model, concurrency=concurrency, price=price) as lm:
        yield Labeller(lm, template, instruction=instruction, max_tokens=max_tokens, at_once=4 * concurrency)


def _write_qrels(labels: Qrels, path: Path) -> None:
    from rerankit.evaluation.labels_file import write_qrels

    with sink(path) as file:
        write_qrels(labels, file)


def _counts(labels: Qrels) -> dict[int, int]:
    found = Counter(grade for grades in labels.values() for grade in grades.values())
    return {grade: found[grade] for grade in range(3)}


def _summary(
    made: Labelled, labels: Qrels, identity: tuple[str, str], out: Path, compared: Comparison | None
) -> dict[str, Any]:
    return {
        "output": str(out),
        "model": identity[0],
        "template": identity[1],
        "queries": len(labels),
        "labels": sum(map(len, labels.values())),
        "grades": _counts(labels),
        **dataclasses.asdict(made),
        "agreement": dataclasses.asdict(compared) if compared is not None else None,
    }


def _show(made: Labelled, labels: Qrels, out: Path, compared: Comparison | None) -> None:
    from rerankit.evaluation.labels_templates import GRADES

    grades = ", ".join(f"{count} {GRADES[grade]}" for grade, count in _counts(labels).items())
    usage = made.usage
    cost = f", cost {usage.cost:.4g}" if usage.cost else ""
    lines = [
        f"{made.new} labels added to {out}; of this model and template it holds {sum(map(len, labels.values()))} now",
        f"  {grades}",
        f"  {usage.llm_calls} requests, {usage.input_tokens} tokens in, {usage.output_tokens} out{cost}",
        *(f"  {count} failed, marked, and asked again next time: {why}" for why, count in made.failed.items()),
        *([f"  {made.cut} passages too long, judged by their beginning"] if made.cut else []),
        *(_compared(compared) if compared is not None else ["No human judgement of these passages to agree with"]),
    ]
    results().print(*map(printable, lines), sep="\n")


def _compared(found: Comparison) -> Iterator[str]:
    if found.graded is not None:
        yield from _agreement(found.graded, "Agreement with people on three grades")
    yield from _agreement(
        found.binary, f"Relevant or not (people from grade {found.human_from}, labels from {found.labels_from})"
    )
    for name, (human, labels) in found.ndcg.items():
        yield f"nDCG@10 of {name}, over passages that both judged: {human:.4f} by people, {labels:.4f} by the labels"
    if found.tau is not None:
        yield f"Kendall's tau between the two orders of {len(found.ndcg)} runs: {found.tau:.3f}"


def _agreement(found: Agreement, what: str) -> Iterator[str]:
    yield f"{what}, {found.pairs} pairs of {found.queries} queries:"
    for name, figure in found.figures.items():
        value = "undefined" if figure.value is None else f"{figure.value:.3f}"
        ends = f" (95 % interval {figure.low:.3f} to {figure.high:.3f})" if figure.low is not None else ""
        yield f"  {name.replace('_', ', ')} {value}{ends}"
    yield "  people's grade by row, the labels' by column:"
    for grade, row in enumerate(found.confusion):
        yield f"    {grade}: " + " ".join(f"{count:6d}" for count in row)
