"""Pictures of a comparison, as SVG text that needs nothing from outside."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rerankit.errors import require

if TYPE_CHECKING:
    from rerankit.evaluation.statistics import Verdict

__all__ = ["forest", "pareto", "wins_and_losses"]

BARS = 1000
"""Steps that a screen can tell apart."""

_PLOT_POINTS, _LINE = 150.0, 13.0  # height of the plot of quality against time, and of a line of text in it

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = {"better": "#009E73", "worse": "#D55E00", "equivalent": "#0072B2", "undecided": "#7F7F7F"}


def forest(verdicts: Mapping[str, Verdict], metric: str) -> str:
    """Each arm's difference to the baseline with its interval, and the line of no difference."""
    figure, axes = _figure(height=1.0 + 0.4 * len(verdicts))
    rows = list(verdicts.items())[::-1]
    for row, (_, verdict) in enumerate(rows):
        low, high = verdict.interval
        axes.plot([low, high], [row, row], color=COLOURS[verdict.word], linewidth=2.5, solid_capstyle="round")
        axes.plot(verdict.difference, row, "o", color=COLOURS[verdict.word], markersize=7)
        left = high < 0  # away from the line of no difference
        where = {"xytext": (-9 if left else 9, 0), "ha": "right" if left else "left", "va": "center"}
        end = low if left else high
        axes.annotate(verdict.word, (end, row), textcoords="offset points", color=COLOURS[verdict.word], **where)
    axes.axvline(0.0, color="#7F7F7F", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(verdicts)), [_short(arm) for arm, _ in rows])
    axes.set_ylim(-0.7, len(verdicts) - 0.3)
    axes.margins(x=0.25)
    axes.set_xlabel(f"difference in {metric} to the first stage's order")
    return _svg(figure)


def pareto(points: Mapping[str, tuple[float, float]], metric: str) -> str:
    """Quality against median seconds per query; the arms that no other arm beats in both are joined.

    Args:
        points: per arm, (seconds, metric).
        metric: the metric's name.
    """
    figure, axes = _figure(height=3.6)
    best = _front(points)
    places = {arm: (max(seconds * 1000, 1e-3), quality) for arm, (seconds, quality) in points.items()}
    for arm, drop in _drops(places).items():
        axes.plot(*places[arm], "o", color=COLOURS["better" if arm in best else "undecided"], markersize=7)
        axes.annotate(_short(arm), places[arm], xytext=(7, 4 - drop), textcoords="offset points")
    line = [places[arm] for arm in best]
    axes.plot([x for x, _ in line], [y for _, y in line], color=COLOURS["better"], linewidth=1, alpha=0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("milliseconds per query, median (logarithmic)")
    axes.set_ylabel(metric)
    return _svg(figure)


def wins_and_losses(differences: Sequence[float], metric: str, bound: float | None = None) -> str:
    """One step per query, sorted: what the arm won and lost against the first stage.

    Args:
        differences: arm minus baseline.
        metric: its name.
        bound: largest difference of any picture beside this one, so that they share a scale.
    """
    figure, axes = _figure(height=1.9)
    values = sorted(differences, reverse=True)
    edges, heights = _steps(values)
    axes.stairs([max(height, 0.0) for height in heights], edges, fill=True, color=COLOURS["better"])
    axes.stairs([min(height, 0.0) for height in heights], edges, fill=True, color=COLOURS["worse"])
    axes.axhline(0.0, color="#7F7F7F", linewidth=0.8)
    if bound:
        axes.set_ylim(-1.05 * bound, 1.05 * bound)
    axes.set_xticks([])
    won, lost = sum(v > 0 for v in values), sum(v < 0 for v in values)
    axes.set_xlabel(f"{won} queries won, {lost} lost, {len(values) - won - lost} unchanged")
    axes.set_ylabel(f"Δ {metric}")
    return _svg(figure)


def _drops(places: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Points by which each arm's label is moved down, so that those of close neighbours do not lie on each other."""
    columns = [math.log(x) for x, _ in places.values()]
    rows = [y for _, y in places.values()]
    width, height = max(columns) - min(columns) or 1.0, max(rows) - min(rows) or 1.0
    drops: dict[str, float] = {}
    taken: list[tuple[float, float]] = []
    for arm in sorted(places, key=lambda name: -places[name][1]):
        across, up = math.log(places[arm][0]) / width, places[arm][1] / height * _PLOT_POINTS
        level = min(
            [up, *(other - _LINE for beside, other in taken if abs(beside - across) < 0.3 and other - up < _LINE)]
        )
        taken.append((across, level))
        drops[arm] = up - level
    return drops


def _steps(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Edges and heights of at most ``BARS`` steps along sorted values; of several, one is shown."""
    count = min(len(values), BARS)
    width = len(values) / max(count, 1)
    return [i * width for i in range(count + 1)], [values[int((i + 0.5) * width)] for i in range(count)]


def _front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Arms that no other arm beats in both speed and quality, fastest first."""
    best: list[str] = []
    for arm in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not best or points[arm][1] > points[best[-1]][1]:
            best.append(arm)
    return best


def _short(arm: str) -> str:
    return (arm if len(arm) <= 34 else f"{arm[:33]}…").replace("$", r"\$")


def _figure(height: float) -> tuple[Any, Any]:
    require("matplotlib", extra="eval", purpose="Plotting a comparison")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "rerankit", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
