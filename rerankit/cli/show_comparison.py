"""Rich renderings of comparisons. Names and texts are cleaned and never read as markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rerankit.cli.output import printable, results
from rerankit.cli.show import heading, pairs

if TYPE_CHECKING:
    from rerankit.evaluation.gate import Gate

_COLOURS = {"better": "green", "worse": "red", "equivalent": "blue", "undecided": "yellow"}
_NUMBER = 6
_SNIPPET = 280


def show_comparison(summary: Mapping[str, Any], files: Mapping[str, str], gates: Sequence[Gate]) -> None:
    """The figures, the verdicts, what is doubtful, the gates, and where the report is."""
    console = results()
    note = f"{summary['queries']} judged questions, decided by {summary['metric']}"
    console.print(heading(f"Does reranking help on {summary['data']}?", note))
    for table in figures(summary, console.width):
        console.print("", table, sep="\n")
    console.print("")
    for name, arm in summary["arms"].items():
        if arm["verdict"] is not None:
            console.print(verdict(name, arm["verdict"]))
    for line in doubts(summary):
        console.print(Text(printable(line), "yellow"))
    for gate in gates:
        word, style = ("holds", "green") if gate.passed else ("FAILS", "bold red")
        console.print(Text.assemble((f"{word}  ", style), printable(gate.sentence)))
    for name in ("html", "summary"):
        console.print(Text(f"{name:8} {printable(files[name])}", "dim"), soft_wrap=True)


def figures(summary: Mapping[str, Any], width: int) -> list[Table]:
    """The table of figures, broken into several where it is wider than the terminal."""
    columns = list(next(iter(summary["arms"].values()))["figures"])
    names = min(max(len(name) for name in summary["arms"]), width // 3)
    groups, used = list[list[str]](), width
    for column in columns:
        wide = max(len(column), _NUMBER) + 2
        if used + wide > width:
            groups.append([])
            used = names + 2
        groups[-1].append(column)
        used += wide
    return [_part(summary, group, names) for group in groups]


def _part(summary: Mapping[str, Any], columns: Sequence[str], names: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("arm", width=names, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, arm in summary["arms"].items():
        table.add_row(Text(printable(name), "bold"), *[_figure(column, arm["figures"][column]) for column in columns])
    return table


def _figure(column: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if column.startswith("ms ") else f"{value:.0f}" if column == "LLM calls" else f"{value:.4f}"


def verdict(arm: str, found: Mapping[str, Any]) -> Text:
    """One arm's verdict, its word coloured."""
    word, _, rest = str(found["sentence"]).partition(":")
    return Text.assemble((f"{printable(arm)}  ", "bold"), (word, _COLOURS[found["word"]]), f":{rest}")


def doubts(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    lines = ["The questions are synthetic: a model wrote them, people did not ask them."] * summary["synthetic"]
    lines += [f"{problem}." for problem in summary["problems"]]
    lines += [
        f"{name} failed on {arm['failed']} questions, which are left out for every arm."
        for name, arm in summary["arms"].items()
        if arm["failed"]
    ]
    return lines + [
        f"{name} failed on every question and is not compared: {why}" for name, why in summary["dead"].items()
    ]


def show_movements(question: str, moves: Sequence[Mapping[str, Any]], metric: str) -> None:
    """What each arm did to one question."""
    console = results()
    console.print(heading(question))
    for move in moves:
        console.print(heading(move["arm"], f"{metric} {move['gain']:+.4f}"))
        for title, key in (("entered the context", "entered"), ("left the context", "left")):
            for passage in move[key]:
                console.print(_passage(title, passage))
        if not move["entered"] and not move["left"]:
            console.print(Text("  the context holds the same passages", "dim"))
        if move["answer"] != move["baseline_answer"]:
            console.print(pairs([("  answer", move["answer"]), ("  without reranking", move["baseline_answer"])]))
        elif move["answer"]:
            console.print(pairs([("  answer, the same", move["answer"])]))


def _passage(title: str, passage: Mapping[str, Any]) -> Text:
    grade = "not judged" if passage["grade"] is None else f"grade {passage['grade']}"
    text = str(passage["text"])
    shown = text if len(text) <= _SNIPPET else f"{text[:_SNIPPET]} …"
    return Text.assemble(
        (f"  {title}: ", "dim"), (printable(passage["id"]), "bold"), (f" ({grade})\n", "dim"), f"    {printable(shown)}"
    )


def show_runs(rows: Mapping[str, Mapping[str, float]]) -> None:
    """Metrics of existing runs, one line each; names stand last, so that none is cut."""
    metrics = list(next(iter(rows.values())))
    widths = [max(len(metric), _NUMBER) for metric in metrics]
    console = results()
    console.print(Text("  ".join(f"{m:>{w}}" for m, w in zip(metrics, widths, strict=True)), "dim"), soft_wrap=True)
    for name, values in rows.items():
        numbers = "  ".join(f"{values[m]:>{w}.4f}" for m, w in zip(metrics, widths, strict=True))
        console.print(Text.assemble(f"{numbers}  ", (printable(name), "bold")), soft_wrap=True)
