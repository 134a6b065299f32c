"""What an experiment found: metrics per arm and query, verdicts against the baseline, and what moved.

Works from the run folder and the dataset alone, so that a finished run can be looked at again at any time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from rerankit.errors import InputError
from rerankit.evaluation.answers import AbstentionQuality, abstention_quality
from rerankit.evaluation.datasets import Dataset
from rerankit.evaluation.experiment import BASELINE
from rerankit.evaluation.metrics import DEFAULT_METRICS, PerQuery, rank_biased_overlap, ranking_metrics
from rerankit.evaluation.runfolder import RunFolder
from rerankit.evaluation.statistics import Verdict, verdicts

__all__ = ["ArmResult", "Movement", "Results"]


@dataclass(frozen=True)
class ArmResult:
    """One arm's records.

    Attributes:
        records: by query id; failed queries are not among them.
        failures: by query id, what went wrong.
    """

    name: str
    records: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]

    def order(self, query: str) -> list[str]:
        """Passage ids, best first."""
        return list(self.records[query]["order"])

    def seconds(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Time per query, without those that the score cache answered in part."""
        return np.array([r["seconds"] for r in self.records.values() if not r["usage"]["cache_hits"]], np.float64)

    def latency(self, quantile: float) -> float | None:
        """Seconds per query at a quantile, or None if every query had cached scores."""
        seconds = self.seconds()
        return float(np.quantile(seconds, quantile)) if len(seconds) else None

    def total(self, counter: str) -> float:
        """Sum of a usage counter over the queries."""
        return float(sum(record["usage"][counter] for record in self.records.values()))


@dataclass(frozen=True, slots=True)
class Movement:
    """What an arm did to one query, against the baseline.

    Attributes:
        gain: difference in the metric.
        entered, left: passage ids that came into or went out of the context.
        answer, baseline_answer: the answers' texts, empty without answers.
        answer_gain: difference in key-fact recall, or None.
    """

    query: str
    gain: float
    entered: tuple[str, ...]
    left: tuple[str, ...]
    answer: str = ""
    baseline_answer: str = ""
    answer_gain: float | None = None


@dataclass
class Results:
    """An experiment's outcome.

    Attributes:
        dataset: the questions and judgements it was run on.
        folder: where its records are.
        metrics: ranking metrics to compute; the first one decides.
        margin: differences up to this size do not matter.
        depth: places that count as the context where no answers were made.
        only: names of the arms to look at; None means all that the folder holds.
        arms: those with at least one answer.
        dead: the others, with the first thing that went wrong.
    """

    dataset: Dataset
    folder: RunFolder
    metrics: Sequence[str] = DEFAULT_METRICS
    margin: float = 0.0
    seed: int = 0
    depth: int = 5
    only: Sequence[str] | None = None
    arms: dict[str, ArmResult] = field(init=False)
    dead: dict[str, str] = field(init=False)
    _verdicts: dict[str, dict[str, Verdict]] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.folder.manifest()
        wanted = {BASELINE, *self.only} if self.only is not None else set(self.folder.arms())
        found = {name: self._arm(name) for name in self.folder.arms() if name in wanted}
        self.arms = {name: arm for name, arm in found.items() if arm.records}
        self.dead = {name: next(iter(arm.failures.values()), "it has no records") for name, arm in found.items()
                     if not arm.records}  # fmt: skip
        if BASELINE not in self.arms:
            raise InputError(f"{self.folder.path} has no results of the arm {BASELINE!r}; run the experiment first")

    def _arm(self, name: str) -> ArmResult:
        records, failures = {}, {}
        for record in self.folder.records(name):
            query = str(record["query"])
            if query not in self.dataset.questions:
                continue
            if record.get("error"):
                failures[query] = str(record["error"])
            else:
                records[query] = _light(record)
        return ArmResult(name, records, failures)

    @cached_property
    def judged(self) -> list[str]:
        """Queries with a relevant passage that every arm answered. No arm gains by failing."""
        return [
            query
            for query in self.dataset.questions
            if max(self.dataset.qrels.get(query, {}).values(), default=0) > 0
            and all(query in arm.records for arm in self.arms.values())
        ]

    @cached_property
    def _judged(self) -> set[str]:
        return set(self.judged)

    @cached_property
    def left_out(self) -> dict[str, list[str]]:
        """Per arm the judged queries that it failed on; these are left out for all arms."""
        lost = {name: [q for q in arm.failures if q in self.dataset.qrels] for name, arm in self.arms.items()}
        return {name: queries for name, queries in lost.items() if queries}

    @cached_property
    def values(self) -> dict[str, dict[str, PerQuery]]:
        """Per arm, per metric, per query; ranking metrics first, then those of the answers.

        Raises:
            InputError: there is nothing to evaluate.
        """
        if not self.judged:
            raise InputError(f"Nothing to evaluate in {self.folder.path}: {self._why_nothing()}")
        qrels = {query: self.dataset.qrels[query] for query in self.judged}
        ranked = {
            name: ranking_metrics({query: arm.order(query) for query in self.judged}, qrels, self.metrics)
            for name, arm in self.arms.items()
        }
        answers = _common({name: self._answer_values(arm) for name, arm in self.arms.items()})
        return {name: {**ranked[name], **answers[name]} for name in self.arms}

    def _why_nothing(self) -> str:
        if not self.dataset.qrels:
            return f"no question of {self.dataset.name} has a judged passage in its corpus"
        failed = ", ".join(f"{name} failed on {len(arm.failures)}" for name, arm in self.arms.items() if arm.failures)
        return f"no judged question was answered by every arm ({failed or 'the experiment is not finished'})"

    def _answer_values(self, arm: ArmResult) -> dict[str, PerQuery]:
        values: dict[str, PerQuery] = {}
        for query in self.judged:
            for metric, value in arm.records[query].get("answer_metrics", {}).items():
                values.setdefault(metric, {})[query] = float(value)
        return values

    def mean(self, arm: str, metric: str) -> float | None:
        """An arm's mean over the common queries, or None if there are no values."""
        per_query = self.values[arm].get(metric, {})
        return float(np.mean(list(per_query.values()))) if per_query else None

    def differences(self, arm: str, metric: str) -> PerQuery:
        """Arm minus baseline, per query."""
        ours, base = self.values[arm].get(metric, {}), self.values[BASELINE].get(metric, {})
        return {query: ours[query] - base[query] for query in base if query in ours}

    def verdicts(self, metric: str | None = None) -> dict[str, Verdict]:
        """Every arm against the baseline, Holm-corrected over the arms; empty with fewer than two common queries."""
        name = metric or self.metrics[0]
        if name not in self._verdicts:
            differences = {arm: list(self.differences(arm, name).values()) for arm in self.arms if arm != BASELINE}
            usable = {arm: values for arm, values in differences.items() if len(values) >= 2}
            self._verdicts[name] = verdicts(usable, margin=self.margin, metric=name, seed=self.seed) if usable else {}
        return self._verdicts[name]

    def overlap(self, one: str, two: str) -> float:
        """Mean rank-biased overlap of two arms' orders."""
        pairs = [(self.arms[one].order(q), self.arms[two].order(q)) for q in self.judged]
        return float(np.mean([rank_biased_overlap(a, b) for a, b in pairs])) if pairs else 1.0

    def abstention(self, arm: str) -> AbstentionQuality | None:
        """How well the arm's answers chose silence; None without answers."""
        silent = {q: bool(r["answer"]["abstained"]) for q, r in self.arms[arm].records.items() if r.get("answer")}
        return abstention_quality(silent, self.dataset.questions) if silent else None

    def movements(self, arm: str) -> list[Movement]:
        """What the arm did to each query, largest change of the first metric first."""
        moves = [self.movement(arm, query) for query in self.judged]
        return sorted(moves, key=lambda move: -abs(move.gain))

    def movement(self, arm: str, query: str) -> Movement:
        """What the arm did to one query.

        Raises:
            InputError: the arm or query is not in this experiment, or was not answered by every arm.
        """
        if arm not in self.arms:
            raise InputError(f"No arm {arm!r} in {self.folder.path}; there are {list(self.arms)}")
        if query not in self._judged:
            raise InputError(f"Query {query!r} has no judged result in every arm of {self.folder.path}")
        ours, base = self.arms[arm].records[query], self.arms[BASELINE].records[query]
        now, before = self._context(ours), self._context(base)
        return Movement(
            query,
            self._gain(arm, self.metrics[0], query) or 0.0,
            tuple(name for name in now if name not in before),
            tuple(name for name in before if name not in now),
            _text(ours),
            _text(base),
            self._gain(arm, "key_fact_recall", query),
        )

    def _gain(self, arm: str, metric: str, query: str) -> float | None:
        ours, base = self.values[arm].get(metric, {}).get(query), self.values[BASELINE].get(metric, {}).get(query)
        return None if ours is None or base is None else ours - base

    def _context(self, record: Mapping[str, Any]) -> list[str]:
        return list(record.get("context") or record["order"][: self.depth])


def _text(record: Mapping[str, Any]) -> str:
    answer = record.get("answer")
    return str(answer["text"]) if answer else ""


def _light(record: dict[str, Any]) -> dict[str, Any]:
    """A record in little memory: without its scores, and with one copy of each id for all arms and queries."""
    kept = {name: value for name, value in record.items() if name != "scores"}
    kept["order"] = [sys.intern(passage) for passage in record["order"]]
    return kept


def _common(values: dict[str, dict[str, PerQuery]]) -> dict[str, dict[str, PerQuery]]:
    """Each metric on the queries where every arm has it: a judge that failed for one arm counts for none."""
    shared: dict[str, set[str]] = {}
    for metrics in values.values():
        for metric, per_query in metrics.items():
            shared[metric] = shared.get(metric, set(per_query)) & set(per_query)
    return {
        arm: {metric: {q: v for q, v in per_query.items() if q in shared[metric]} for metric, per_query in mine.items()}
        for arm, mine in values.items()
    }
