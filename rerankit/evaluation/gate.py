"""Gates for continuous integration: conditions that a comparison must not meet, and yesterday's run as the bar."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rerankit.errors import InputError
from rerankit.evaluation.statistics import MIN_QUERIES, verdicts
from rerankit.redaction import public_spec

__all__ = ["Condition", "Gate", "worse_than"]

_TESTS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"(?:(?P<arm>.+):\s+)?(?P<figure>[^<>=:]+?)\s*(?P<sign><=|>=|<|>)\s*(?P<bound>[-+.\deE]+)\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """One thing that was checked.

    Attributes:
        arm: whose figure it was.
        passed: False fails the build.
        sentence: what was found.
    """

    arm: str
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Condition:
    """``"nDCG@10 < 0.40"``, or ``"arm: ms p95 > 200"`` for one arm: what must not be.

    Attributes:
        figure: a column of the report's table, or ``failed``: judged questions that the arm has no result for.
        arm: whose; None means every arm that was asked for.
    """

    figure: str
    sign: str
    bound: float
    arm: str | None = None

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            InputError: it is none.
        """
        match = _CONDITION.fullmatch(text.strip())
        try:
            if match is not None:
                arm = match["arm"] and public_spec(match["arm"])  # as arms are named
                return cls(match["figure"].strip(), match["sign"], float(match["bound"]), arm)
        except ValueError:
            pass
        shown = public_spec(text)
        raise InputError(f"Cannot read the condition {shown!r}; write 'nDCG@10 < 0.40' or 'arm: ms p95 > 200'")

    def check(self, summary: Mapping[str, Any], asked: Iterable[str]) -> list[Gate]:
        """One gate per arm; an arm without the figure (it failed everywhere) does not pass.

        Args:
            summary: of the comparison.
            asked: the arms that a condition without an arm speaks of.

        Raises:
            InputError: there is no such arm or figure.
        """
        return [self._gate(summary, arm) for arm in ([self.arm] if self.arm is not None else asked)]

    def _gate(self, summary: Mapping[str, Any], arm: str) -> Gate:
        if arm in summary["dead"]:
            return Gate(arm, False, f"{arm} has no {self.figure}: it failed on every question")
        if arm not in summary["arms"]:
            raise InputError(f"The condition on {arm!r} meets no arm; there are {sorted(summary['arms'])}")
        figures = {**summary["arms"][arm]["figures"], "failed": summary["arms"][arm]["failed"]}
        if self.figure not in figures:
            raise InputError(f"The condition names {self.figure!r}, which is no figure; there are {list(figures)}")
        value = figures[self.figure]
        if value is None:
            return Gate(arm, False, f"{arm} has no {self.figure}")
        met = _TESTS[self.sign](value, self.bound)
        shown = f"{value:.4f}" if isinstance(value, float) else value
        return Gate(arm, not met, f"{arm}: {self.figure} is {shown}, fails if {self.sign} {self.bound:g}")


def worse_than(now: Mapping[str, Any], before: Mapping[str, Any], *, margin: float, seed: int = 0) -> list[Gate]:
    """Hold a comparison against an earlier one: does an arm do worse than the arm of the same name did?

    With ten common queries or more the verdict on the paired differences decides, corrected over the arms; with fewer,
    a mean that dropped by more than ``margin``. An arm that failed on more questions than before does worse, too: what
    it failed on is in no figure.

    Raises:
        InputError: the two were measured on other data or by another metric, or share no arm.
    """
    if (now["data"], now["data_sha256"]) != (before.get("data"), before.get("data_sha256")):
        raise InputError(f"The earlier run was measured on other data ({before.get('data')}, not {now['data']}, "
                         "or its questions, judgements or passages changed): it is no bar for this one")  # fmt: skip
    if now["metric"] != before.get("metric"):
        raise InputError(f"The earlier run was decided by {before.get('metric')}, this one by {now['metric']}")
    common = [name for name in before["arms"] if name in now["arms"] or name in now["dead"]]
    if not common:
        raise InputError(f"The earlier run has the arms {sorted(before['arms'])}; none of them is in this one")
    dead = [Gate(name, False, f"{name} failed on every question") for name in common if name in now["dead"]]
    pairs = {name: (now["arms"][name], before["arms"][name]) for name in common if name in now["arms"]}
    lost = [
        Gate(name, False, f"{name} failed on {ours['failed']} questions, in the earlier run on {theirs['failed']}")
        for name, (ours, theirs) in pairs.items()
        if ours["failed"] > theirs["failed"]
    ]
    changes = {name: _changes(*pair) for name, pair in pairs.items()}
    return [*_paired(changes, margin, now["metric"], seed), *_by_mean(changes, margin, now["metric"]), *lost, *dead]


def _changes(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[float]:
    old = before["per_query"]
    return [value - old[query] for query, value in now["per_query"].items() if query in old]


def _paired(changes: Mapping[str, list[float]], margin: float, metric: str, seed: int) -> list[Gate]:
    enough = {name: values for name, values in changes.items() if len(values) >= MIN_QUERIES}
    if not enough:
        return []
    found = verdicts(enough, margin=margin, metric=metric, seed=seed)
    return [Gate(name, item.word != "worse", f"{name} against the earlier run: {item.sentence}")
            for name, item in found.items()]  # fmt: skip


def _by_mean(changes: Mapping[str, list[float]], margin: float, metric: str) -> list[Gate]:
    few = {name: values for name, values in changes.items() if len(values) < MIN_QUERIES}
    means = {name: sum(values) / len(values) if values else None for name, values in few.items()}
    return [
        Gate(name, False, f"{name} shares no query with the earlier run")
        if mean is None
        else Gate(name, mean >= -margin, f"{name} against the earlier run: {metric} changed by {mean:+.4f} "
                                         f"on {len(few[name])} queries, too few for a verdict")
        for name, mean in means.items()
    ]  # fmt: skip
