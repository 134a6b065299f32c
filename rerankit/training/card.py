"""The model card of a trained model, as the Hugging Face hub reads it.

Layout: Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993; the head's keys are those of the hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerankit import __version__
from rerankit.errors import InputError
from rerankit.models.files import write_atomically
from rerankit.training.task import Report

__all__ = [
    "DEV_FIGURES",
    "EMBEDDED",
    "LIST_PROBABILITIES",
    "LIST_SCORES",
    "Card",
    "Source",
    "Table",
    "recipe",
    "write_card",
]

EMBEDDED = "sentence-transformers/all-MiniLM-L6-v2"
"""The embedded encoder, as the hub names it."""

LIST_SCORES = "A score depends on the list it was given in: it orders that list and is not comparable between lists."
LIST_PROBABILITIES = "So is a probability made from it: it holds for lists like the dev lists, and about as long."
DEV_FIGURES = "The dev figures are those that the weights were chosen by, so they flatter; measure on data of your own."
"""Limits of every model whose weights were chosen by its dev data."""


@dataclass(frozen=True, slots=True)
class Source:
    """Data that a model was made with.

    Attributes:
        name: of the data set.
        license: of its texts, as its makers state it.
        use: what it served for: training, choosing the best step, calibration.
        size: such as ``1,200 lists``.
        url: where it comes from.
    """

    name: str
    license: str
    use: str
    size: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Measured quality.

    Attributes:
        title: what was measured, and on what.
        columns: heads of the columns.
        rows: of cells; a number with a fraction is shown to three places.
        command: that measures it again.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    command: str


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says.

    Attributes:
        name: of the model.
        summary: what it is and what it is for: a paragraph or more of Markdown.
        license: of the weights, an identifier of the hub such as ``apache-2.0``.
        base_model: that it was trained from, as the hub names it; empty for none.
        sources: the data.
        recipe: the settings, see :func:`recipe`.
        seed: of the run.
        command: that trains it.
        tables: the measurements.
        limits: what it cannot do, and where it has not been tried.
        language: codes of the languages, such as ``en``.
        pipeline_tag: the hub's task.
        tags: more words to find it by.
        usage: a short program that uses it; empty for none.
    """

    name: str
    summary: str
    license: str
    base_model: str
    sources: Sequence[Source]
    recipe: Mapping[str, object]
    seed: int
    command: str
    tables: Sequence[Table]
    limits: Sequence[str]
    language: Sequence[str] = ("en",)
    pipeline_tag: str = "text-ranking"
    tags: Sequence[str] = field(default=("reranking",))
    usage: str = ""


def recipe(report: Report) -> dict[str, object]:
    """The rows of the recipe's table that a run knows by itself; add those of the task."""
    settings = report.settings
    best = report.best
    return {
        "optimizer": f"AdamW, weight decay {settings.weight_decay:g} (not on biases, norms, gates)",
        "learning rate": f"{settings.learning_rate:g}, linear warmup for {settings.warmup:.0%} of the run, cosine",
        "gradient clipping": f"norm {settings.clip:g}",
        "precision": settings.dtype,
        "epochs": settings.epochs,
        "steps": f"{report.steps:,} ({report.ending})",
        "trained parameters": f"{report.parameters:,}",
        "weights kept": f"of step {best.step:,}, the best by {best.metric} ({best.value:.4f}) on the dev data",
        "device": report.device,
        "hours": f"{report.seconds / 3600:.2f}",
    }


def write_card(folder: str | Path, facts: Card) -> Path:
    """Write ``README.md`` into a model's folder; the curves are shown if the folder holds ``curves.png``.

    Raises:
        InputError: a fact that a card must not lack is empty.
    """
    required = ("name", "summary", "license", "sources", "recipe", "command", "tables", "limits")
    if missing := [name for name in required if not getattr(facts, name)]:
        raise InputError(f"The model card lacks {', '.join(missing)}; a model without them is not to be published")
    path = Path(folder) / "README.md"
    curves = "![Losses and dev metrics of the run](curves.png)" if (path.parent / "curves.png").is_file() else ""
    sections = [_head(facts), f"# {facts.name}", facts.summary.strip(), *_use(facts), *_data(facts)]
    sections += [*_training(facts, curves), *_quality(facts), "## Limits", _bullets(facts.limits)]
    write_atomically(path, "\n\n".join(filter(None, sections)) + "\n")
    return path


def _head(facts: Card) -> str:
    """The YAML block; JSON's strings and lists are YAML's too."""
    keys: dict[str, Any] = {
        "license": facts.license,
        "base_model": facts.base_model,
        "datasets": [source.name for source in facts.sources],
        "language": list(facts.language),
        "library_name": "rerankit",
        "pipeline_tag": facts.pipeline_tag,
        "tags": list(facts.tags),
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in keys.items() if value]
    return "\n".join(["---", *lines, "---"])


def _use(facts: Card) -> list[str]:
    return ["## Use", _block("python", facts.usage)] if facts.usage else []


def _data(facts: Card) -> list[str]:
    rows = [(_linked(source), source.license, source.use, source.size) for source in facts.sources]
    return ["## Data", _table(("data", "licence", "used for", "size"), rows)]


def _training(facts: Card, curves: str) -> list[str]:
    rows = [*facts.recipe.items(), ("seed", facts.seed), ("rerankit", __version__)]
    return ["## Training", "Made by", _block("sh", facts.command), _table(("setting", "value"), rows), curves]


def _quality(facts: Card) -> list[str]:
    parts = ["## Quality"]
    for table in facts.tables:
        parts += [f"### {_cell(table.title)}", _table(table.columns, table.rows), "Measured by"]
        parts.append(_block("sh", table.command))
    return parts


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    for row in lines:
        if len(row) != len(columns):
            raise InputError(
                f"A row of the card's table has {len(row)} cells, the table {len(columns)} columns: {row!r}"
            )
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in lines)


def _cell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", r"\|")


def _linked(source: Source) -> str:
    return f"[{source.name}]({source.url})" if source.url else source.name


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {' '.join(line.split())}" for line in lines)


def _block(language: str, code: str) -> str:
    """A fenced block that no fence within the code can close."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code.strip()}\n{fence}"
