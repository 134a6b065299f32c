"""What quality.py shows of its measurements: gains over dense with their intervals, tables, and the bars.

Differences are paired by query. On one set their interval is the symmetric studentised bootstrap's of
:func:`rerankit.evaluation.resampling.mean_interval`; that of the mean over sets is stratified: queries are drawn anew
within each set, so it speaks of these sets with other queries, not of other sets. A difference is significant, ▲ or ▼,
when its 95 % interval leaves zero out; none is on a set with too few queries, or too few that moved
(:mod:`rerankit.evaluation.statistics`). With some dozen arms on some dozen sets, expect a few by chance alone.

Bars, all in nDCG@10 over dense: default .06 on average and nowhere below -.01; compressed .03 on average, more than prf
and significantly worse on no set; the best pipeline .09 on average and more than default. The best of many is chosen
by the figure that it is judged by, which flatters it a little.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from rerankit.evaluation.metrics import PerQuery
from rerankit.evaluation.resampling import mean_interval, resample_counts
from rerankit.evaluation.statistics import MIN_MOVED, MIN_QUERIES

METRIC = "nDCG@10"
BASELINE = "dense"
DEFAULT_BAR, DEFAULT_WORST, COMPRESSED_BAR, PIPELINE_BAR = 0.06, -0.01, 0.03, 0.09
RESAMPLES = 4999

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Gain:
    """A mean difference and its 95 % interval; ``decided`` if there is enough data for a claim."""

    value: float
    low: float
    high: float
    decided: bool = True

    @property
    def mark(self) -> str:
        """▲ or ▼ if the interval leaves zero out, else empty."""
        if not self.decided or self.low <= 0.0 <= self.high:
            return ""
        return "▲" if self.low > 0.0 else "▼"

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}] {self.mark}".rstrip()


class Gains:
    """nDCG@10 of every arm on every set, and what it gains over dense.

    Args:
        results: per set and arm, each query's value; the same arms on every set, dense among them.

    Attributes:
        arms, sets: their names.
        values: per set, float64 ``[arms, queries]``.
    """

    def __init__(self, results: Mapping[str, Mapping[str, PerQuery]]) -> None:
        self.sets = list(results)
        self.arms = list(results[self.sets[0]])
        self.values = {name: self._matrix(results[name]) for name in self.sets}

    def _matrix(self, result: Mapping[str, PerQuery]) -> Floats:
        return np.array([[result[arm][query] for query in result[BASELINE]] for arm in self.arms])

    def mean(self, arm: str, name: str | None = None) -> float:
        """Of one set, or over all sets, which weigh the same."""
        row = self.arms.index(arm)
        return float(np.mean([self.values[one][row].mean() for one in ([name] if name else self.sets)]))

    def on(self, arm: str, name: str) -> Gain:
        """Over dense, on one set."""
        return self._by_set[name][self.arms.index(arm)]

    @functools.cached_property
    def _by_set(self) -> dict[str, list[Gain]]:
        found = {}
        for name, values in self.values.items():
            differences = values - values[self.arms.index(BASELINE)]
            moved, intervals = np.count_nonzero(differences, axis=1), mean_interval(differences, resamples=RESAMPLES)
            found[name] = [
                Gain(float(row.mean()), low, high, values.shape[1] >= MIN_QUERIES and changed >= MIN_MOVED)
                for row, (low, high), changed in zip(differences, intervals.tolist(), moved, strict=True)
            ]
        return found

    def overall(self, arm: str, base: str = BASELINE) -> Gain:
        """Over another arm, on average over the sets."""
        one, other = self.arms.index(arm), self.arms.index(base)
        differences = [values[one] - values[other] for values in self.values.values()]
        value = float(np.mean([row.mean() for row in differences]))
        return Gain(value, *stratified_interval(differences), min(map(len, differences)) >= MIN_QUERIES)

    def worst(self, arm: str) -> str:
        """The set where the arm gains least."""
        return min(self.sets, key=lambda name: self.on(arm, name).value)

    def significant(self, arm: str, mark: str) -> list[str]:
        """The sets where its gain over dense has this mark."""
        return [name for name in self.sets if self.on(arm, name).mark == mark]


def stratified_interval(differences: Sequence[Floats], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval for the mean over strata of their mean differences.

    Each stratum is resampled by itself, as the sets were not drawn at random (Efron and Tibshirani, "An Introduction to
    the Bootstrap", 1993, chapter 8).

    Args:
        differences: per stratum, one number per query.
        seed: of the resamples.
    """
    rng, means = np.random.default_rng(seed), np.zeros(RESAMPLES)
    for values in differences:
        parts = [counts @ values for counts in resample_counts(rng, RESAMPLES, len(values))]
        means += np.concatenate(parts) / len(values)
    low, high = np.quantile(means / len(differences), [0.025, 0.975])
    return float(low), float(high)


def judged(gains: Gains, pipelines: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Whether each bar that can be looked at is met, and with which figures."""
    if "default" in gains.arms:
        mean, worst = gains.overall("default"), gains.worst("default")
        least = gains.on("default", worst)
        yield mean.value >= DEFAULT_BAR, f"default over dense {mean}, bar {DEFAULT_BAR:+.2f}"
        yield least.value >= DEFAULT_WORST, f"default at its worst, on {worst}, {least}, bar {DEFAULT_WORST:+.2f}"
    if "compressed" in gains.arms:
        mean, harmed = gains.overall("compressed"), gains.significant("compressed", "▼")
        yield mean.value >= COMPRESSED_BAR, f"compressed over dense {mean}, bar {COMPRESSED_BAR:+.2f}"
        yield not harmed, f"compressed significantly worse than dense on: {', '.join(harmed) or 'no set'}"
        if "prf" in gains.arms:
            beside = gains.overall("compressed", "prf")
            yield beside.value > 0, f"compressed over prf {beside}"
    if pipelines:
        best = max(pipelines, key=gains.mean)
        mean = gains.overall(best)
        yield mean.value >= PIPELINE_BAR, f"best pipeline, {best}, over dense {mean}, bar {PIPELINE_BAR:+.2f}"
        if "default" in gains.arms:
            beside = gains.overall(best, "default")
            yield beside.value > 0, f"best pipeline, {best}, over default {beside}"


def print_bars(gains: Gains, pipelines: Sequence[str]) -> None:
    """One line per bar."""
    for met, what in judged(gains, pipelines):
        print(f"{'met   ' if met else 'MISSED'} {what}")
    for name in ("default", "compressed"):
        if name not in gains.arms:
            print(f"not judged: {name} was not measured")


def print_tables(gains: Gains, title: str) -> None:
    """The arms over all sets, then every set; there the arms go by their numbers."""
    columns = ("", "arm", METRIC, "over dense, 95 % interval", "sets ▲", "sets ▼", "at its worst")
    arms = Table(*columns, title=f"{title}; mean of {len(gains.sets)} sets")
    for column in arms.columns[2:6]:
        column.justify = "right"
    for number, row in enumerate(_arm_rows(gains), 1):
        arms.add_row(str(number), *(cell.replace("[", r"\[") for cell in row))
    numbers = map(str, range(1, len(gains.arms) + 1))
    sets = Table("set", "queries", *numbers, title=title, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    sets.columns[0].no_wrap = True
    for column in sets.columns[1:]:
        column.justify = "right"
    for row in _set_rows(gains):
        sets.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(arms)
    console.print(sets)
    console.print("▲ ▼ significantly better, worse than dense", highlight=False)


def markdown(gains: Gains) -> str:
    """Three tables: the arms over all sets; every set; the gains on every set with their intervals."""
    first = ("arm", METRIC, "over dense, 95 % interval", "sets ▲", "sets ▼", "at its worst")
    others = [arm for arm in gains.arms if arm != BASELINE]
    intervals = [[name, *(str(gains.on(arm, name)) for arm in others)] for name in gains.sets]
    tables = [
        _markdown(first, _arm_rows(gains)),
        _markdown(("set", "queries", *gains.arms), _set_rows(gains)),
        _markdown(("over dense", *others), intervals),
    ]
    return "\n".join(tables)


def _arm_rows(gains: Gains) -> Iterator[list[str]]:
    for arm in gains.arms:
        yield [arm, f"{gains.mean(arm):.4f}", *(["", "", "", ""] if arm == BASELINE else _compared(gains, arm))]


def _compared(gains: Gains, arm: str) -> list[str]:
    worst = gains.worst(arm)
    marked = [str(len(gains.significant(arm, mark))) for mark in "▲▼"]
    return [str(gains.overall(arm)), *marked, f"{gains.on(arm, worst).value:+.4f} {worst}"]


def _set_rows(gains: Gains) -> Iterator[list[str]]:
    for name in gains.sets:
        cells = [f"{gains.mean(arm, name):.3f}{gains.on(arm, name).mark or ' '}" for arm in gains.arms]
        yield [name, str(gains.values[name].shape[1]), *cells]


def _markdown(columns: Sequence[str], rows: Iterator[list[str]] | Sequence[list[str]]) -> str:
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.strip().replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
