"""Cascade, Fusion and Prior: rerankers made of rerankers, and the order that needs none.

    cascade = cheap[:30] | strong[:10] | mmr[:5]
    fusion = Fusion([dense, lexical], method="rrf")

Composites obey the contract of every other family and nest freely. Candidates are followed by their position, never
by id or text, so duplicates survive every composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.scaling import z_scores
from rerankit.types import Hit, Passage, Ranking, Span, Usage

__all__ = ["Cascade", "Fusion", "FusionMethod", "Prior"]

FusionMethod = Literal["z-score", "exp", "rrf"]

_SHARPNESS = 0.5
"""Of the ``exp`` fusion: how much more a score counts that stands out of its list."""


class Prior(Reranker):
    """Keeps the order that the first stage gave: the baseline that a reranker must beat (spec name ``none``).

    The score is the first stage's own if every passage has a finite one, else 1 / rank. The order is the input order
    in either case, so the scale says ``order``.
    """

    scale = "order"
    by_text = False
    rearranges = True

    def __init__(self, **options: Unpack[RerankerOptions]) -> None:
        super().__init__(**options)
        self.model = "none"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Input order, prior scores."""
        return [Scored(request.prior_scores(), order=np.arange(len(request.passages))) for request in requests]


class Cascade(Reranker):
    """Stages in a row: each reorders the best ``top_k`` of the stage before, what was cut keeps its order behind.

    Stage one judges all candidates. A later stage sees the score of the stage before as ``Passage.score``. Score,
    scale and probability of the answer are those of the last stage that scores; passages it did not see have no
    score and status ``unscored``, but ``Ranking.stages`` holds the whole ranking of every stage. Stages that only
    rearrange (``mmr``, ``none``) leave scores as they are. Evidence and truncation come from the last stage that read
    the passage.

    Args:
        stages: at least one reranker. A cascade among them is taken apart, unless it has ``on_error`` or a
            calibrator of its own.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`; ``top_k`` is that of the last stage by default.

    Raises:
        InputError: no stage, or something that is no reranker.
    """

    by_text = False

    def __init__(self, stages: Sequence[Reranker], **options: Unpack[RerankerOptions]) -> None:
        super().__init__(**options)
        self.stages = tuple(part for stage in _checked(stages, "A cascade") for part in _flat(stage))
        if self.top_k is None:
            self.top_k = self.stages[-1].top_k
        self.model = " | ".join(f"{stage.model}{_view(stage)}" for stage in self.stages)
        self.rearranges = all(stage.rearranges for stage in self.stages)
        scoring = [stage for stage in self.stages if not stage.rearranges] or [self.stages[-1]]
        self.scale = scoring[-1].scale

    @property
    def fingerprint(self) -> str:
        """The stages' fingerprints and how many candidates each hands on."""
        *earlier, last = self.stages
        return " | ".join(
            [*(f"{stage.passage_fingerprint}{_view(stage)}" for stage in earlier), last.passage_fingerprint]
        )

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Run each stage once over all requests."""
        runs = [_Run(request) for request in requests]
        late, complete = "", True
        for number, stage in enumerate(self.stages, 1):
            name = f"stage {number} ({stage.model})"
            if call.expired:
                late = f"the deadline passed before {name}"
                complete = all(missing.rearranges for missing in self.stages[number - 1 :])
                break
            rankings = stage.rank_whole([run.to_judge() for run in runs], call.deadline, call.cancelled)
            for run, ranking in zip(runs, rankings, strict=True):
                charge(call, ranking)
                run.take(ranking, stage, name)
        return [run.verdict(late, complete) for run in runs]

    def close(self) -> None:
        """Close every stage."""
        super().close()
        for stage in self.stages:
            stage.close()


@dataclass
class _Run:
    """One request on its way through the stages of a cascade.

    Attributes:
        order: all positions, best first.
        alive: how many of them the next stage sees.
        judge: the ranking of the last stage that scored.
        hits: its hits, by position.
        truncated: by position, what the last stage that read the passage left out.
        evidence: by position, from the last stage that gave any.
        reasons: why a stage did less than planned.
        stages: whole rankings of the stages so far.
    """

    request: Request
    order: list[int] = field(init=False)
    alive: int = field(init=False)
    judge: Ranking | None = None
    hits: dict[int, Hit] = field(default_factory=dict)
    truncated: dict[int, int] = field(default_factory=dict)
    evidence: dict[int, tuple[Span, ...]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    stages: list[Ranking] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order = list(range(len(self.request.passages)))
        self.alive = len(self.order)

    def to_judge(self) -> tuple[str, list[Passage]]:
        """What the next stage gets: the passages that are left, with their scores so far."""
        left = [(position, self.request.passages[position]) for position in self.order[: self.alive]]
        if self.judge is None:
            return self.request.query, [passage for _, passage in left]
        return self.request.query, [passage.replace(score=self._score(position)) for position, passage in left]

    def _score(self, position: int) -> float | None:
        hit = self.hits.get(position)
        return None if hit is None else hit.score

    def take(self, ranking: Ranking, stage: Reranker, name: str) -> None:
        """Accept a stage's verdict on the passages it was given."""
        self.stages.append(ranking)
        if ranking.status != "scored":
            self.reasons.append(f"{name}: {ranking.reason}")
        placed = {self.order[hit.prior_rank - 1]: hit for hit in ranking}
        self.order[: self.alive] = list(placed)
        self.alive = min(self.alive, _width(stage, self.alive))
        if stage.rearranges and self.judge is not None:
            return
        self.judge, self.hits = ranking, placed
        for position, hit in placed.items():
            if hit.status != "unscored":
                self.truncated[position] = hit.truncated_tokens
            if hit.evidence:
                self.evidence[position] = hit.evidence

    def verdict(self, late: str, complete: bool) -> Scored:
        """The outcome of the stages that ran.

        Args:
            late: why others did not, or empty.
            complete: whether the last stage that scores is among those that ran; if not, there are no final scores.
        """
        positions = range(len(self.order))
        hits = [self.hits.get(position) if complete else None for position in positions]
        return Scored(
            scores=np.array([0.0 if hit is None or hit.score is None else hit.score for hit in hits]),
            scored=np.array([hit is not None and hit.status != "unscored" for hit in hits]),
            order=np.array(self.order),
            cached=np.array([hit is not None and hit.status == "cached" for hit in hits]),
            truncated=np.array([self.truncated.get(position, 0) for position in positions]),
            probabilities=np.array(
                [np.nan if hit is None or hit.probability is None else hit.probability for hit in hits]
            ),
            evidence=[self.evidence.get(position, ()) for position in positions],
            partial="; ".join([*self.reasons, late] if late else self.reasons),
            fell_back=complete and self.judge is not None and self.judge.status == "fallback",
            stages=tuple(self.stages),
        )


class Fusion(Reranker):
    """Several rerankers on the same candidates, their verdicts put together.

    ``z-score``: each member's scores are standardised within the list (mean 0, standard deviation 1; a list whose
    scores do not differ gives zeros), then averaged by weight. What a member left unscored counts as its lowest z.

    ``exp``: the same with ``exp(z / 2)`` for each ``z``: a passage that one member lifts far above the rest of the list
    comes first even where the others are lukewarm about it. It helps most where members fail in turns, such as an
    embedder on a language that it was not made for.

    ``rrf``: reciprocal rank fusion, the sum of ``weight / (k + rank)`` (Cormack, Clarke and Buettcher, SIGIR 2009);
    what a member left unscored adds nothing.

    A member's own view (``dense[:20]``) is what it may vote for: the rest is unscored to the fusion. A member that
    scored nothing in a list, because time ran out or its model failed, is left out of that list and named in the
    reason. One of weight 0 has no vote at all: what only it scored is unscored. Evidence comes from the first member
    that has any; ``truncated_tokens`` counts what no member read.

    Args:
        members: at least one reranker.
        method: ``z-score``, ``exp`` or ``rrf``.
        weights: one non-negative number per member; equal by default.
        k: rank constant of ``rrf``; large values flatten the difference between ranks.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: a parameter is wrong, or a member gives no scores of its own to standardise.
    """

    by_text = False

    def __init__(
        self,
        members: Sequence[Reranker],
        *,
        method: FusionMethod = "z-score",
        weights: Sequence[float] | None = None,
        k: float = 60,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        self.members = _checked(members, "A fusion")
        if method not in get_args(FusionMethod):
            raise InputError(f"A fusion's method is one of {', '.join(get_args(FusionMethod))}, got {method!r}")
        if not isinstance(k, int | float | np.integer) or not np.isfinite(k) or k <= 0:
            raise InputError(f"The rank constant k of a fusion must be a positive number, got {k!r}")
        self.method: FusionMethod = method
        self.k, self.weights = float(k), _weights(weights, len(self.members))
        self._refuse_rearranging()
        self.scale = method
        setting = f"method={method}" + (f",k={self.k:g}" if method == "rrf" else "")
        self._setting = f"[{setting},weights={'/'.join(f'{weight:g}' for weight in self.weights)}]"
        self.model = f"fusion:{'+'.join(f'{member.model}{_view(member)}' for member in self.members)}{self._setting}"

    def _refuse_rearranging(self) -> None:
        """The scores of such a member are those it was given, so standardising them would ignore its order."""
        for member in self.members:
            if self.method != "rrf" and member.rearranges and not isinstance(member, Prior):
                raise InputError(
                    f"{member.model!r} reorders but gives no scores of its own, so z-scores of it mean nothing. "
                    "Put it behind the fusion, fusion | member, or use method='rrf'."
                )

    @property
    def fingerprint(self) -> str:
        """The members' fingerprints, views and weights, and the method."""
        return f"fusion:{'+'.join(f'{item.passage_fingerprint}{_view(item)}' for item in self.members)}{self._setting}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Run each member once over all requests, in the order given, until the deadline."""
        lists = [(request.query, request.passages) for request in requests]
        columns: list[list[Ranking]] = []
        late = ""
        for member in self.members:
            if call.expired:
                late = f"the deadline passed before member {len(columns) + 1} ({member.model})"
                break
            columns.append(member.rank_whole(lists, call.deadline, call.cancelled))
            for ranking in columns[-1]:
                charge(call, ranking)
        rows = list(zip(*columns, strict=True)) if columns else [()] * len(requests)
        return [self._fuse(len(request.passages), row, late) for request, row in zip(requests, rows, strict=True)]

    def _fuse(self, count: int, rankings: tuple[Ranking, ...], late: str) -> Scored:
        votes = [Vote(ranking, member, count) for ranking, member in zip(rankings, self.members, strict=False)]
        counted = [(vote, weight) for vote, weight in zip(votes, self.weights, strict=False) if weight]
        heard = [(vote, weight) for vote, weight in counted if vote.scored.any()]
        reasons = [f"{ranking.model}: {ranking.reason}" for ranking in rankings if ranking.status != "scored"]
        return Scored(
            self._scores(heard, count),
            scored=np.array([any(vote.scored[i] for vote, _ in heard) for i in range(count)]),
            cached=np.array([all(vote.hits[i].status == "cached" for vote, _ in heard) for i in range(count)]),
            truncated=np.array([min((n for vote in votes for n in vote.unread(i)), default=0) for i in range(count)]),
            evidence=[
                next((vote.hits[i].evidence for vote in votes if vote.hits[i].evidence), ()) for i in range(count)
            ],
            partial="; ".join([*reasons, late] if late else reasons),
            fell_back=bool(counted) and all(vote.fell_back for vote, _ in counted),
            stages=rankings,
        )

    def _scores(self, heard: Sequence[tuple[Vote, float]], count: int) -> NDArray[np.float64]:
        total = sum(weight for _, weight in heard)
        scores = np.zeros(count)
        for vote, weight in heard:
            if self.method == "rrf":
                scores += weight * vote.reciprocal_ranks(self.k)
            else:
                standard = vote.z()
                scores += weight / total * (np.exp(_SHARPNESS * standard) if self.method == "exp" else standard)
        return scores

    def close(self) -> None:
        """Close every member."""
        super().close()
        for member in self.members:
            member.close()


class Vote:
    """What one member says about one list, by position.

    Attributes:
        member: who says it.
        hits: the member's hits.
        scored: bool ``[n]``: scored by the member and inside its view.
        fell_back: the member failed and kept the order.
    """

    def __init__(self, ranking: Ranking, member: Reranker, count: int) -> None:
        self.member, self.hits = member, sorted(ranking, key=lambda hit: hit.prior_rank)
        self.reads, self.fell_back = not member.rearranges, ranking.status == "fallback"
        view = count if member.top_k is None else member.top_k
        self.scored = np.array([hit.status != "unscored" and hit.rank <= view for hit in self.hits])

    def z(self) -> NDArray[np.float64]:
        """Standardised scores ``[n]``; the lowest one where unscored. At least one passage is scored."""
        standard = z_scores(np.array([hit.score for hit in self.hits])[self.scored].astype(np.float64))
        result = np.full(len(self.hits), standard.min())
        result[self.scored] = standard
        return result

    def reciprocal_ranks(self, k: float) -> NDArray[np.float64]:
        """``1 / (k + rank)``; 0 where unscored."""
        ranks = np.array([hit.rank for hit in self.hits], np.float64)
        return np.where(self.scored, 1.0 / (k + ranks), 0.0)

    def unread(self, position: int) -> tuple[int, ...]:
        """Tokens that the member left out of a passage; nothing if it did not read it."""
        hit = self.hits[position]
        return (hit.truncated_tokens,) if self.reads and hit.status != "unscored" else ()


def _checked(parts: Sequence[Reranker], what: str) -> tuple[Reranker, ...]:
    if not isinstance(parts, Sequence) or not parts or not all(isinstance(part, Reranker) for part in parts):
        raise InputError(f"{what} is made of a list of at least one reranker, such as [one, other]; got {parts!r:.200}")
    return tuple(parts)


def _flat(stage: Reranker) -> tuple[Reranker, ...]:
    """The stages of a plain cascade, its view handed to the last one; any other reranker as it is."""
    if not isinstance(stage, Cascade) or stage.on_error != "raise" or stage.calibrator is not None:
        return (stage,)
    *earlier, last = stage.stages
    return *earlier, last if last.top_k == stage.top_k else last[: stage.top_k]


def _width(stage: Reranker, count: int) -> int:
    """How many of ``count`` candidates a stage hands on: a cascade never more than one of its own stages does."""
    inner = [_width(part, count) for part in stage.stages[:-1]] if isinstance(stage, Cascade) else []
    return min([count if stage.top_k is None else stage.top_k, *inner])


def _view(reranker: Reranker) -> str:
    return "" if reranker.top_k is None else f"[:{reranker.top_k}]"


def _weights(weights: Sequence[float] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * count
    try:
        result = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError) as error:
        raise InputError(f"The weights of a fusion are numbers, one per member, got {weights!r}") from error
    if len(result) != count:
        raise InputError(f"A fusion of {count} members needs {count} weights, got {len(result)}")
    if not all(np.isfinite(weight) and weight >= 0 for weight in result) or not any(result):
        raise InputError(f"The weights of a fusion are finite, not negative and not all zero, got {result}")
    return result


def charge(call: Call, ranking: Ranking) -> None:
    """Count what a stage spent as work of this call; time is measured around the whole."""
    for counter in fields(Usage):
        if counter.name != "seconds":
            spent = getattr(call.meter, counter.name) + getattr(ranking.usage, counter.name)
            setattr(call.meter, counter.name, spent)
