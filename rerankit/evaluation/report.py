"""The report of a comparison: one HTML page that needs nothing from outside, and the same figures in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rerankit.errors import require
from rerankit.evaluation import plots
from rerankit.evaluation.experiment import BASELINE
from rerankit.evaluation.metrics import unified_score
from rerankit.evaluation.results import Movement, Results

__all__ = ["Table", "explain", "table", "write_report"]

EXAMPLES = 8
"""Questions shown per arm."""


@dataclass(frozen=True)
class Table:
    """Figures by arm.

    Attributes:
        columns: names; metrics first, then time and cost.
        rows: per arm, the values; None where there is none.
    """

    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | None]]

    def text(self, column: int, value: float | None) -> str:
        """One value as shown: times in milliseconds, metrics with four decimals."""
        if value is None:
            return "-"
        name = self.columns[column]
        return f"{value:.1f}" if name.startswith("ms ") else f"{value:.4f}" if name != "LLM calls" else f"{value:.0f}"

    def best(self, column: int) -> float | None:
        """The best value of a metric column (highest), or of a time column (lowest); None if all are the same."""
        values = [row[column] for row in self.rows.values() if row[column] is not None]
        shown = [value for value in values if value is not None]
        if len(set(shown)) < 2 or self.columns[column] in ("LLM calls", "cost"):
            return None
        return min(shown) if self.columns[column].startswith("ms ") else max(shown)

    def markdown(self) -> str:
        """A Markdown table."""
        lines = ["| arm | " + " | ".join(self.columns) + " |", "|---|" + "--:|" * len(self.columns)]
        for arm, row in self.rows.items():
            cells = [self.text(i, value) for i, value in enumerate(row)]
            lines.append("| " + " | ".join([_plain(arm), *cells]) + " |")
        return "\n".join(lines)


def table(results: Results) -> Table:
    """All figures of an experiment, by arm, over the queries that every arm answered."""
    metrics = list(dict.fromkeys(name for values in results.values.values() for name in values))
    paid = any(arm.total("llm_calls") or arm.total("cost") for arm in results.arms.values())
    columns = [*metrics, "unified", "ms p50", "ms p95", *(["LLM calls", "cost"] if paid else [])]
    rows = {}
    for name, arm in results.arms.items():
        times = [arm.latency(0.5), arm.latency(0.95)]
        costs = [arm.total("llm_calls"), arm.total("cost")] if paid else []
        row = [results.mean(name, metric) for metric in metrics]
        rows[name] = [*row, _unified(results, name), *[t if t is None else t * 1000 for t in times], *costs]
    return Table(tuple(columns), rows)


def _unified(results: Results, arm: str) -> float | None:
    """Recall of the candidates, quality of the order, time: see ``metrics.unified_score``."""
    quality, seconds = results.mean(arm, results.metrics[0]), results.arms[arm].latency(0.5)
    if quality is None or seconds is None:
        return None
    return unified_score(_candidate_recall(results), quality, seconds)


def _candidate_recall(results: Results) -> float:
    """Share of the relevant passages that are among the candidates, mean over the queries."""
    shares = []
    for query in results.judged:
        relevant = {name for name, grade in results.dataset.qrels[query].items() if grade > 0}
        if relevant:
            shares.append(len(relevant & set(results.arms[BASELINE].order(query))) / len(relevant))
    return sum(shares) / len(shares) if shares else 0.0


def write_report(results: Results, *, examples: int = EXAMPLES) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into the run folder.

    Returns:
        Their paths.

    Raises:
        MissingExtraError: jinja2 or matplotlib is not installed.
        StoreError: the folder cannot be written.
    """
    jinja2 = require("jinja2", extra="eval", purpose="The HTML report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(files(__package__).joinpath("templates/report.html").read_text("utf-8"))
    facts = _facts(results, examples)
    html = results.folder.write("report.html", template.render(facts))
    return html, results.folder.write("report.md", _markdown(results, facts))


def explain(results: Results, query: str, arm: str | None = None) -> list[dict[str, Any]]:
    """What each arm (or one) did to a query, ready to show.

    Raises:
        InputError: the query or arm is not part of the experiment.
    """
    arms = [arm] if arm is not None else [name for name in results.arms if name != BASELINE]
    return [{"arm": name, **_shown(results, [results.movement(name, query)])[0]} for name in arms]


def _facts(results: Results, examples: int) -> dict[str, Any]:
    verdicts, shown, metric = results.verdicts(), table(results), results.metrics[0]
    others = [name for name in results.arms if name != BASELINE]
    moves = {name: [m for m in results.movements(name) if m.gain][:examples] for name in others}
    points = {
        name: (seconds, quality)
        for name, arm in results.arms.items()
        if (seconds := arm.latency(0.5)) is not None and (quality := results.mean(name, metric)) is not None
    }
    return {
        "data": results.dataset.name,
        "metric": metric,
        "queries": len(results.judged),
        "arms": list(results.arms),
        "synthetic": results.dataset.synthetic,
        "notes": _notes(results),
        "verdicts": verdicts,
        "groups": _groups(results, shown),
        "footnote": _footnote(results),
        "forest": plots.forest(verdicts, metric) if verdicts else "",
        "pareto": plots.pareto(points, metric) if len(points) > 1 else "",
        "bars": _bars({name: list(results.differences(name, metric).values()) for name in verdicts}, metric),
        "movements": {name: _shown(results, found) for name, found in moves.items() if found},
        "setup": _setup(results),
    }


def _bars(differences: Mapping[str, Sequence[float]], metric: str) -> dict[str, str]:
    bound = max((abs(value) for values in differences.values() for value in values), default=0.0)
    return {name: plots.wins_and_losses(values, metric, bound) for name, values in differences.items()}


def _groups(results: Results, shown: Table) -> list[dict[str, Any]]:
    """The table cut into ones that fit a page."""
    ranking = [i for i, name in enumerate(shown.columns) if name in results.metrics]
    cost = [i for i, name in enumerate(shown.columns) if name in ("unified", "ms p50", "ms p95", "LLM calls", "cost")]
    answers = [i for i in range(len(shown.columns)) if i not in {*ranking, *cost}]
    titles = {"The ranking": ranking, "The answer": answers, "Time and cost": cost}
    return [
        {"title": title, "columns": [shown.columns[i] for i in chosen], "rows": _rows(shown, chosen)}
        for title, chosen in titles.items()
        if chosen
    ]


def _rows(shown: Table, columns: Sequence[int]) -> list[dict[str, Any]]:
    best = {i: shown.best(i) for i in columns}
    return [
        {
            "arm": arm,
            "cells": [
                {"text": shown.text(i, row[i]), "best": row[i] is not None and row[i] == best[i]} for i in columns
            ],
        }
        for arm, row in shown.rows.items()
    ]


def _notes(results: Results) -> list[str]:
    notes = [f"{problem}." for problem in results.dataset.problems]
    for arm, queries in results.left_out.items():
        reason = results.arms[arm].failures[queries[0]]
        notes.append(
            f"{arm} failed on {len(queries)} questions, which are left out for every arm; "
            f"the first, {queries[0]}: {reason}"
        )
    notes += [f"{arm} failed on every question and is not compared: {reason}" for arm, reason in results.dead.items()]
    notes += _judge_notes(results)
    for name, result in results.arms.items():
        short = sum(record["status"] != "scored" for record in result.records.values())
        if short:
            notes.append(f"{name} did less than planned on {short} questions (deadline or fallback).")
    return notes


def _judge_notes(results: Results) -> list[str]:
    """How far the judge agreed with itself, and what it did not judge."""
    records = [record for arm in results.arms.values() for record in arm.records.values()]
    lost = sum(record.get("judge_failures", 0) for record in records)
    spreads: dict[str, list[float]] = {}
    for record in records:
        for name, spread in record.get("judge_spread", {}).items():
            spreads.setdefault(name, []).append(spread)
    notes = [
        f"{name}: repeated judgements of one answer differ by a standard deviation of {sum(found) / len(found):.3f} on "
        "average."
        for name, found in spreads.items()
        if any(found)
    ]
    return notes + [f"{lost} replies of the judge could not be used."] * bool(lost)


def _footnote(results: Results) -> str:
    cached = [name for name, arm in results.arms.items() if len(arm.seconds()) < len(arm.records)]
    text = (
        "Times are those of an arm working alone; what arms had in common was scored once and charged to each. "
        "unified = recall of the candidates x nDCG x min(1, 1 s / time)^0.5, rerankit's own formula."
    )
    return f"{text} Queries with cached scores are not timed ({', '.join(cached)})." if cached else text


def _setup(results: Results) -> dict[str, str]:
    manifest = results.folder.manifest()
    environment = dict(manifest["environment"])
    packages = environment.pop("packages", {})
    settings = results.folder.settings()
    specs = {f"arm {name}": _spec(settings[name]) for name in results.arms if name in settings}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    shown = {**specs, **manifest["setup"], **environment, "packages": versions}
    return {name: str(value) for name, value in shown.items() if value not in (None, "")}


def _spec(settings: Mapping[str, Any]) -> str:
    own = {name: value for name, value in settings.items() if name not in ("spec", "fingerprint")}
    rest = [f"{name} {value}" for name, value in own.items() if value is not None]
    return f"{', '.join([str(settings['spec']), *rest])} ({settings['fingerprint']})"


def _shown(results: Results, moves: Sequence[Movement]) -> list[dict[str, Any]]:
    wanted = {name for move in moves for name in (*move.entered, *move.left)}
    texts = {passage.id: passage for passage in results.dataset.passages(wanted)} if wanted else {}

    def passages(query: str, names: Sequence[str]) -> list[dict[str, Any]]:
        grades = results.dataset.qrels.get(query, {})
        return [{"id": name, "grade": grades.get(name), "text": texts[name].text} for name in names if name in texts]

    return [
        {
            "query": move.query,
            "question": results.dataset.questions[move.query].text,
            "gain": move.gain,
            "entered": passages(move.query, move.entered),
            "left": passages(move.query, move.left),
            "answer": move.answer,
            "baseline_answer": move.baseline_answer,
            "answer_gain": move.answer_gain,
        }
        for move in moves
    ]


def _markdown(results: Results, facts: Mapping[str, Any]) -> str:
    lines = [
        f"# Does reranking help on {_plain(facts['data'])}?",
        "",
        f"{facts['queries']} judged questions, decided by {facts['metric']}."
        + (" **The questions are synthetic.**" if facts["synthetic"] else ""),
        "",
        *[f"> {_plain(note)}\n" for note in facts["notes"]],
        "",
        *[f"- **{_plain(arm)}**: {verdict.sentence}" for arm, verdict in facts["verdicts"].items()],
        "",
        table(results).markdown(),
        "",
        str(facts["footnote"]),
        "",
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: on one line, with its marks escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(str(text).split()))
