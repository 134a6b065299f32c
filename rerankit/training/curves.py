"""The picture of a run: its losses and its dev metrics, step by step."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rerankit.errors import require
from rerankit.models.files import write_atomically
from rerankit.training.task import Best

__all__ = ["write_curves"]

SMOOTHED = 40  # points that a smoothed loss is made of, about

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")


def write_curves(rows: Iterable[Mapping[str, Any]], best: Best, path: Path) -> None:
    """Draw the parts of the loss and the dev metrics over the steps, the best evaluation marked.

    Args:
        rows: of the history.
        best: the evaluation to mark.
        path: of the PNG.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="train", purpose="Drawing the curves of a run")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(rows)
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, metrics = figure.subplots(1, 2)
    _draw_losses(losses, [row for row in rows if "loss" in row])
    _draw_metrics(metrics, [row for row in rows if "metrics" in row], best)
    for axes in (losses, metrics):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step")
        axes.grid(axis="y", alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def _draw_losses(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Each part faintly as it was, and clearly as a running mean."""
    axes.set_title("training loss")
    names = dict.fromkeys(name for row in rows for name in row["loss"])
    for number, name in enumerate(names):
        points = [(row["step"], row["loss"][name]) for row in rows if name in row["loss"]]
        steps, values = np.array(points, dtype=float).T
        width = max(1, len(values) // SMOOTHED)
        colour, wide = COLOURS[number % len(COLOURS)], 2.0 if name == "loss" else 1.2
        if width > 1:
            axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.7)
        axes.plot(steps, _running_mean(values, width), color=colour, linewidth=wide, label=name)
    if names:
        axes.legend(frameon=False, fontsize="small", loc="upper right")


def _running_mean(values: np.ndarray[Any, np.dtype[np.float64]], width: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean of the last ``width`` values, of fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def _draw_metrics(axes: Any, rows: Sequence[Mapping[str, Any]], best: Best) -> None:
    """The metric that counts in front, the other means and one line per dev set behind it."""
    axes.set_title("dev metrics")
    for number, name in enumerate(_one_per_set([best.metric, *(name for row in rows for name in row["metrics"])])):
        points = [(row["step"], row["metrics"][name]) for row in rows if name in row["metrics"]]
        style = {"linewidth": 2.0, "zorder": 3} if name == best.metric else {"linewidth": 1.0, "alpha": 0.8}
        dashes = ("-", "--", ":")[number // len(COLOURS) % 3]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(*zip(*points, strict=True), dashes, marker=".", color=colour, label=name, **style)
    label = f"best: {best.value:.4g} at step {best.step}"
    axes.plot(best.step, best.value, "*", color=COLOURS[0], markersize=14, zorder=4, label=label)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))  # there may be many


def _one_per_set(names: Iterable[str]) -> list[str]:
    """The first metric of each dev set, which stands behind the blank; the means have none."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.partition(" ")[2] or name, name)
    return list(first.values())
