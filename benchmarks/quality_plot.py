"""The picture that quality.py draws: every arm's gain over dense with its interval, one panel per set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quality_table import BASELINE, METRIC, Gain, Gains

from rerankit.errors import require
from rerankit.evaluation.plots import COLOURS

ACROSS = 5
WORDS = {"▲": "better", "▼": "worse", "": "undecided"}


def write_plot(gains: Gains, path: Path) -> None:
    """A PNG: the mean over sets first, then set by set, all panels on one scale.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", extra="eval", purpose="Drawing the gains")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arms = [arm for arm in gains.arms if arm != BASELINE]
    panels = {"mean over sets": [gains.overall(arm) for arm in arms]}
    panels |= {f"{name} ({gains.values[name].shape[1]})": [gains.on(arm, name) for arm in arms] for name in gains.sets}
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    figure = Figure(figsize=(2.6 + 2.5 * across, 0.9 + down * (0.7 + 0.19 * len(arms))), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (title, row) in zip(grid, panels.items(), strict=False):
        _draw(axes, title, row)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    grid[0].set_yticks(range(len(arms)), [arm.replace("$", r"\$") for arm in arms])
    grid[0].set_ylim(len(arms) - 0.5, -0.5)
    figure.supxlabel(f"{METRIC} over dense, with 95 % intervals; coloured where they leave zero out", fontsize=10)
    figure.savefig(path, format="png", dpi=130)


def _draw(axes: Any, title: str, row: Sequence[Gain]) -> None:
    axes.axvline(0.0, color=COLOURS["undecided"], linewidth=1, linestyle="--")
    for place, gain in enumerate(row):
        colour = COLOURS[WORDS[gain.mark]]
        axes.plot([gain.low, gain.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot(gain.value, place, "o", color=colour, markersize=4.5)
    axes.set_title(title, fontsize=9, fontweight="bold" if title == "mean over sets" else "normal")
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="x", labelbottom=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.2)
