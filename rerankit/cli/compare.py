"""``rerankit compare``: does a reranker help on these questions, and is that real?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankit.cli.output import ERROR, GATE, JsonOption, emit, messages, reporting
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.evaluation.candidates import Candidates
    from rerankit.evaluation.comparison import Plan
    from rerankit.evaluation.datasets import Dataset
    from rerankit.evaluation.experiment import Arm, Experiment
    from rerankit.evaluation.gate import Gate
    from rerankit.evaluation.runfolder import RunFolder
    from rerankit.rag.answer import Generator

LlmOption = Annotated[
    str | None, typer.Option(metavar="URL#MODEL", help="Chat model that writes the answers (OpenAI-compatible).")
]
MetricOption = Annotated[
    list[str] | None,
    typer.Option("--metric", "-m", help="Metric named as in ir_measures, e.g. nDCG@10; repeatable, the first decides."),
]


def compare(
    arms_file: Annotated[
        Path | None, typer.Argument(metavar="[ARMS.yaml]", help="File that lists rerankers as specs, or as name: spec.")
    ] = None,
    arms: Annotated[
        list[str] | None, typer.Option("--arm", "-a", metavar="SPEC|NAME=SPEC", help="Reranker to compare; repeatable.")
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="farm|FOLDER|FILE", help="The sample, a test collection, or jsonl of questions.")
    ] = "farm",
    corpus: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Passages (jsonl) for a file of questions.")
    ] = None,
    split: Annotated[str, typer.Option(help="Judgements of a BEIR folder to use: qrels/SPLIT.tsv.")] = "test",
    candidates: Annotated[
        str,
        typer.Option(
            metavar="dense|hybrid|RUN",
            help="What is reranked: passages retrieved from Chroma, or a run that came with the data.",
        ),
    ] = "dense",
    store: Annotated[
        str | None, typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma store to retrieve from, as it is.")
    ] = None,
    collection: Annotated[str, typer.Option("--collection", "-c", help="Name of the Chroma collection.")] = "rerankit",
    depth: Annotated[int, typer.Option(min=1, help="Candidates per question to rerank.")] = 50,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Passages in the context.")] = 5,
    depths: Annotated[str, typer.Option(metavar="N,N,...", help="Try every reranker at each of these depths.")] = "",
    top_ks: Annotated[
        str, typer.Option("--top-ks", metavar="N,N,...", help="Try every reranker with each of these context sizes.")
    ] = "",
    metrics: MetricOption = None,
    margin: Annotated[float, typer.Option(min=0.0, help="Differences up to this size count as none.")] = 0.01,
    max_queries: Annotated[int | None, typer.Option(min=1, help="Use at most N questions, evenly spread.")] = None,
    answers: Annotated[
        bool, typer.Option("--answers/--no-answers", help="Write and compare answers too, or rankings only.")
    ] = True,
    llm: LlmOption = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL#MODEL", help="Chat model that judges the answers, three times each (OpenAI-compatible)."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Folder to write to; default comparisons/ and the data's name."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the order of rerankers and of the resampling.")] = 0,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep scores between runs.")] = True,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'nDCG@10 < 0.40'",
            help="Exit with status 3 if this holds for an arm; also 'failed > 0', 'ARM: ms p95 > 200'.",
        ),
    ] = None,
    fail_if_worse_than: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER|FILE", help="Exit with status 3 if an arm does worse than in this run."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare rerankers on the same candidates, from the ranking to the answer.

    Each reranker is an arm; the arm none, the first stage's own order, is always in. Writes report.html, report.md and
    summary.json into --out. An interrupted run continues when the same command is given again; arms may be added later.
    """
    with reporting(as_json):
        from rerankit.evaluation.comparison import Plan

        if not answers and (llm or judge):
            raise InputError("--llm and --judge are about answers: leave --no-answers away")
        plan = Plan(
            data, str(corpus) if corpus else None, split, candidates, store, collection, depth, top_k, max_queries,
            (llm or "extractive") if answers else "", judge or "", seed,
        )  # fmt: skip
        chosen = _arms(arms_file, arms or [], _numbers(depths, "--depths"), _numbers(top_ks, "--top-ks"))
        bars = _Bars(fail_if or [], fail_if_worse_than)
        summary, files = _run(plan, chosen, out, metrics or [], margin, cache)
        gates = bars.check(summary, [arm.name for arm in chosen], margin, seed)
        if as_json:
            emit({**summary, **files, "gates": [dataclasses.asdict(gate) for gate in gates]})
        else:
            from rerankit.cli.show_comparison import show_comparison

            show_comparison(summary, files, gates)
        _exit(summary, gates)


class _Bars:
    """The gates, read before anything runs."""

    def __init__(self, conditions: Sequence[str], earlier: Path | None) -> None:
        from rerankit.evaluation.gate import Condition
        from rerankit.evaluation.summary import read_summary

        self.conditions = [Condition.parse(text) for text in conditions]
        self.earlier = read_summary(earlier) if earlier is not None else None

    def check(self, summary: Mapping[str, Any], asked: Sequence[str], margin: float, seed: int) -> list[Gate]:
        """What holds and what does not."""
        from rerankit.evaluation.gate import worse_than

        gates = [gate for condition in self.conditions for gate in condition.check(summary, asked)]
        if self.earlier is not None:
            gates += worse_than(summary, self.earlier, margin=margin, seed=seed)
        return gates


def _arms(path: Path | None, specs: Sequence[str], depths: list[int], top_ks: list[int]) -> list[Arm]:
    from rerankit.evaluation.arms import read_arms
    from rerankit.evaluation.experiment import BASELINE, Arm, sweep

    given = [*(read_arms(path) if path is not None else []), *map(Arm.parse, specs)] or [Arm.parse("default")]
    if top_ks and all(arm.name != BASELINE for arm in given):
        given.insert(0, Arm(BASELINE, BASELINE))  # the first stage's order at every context size too
    return sweep(given, depths=depths, top_ks=top_ks)


def _numbers(text: str, option: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise InputError(f"{option} takes whole numbers above zero, such as 10,20,50; got {text!r}")
    return numbers


def _run(
    plan: Plan, arms: Sequence[Arm], out: Path | None, metrics: Sequence[str], margin: float, cache: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run what is not done yet; the summary, and the files that were written."""
    from rerankit.evaluation.metrics import DEFAULT_METRICS, check_names
    from rerankit.evaluation.report import write_report
    from rerankit.evaluation.results import Results
    from rerankit.evaluation.runfolder import RunFolder
    from rerankit.evaluation.summary import write_summary

    check_names(metrics)
    with messages().status("Opening the data") as status:
        dataset = plan.open()
        folder = RunFolder(out if out is not None else Path("comparisons") / dataset.name)
        plan.begin(folder, dataset)
        found = plan.find(folder, dataset, status.update)
    with ExitStack() as stack:
        experiment = _experiment(plan, dataset, found, arms, folder, cache, stack)
        _with_bar(experiment)
    with messages().status("Writing the report"):
        names = [arm.name for arm in experiment.arms]
        results = Results(dataset, folder, metrics or DEFAULT_METRICS, margin, plan.seed, plan.top_k, names)
        html, markdown = write_report(results)
        files = {"html": html, "markdown": markdown, "summary": folder.path / "summary.json"}
        return write_summary(results), {name: str(path) for name, path in files.items()}


def _experiment(
    plan: Plan,
    dataset: Dataset,
    found: Candidates,
    arms: Sequence[Arm],
    folder: RunFolder,
    cache: bool,
    stack: ExitStack,
) -> Experiment:
    """The experiment; what it opens is closed with ``stack``."""
    from rerankit.evaluation.experiment import Experiment
    from rerankit.evaluation.judge import judges
    from rerankit.rerankers.cache import ScoreCache

    made = judges(plan.judge, cache=folder.path / "judge.sqlite") if plan.judge else {}
    scores = ScoreCache(folder.path / "scores.sqlite") if cache else None
    for judge in made.values():
        stack.callback(judge.close)
    if scores is not None:
        stack.callback(scores.close)
    generator = _generator(plan.generator, stack)
    return Experiment(dataset, found, arms, folder, generator, plan.top_k, plan.seed, scores, made)


def _generator(name: str, stack: ExitStack) -> Generator | None:
    if not name:
        return None
    if name == "extractive":
        from rerankit.rag.extractive import ExtractiveGenerator

        return ExtractiveGenerator()
    from rerankit.models.chat import ChatLM
    from rerankit.rag.generative import ChatGenerator

    return ChatGenerator(stack.enter_context(ChatLM.from_spec(name)))


def _with_bar(experiment: Experiment) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=messages(), transient=True) as bar:
        task = bar.add_task(f"{len(experiment.arms)} arms", total=len(experiment.dataset.questions))
        experiment.run(lambda count: bar.advance(task, count))


def _exit(summary: Mapping[str, Any], gates: Sequence[Gate]) -> None:
    if not all(gate.passed for gate in gates):
        raise typer.Exit(GATE)
    if summary["dead"]:
        raise typer.Exit(ERROR)
