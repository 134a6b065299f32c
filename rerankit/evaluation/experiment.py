"""One retrieval pass, any number of arms, through to the answers; resumable query by query.

The arm ``none`` (the first stage's own order) is always in. For every query the arms run in random order, so that a
drifting machine favours none of them, and parts that arms have in common are scored once (see ``sharing.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rerankit.errors import InputError, RerankitError, SpecError
from rerankit.evaluation.answers import answer_metrics
from rerankit.evaluation.candidates import Candidates
from rerankit.evaluation.datasets import Dataset, Question
from rerankit.evaluation.formats import write_run
from rerankit.evaluation.judge import AnswerJudge, Opinion
from rerankit.evaluation.runfolder import RunFolder, slug
from rerankit.evaluation.sharing import Memo, share
from rerankit.models.work import deadline_after
from rerankit.rag.answer import Answer, Generator
from rerankit.rag.context import pack
from rerankit.redaction import public_spec
from rerankit.rerankers.base import Reranker
from rerankit.rerankers.cache import ScoreCache
from rerankit.spec import load
from rerankit.types import Passage, Ranking

__all__ = ["BASELINE", "Arm", "Experiment", "sweep"]

BASELINE = "none"
"""The arm that every other one is compared with."""


@dataclass(frozen=True)
class Arm:
    """One way to order the candidates.

    Attributes:
        name: for tables and files; of a spec that stands for it, what may be shown.
        reranker: a spec, or a reranker that is already built.
        depth: it sees this many candidates; the rest keeps its order behind them. None means all.
        top_k: passages in its context; None means the experiment's.
        deadline_s: time limit per query.
    """

    name: str
    reranker: str | Reranker = field(repr=False)
    depth: int | None = None
    top_k: int | None = None
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", public_spec(self.name))

    @classmethod
    def parse(cls, text: str) -> Arm:
        """``spec`` or ``name=spec``."""
        name, sign, spec = text.partition("=")
        plain = sign and not any(mark in name for mark in "[]:|")
        return cls(name.strip(), spec.strip()) if plain else cls(text.strip(), text.strip())

    def settings(self) -> dict[str, Any]:
        """What it was asked to be, as it may be written down: a key is no part of that."""
        spec = public_spec(str(self.reranker))
        return {"spec": spec, "depth": self.depth, "top_k": self.top_k, "deadline_s": self.deadline_s}


def sweep(arms: Iterable[Arm], *, depths: Sequence[int] = (), top_ks: Sequence[int] = ()) -> list[Arm]:
    """Every arm at every depth and context size; ``none`` varies in context size only."""
    result = []
    for arm in arms:
        for depth in depths if depths and arm.reranker != BASELINE else (arm.depth,):
            for top_k in top_ks or (arm.top_k,):
                marks = [f"@{depth}"] * (depth != arm.depth) + [f"k{top_k}"] * (top_k != arm.top_k)
                result.append(Arm(" ".join([arm.name, *marks]), arm.reranker, depth, top_k, arm.deadline_s))
    return result


@dataclass
class Experiment:
    """Runs arms over a dataset's candidates and writes what they do into a run folder.

    Attributes:
        dataset: questions and judgements.
        candidates: per query id, the same list for every arm.
        arms: ``none`` is added in front if it is missing.
        folder: where records go.
        generator: writes an answer from each arm's context; None leaves answers out.
        top_k: passages in a context.
        seed: of the arms' order.
        cache: scores of pointwise families, kept between runs.
        judges: further metrics of an answer, by name; see ``judge.py``.
    """

    dataset: Dataset
    candidates: Candidates
    arms: Sequence[Arm]
    folder: RunFolder
    generator: Generator | None = None
    top_k: int = 5
    seed: int = 0
    cache: ScoreCache | None = None
    judges: Mapping[str, AnswerJudge] = field(default_factory=dict)
    memo: Memo = field(default_factory=Memo)

    def __post_init__(self) -> None:
        if BASELINE not in {arm.name for arm in self.arms}:
            self.arms = [Arm(BASELINE, BASELINE), *self.arms]
        names = [arm.name for arm in self.arms]
        if len(set(names)) < len(names):
            raise InputError(f"Arm names must differ, got {names}")

    def run(self, progress: Callable[[int], None] | None = None) -> None:
        """Do what the folder does not hold yet, then write the TREC runs.

        Args:
            progress: called with 1 after each query.

        Raises:
            SpecError, ModelError, MissingExtraError: an arm cannot be built; nothing has been run then.
            StoreError: the folder cannot be written.
        """
        with ExitStack() as opened:
            self._run({arm.name: self._build(arm, opened) for arm in self.arms}, progress or (lambda _: None))

    def _run(self, rerankers: Mapping[str, Reranker], advance: Callable[[int], None]) -> None:
        self.folder.name_arms([arm.name for arm in self.arms])
        self.folder.keep_settings(
            {
                # The fingerprint too, since an alias or a model may change its meaning between two runs.
                arm.name: {**arm.settings(), "fingerprint": rerankers[arm.name].passage_fingerprint}
                for arm in self.arms
                if isinstance(arm.reranker, str)
            }
        )
        done = {arm.name: self._finished(arm.name) for arm in self.arms}
        warm = False
        for question in self.dataset.questions.values():
            missing = [arm for arm in self.arms if question.id not in done[arm.name]]
            if missing and not warm:
                self._warm_up(question, rerankers)
                warm = True
            self._ask(question, missing, rerankers)
            advance(1)
        self._write_runs()

    def _build(self, arm: Arm, opened: ExitStack) -> Reranker:
        """The arm's reranker; what is built here is closed with ``opened``."""
        if not isinstance(arm.reranker, str):
            return share(arm.reranker, self.memo)
        try:
            built = load(arm.reranker, cache=self.cache) if self.cache is not None else load(arm.reranker)
        except SpecError:
            built = load(arm.reranker)  # no part of it takes a score cache; a real mistake is raised here again
        opened.callback(built.close)
        return share(built, self.memo)

    def _finished(self, name: str) -> set[str]:
        """Queries that this arm has answered; failed ones are tried again."""
        self.folder.repair(name)
        return {str(record["query"]) for record in self.folder.records(name) if not record.get("error")}

    def _warm_up(self, question: Question, rerankers: Mapping[str, Reranker]) -> None:
        """Load models and fill caches before the clock counts; failures show up in the run itself."""
        for reranker in rerankers.values():
            try:
                reranker.rank_whole([(question.text, self.candidates[question.id])], None)
            except RerankitError:
                continue

    def _ask(self, question: Question, arms: Sequence[Arm], rerankers: Mapping[str, Reranker]) -> None:
        self.memo.clear()
        answers: dict[tuple[str, ...], dict[str, Any]] = {}
        rng = np.random.default_rng([self.seed, *question.id.encode()])
        for i in rng.permutation(len(arms)):
            arm = arms[i]
            try:
                record = self._record(question, arm, rerankers[arm.name], answers)
            except RerankitError as error:
                record = {"query": question.id, "error": f"{type(error).__name__}: {error}"}
            self.folder.append(arm.name, record)

    def _record(
        self,
        question: Question,
        arm: Arm,
        reranker: Reranker,
        answers: dict[tuple[str, ...], dict[str, Any]],
    ) -> dict[str, Any]:
        passages = self.candidates[question.id]
        ranking, seconds = self._rank(question, passages[: arm.depth], arm, reranker)
        tail = passages[arm.depth :] if arm.depth is not None else []
        record = {
            "query": question.id,
            "order": [hit.id for hit in ranking] + [passage.id for passage in tail],
            "scores": [hit.score for hit in ranking],
            "status": ranking.status,
            "reason": ranking.reason,
            "seconds": seconds,
            "usage": ranking.usage.to_dict(),
        }
        if self.generator is not None:
            record |= self._answer(self.generator, question, ranking, arm.top_k or self.top_k, answers)
        return record

    def _rank(
        self, question: Question, passages: Sequence[Passage], arm: Arm, reranker: Reranker
    ) -> tuple[Ranking, float]:
        """The ranking, and the seconds it would have taken without what other arms had already done."""
        self.memo.saved_seconds = 0.0
        started = time.monotonic()
        (ranking,) = reranker.rank_whole([(question.text, passages)], deadline_after(arm.deadline_s))
        return ranking, time.monotonic() - started + self.memo.saved_seconds

    def _answer(
        self,
        generator: Generator,
        question: Question,
        ranking: Ranking,
        top_k: int,
        answers: dict[tuple[str, ...], dict[str, Any]],
    ) -> dict[str, Any]:
        """The answer from one context and what it is worth; equal contexts are answered and judged once."""
        context = pack(ranking.hits, limit=top_k)
        key = tuple(f"{block.hit.id}\0{block}" for block in context.blocks)
        if key not in answers:
            started = time.monotonic()
            answer = generator.generate(question.text, context)
            answers[key] = {
                "context": [block.hit.id for block in context.blocks],
                "answer": answer.to_dict(),
                "answer_seconds": time.monotonic() - started,
                **self._judged(question, answer, [block.text for block in context.blocks]),
            }
        return answers[key]

    def _judged(self, question: Question, answer: Answer, context: Sequence[str]) -> dict[str, Any]:
        if not question.answerable:
            return {"answer_metrics": {}}
        metrics = answer_metrics(answer, question, self.dataset.qrels.get(question.id, {}))
        opinions = {name: self._opinion(judge, question, answer, context) for name, judge in self.judges.items()}
        values = {name: opinion.value for name, opinion in opinions.items() if opinion.value is not None}
        found: dict[str, Any] = {"answer_metrics": metrics | values}
        if opinions:
            found["judge_spread"] = {name: opinions[name].spread for name in values}
            found["judge_failures"] = sum(opinion.failures for opinion in opinions.values())
        return found

    def _opinion(self, judge: AnswerJudge, question: Question, answer: Answer, context: Sequence[str]) -> Opinion:
        if answer.abstained:
            return Opinion(0.0)
        opinion = judge(question.text, answer.text, context, question.answers)
        return opinion if isinstance(opinion, Opinion) else Opinion(float(opinion))

    def _write_runs(self) -> None:
        for arm in self.arms:
            orders = {r["query"]: r["order"] for r in self.folder.records(arm.name) if not r.get("error")}
            run = {q: {name: float(len(order) - i) for i, name in enumerate(order)} for q, order in orders.items()}
            path = self.folder.write(f"runs/{slug(arm.name)}.run", "")
            write_run(run, path, slug(arm.name))
