"""What a ResRank-style model is trained to do: losses by name, and the stages that put them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rerankit.checks import check_choice
from rerankit.errors import InputError
from rerankit.training import losses

__all__ = ["LOSSES", "STAGES", "Lists", "Term", "parse_losses", "stage_terms", "total"]


@dataclass(frozen=True, slots=True)
class Lists:
    """A batch of lists, scored.

    Attributes:
        scores: of the list model, ``[b, n]``.
        cosines: of the encoder: the retrieval scores, ``[b, n]``.
        grades: ``[b, n]``.
        teacher: of mean 0 and one spread per list, 0 where there is none, ``[b, n]``.
        mask: bool ``[b, n]``.
        taught: bool ``[b, n]``: the mask of lists that have a teacher.
        weights: ``[b]``.
        levels: of an :class:`~rerankit.training.losses.OrdinalHead`, ``[b, n, K - 1]``; None without one.
    """

    scores: Tensor
    cosines: Tensor
    grades: Tensor
    teacher: Tensor
    mask: Tensor
    taught: Tensor
    weights: Tensor
    levels: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of a stage.

    Attributes:
        name: one of ``LOSSES``.
        weight: that it is multiplied with.
        temperature: that divides the scores.
    """

    name: str
    weight: float
    temperature: float

    def __str__(self) -> str:
        return f"{self.name}={self.weight:g}@{self.temperature:g}"


Compute = Callable[[Lists, float], Tensor]


@dataclass(frozen=True, slots=True)
class _Loss:
    compute: Compute
    temperature: float
    about: str


def _policy(b: Lists, t: float) -> Tensor:
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ()).item()))
    return losses.policy_gradient(b.scores, b.grades, b.mask, t, generator=generator, weights=b.weights)


def _ordinal(b: Lists, _: float) -> Tensor:
    if b.levels is None:
        raise InputError("The ordinal loss needs a head for grades")
    return losses.ordinal(b.levels, b.grades, b.mask, weights=b.weights)


# The teacher's scores have a scale of their own, so the student's are divided by the temperature and compared as such.
LOSSES: dict[str, _Loss] = {
    "info_nce": _Loss(
        lambda b, t: losses.info_nce(b.cosines, b.grades, b.mask, t, weights=b.weights), 0.03,
        "retrieval: each positive against the negatives (trains the encoder)"),
    "two_tower": _Loss(
        lambda b, t: losses.two_tower(b.cosines, b.scores, b.mask, t, weights=b.weights), 0.05,
        "retrieval learns from the list model (trains the encoder)"),
    "rank_net": _Loss(
        lambda b, t: losses.rank_net(b.scores, b.grades, b.mask, t, weights=b.weights), 0.1,
        "list: each better passage before each worse one"),
    "list_mle": _Loss(
        lambda b, t: losses.list_mle(b.scores, b.grades, b.mask, t, weights=b.weights), 0.1,
        "list: likelihood of the order by grades"),
    "list_nce": _Loss(
        lambda b, t: losses.info_nce(b.scores, b.grades, b.mask, t, weights=b.weights), 0.05,
        "list: each positive against the negatives"),
    "policy": _Loss(_policy, 0.1, "list: expected nDCG of sampled rankings"),
    "ordinal": _Loss(_ordinal, 1.0, "list: grades as thresholds on the score"),
    "kl": _Loss(
        lambda b, t: losses.kl(b.scores / t, b.teacher, b.taught, weights=b.weights), 0.05,
        "teacher: its distribution over the list"),
    "margin_mse": _Loss(
        lambda b, t: losses.margin_mse(b.scores / t, b.teacher, b.taught, weights=b.weights), 0.1,
        "teacher: its margins"),
    "teacher_rank_net": _Loss(
        lambda b, t: losses.rank_net(b.scores, b.teacher, b.taught, t, weights=b.weights), 0.1,
        "teacher: its order, pair by pair"),
    "teacher_list_mle": _Loss(
        lambda b, t: losses.list_mle(b.scores, b.teacher, b.taught, t, weights=b.weights), 0.1,
        "teacher: likelihood of its order"),
}  # fmt: skip
"""Every loss by name, with the temperature that suits cosines."""

_FOR_ENCODER = ("info_nce", "two_tower")
_FROM_TEACHER = ("kl", "margin_mse", "teacher_rank_net", "teacher_list_mle")

STAGES: dict[str, dict[str, float]] = {
    "one": {"info_nce": 1.0, "rank_net": 2.0},
    "two": {"rank_net": 1.0, "kl": 1.0},
    "joint": {"info_nce": 1.0, "rank_net": 2.0, "kl": 1.0},
}
"""Losses of each stage unless others are asked for; E2Rank (arXiv:2510.22733) weighs RankNet twice."""


def parse_losses(texts: Sequence[str], *, temperature: float | None = None) -> dict[str, list[Term]]:
    """Per stage, the terms that ``[STAGE:]NAME=WEIGHT[@TEMPERATURE]`` ask for; under ``""`` those for all stages.

    Args:
        texts: as the user wrote them.
        temperature: where none is written; None: each loss's own, which suits cosines.

    Raises:
        InputError: a text is of another form, or names no stage or loss.
    """
    found: dict[str, list[Term]] = {}
    for text in texts:
        stage, colon, rest = text.rpartition(":")
        name, equals, value = rest.partition("=")
        weight, at, written = value.partition("@")
        if colon:
            check_choice("the stage of a loss", stage, STAGES)
        check_choice("a loss", name, LOSSES)
        if not equals or (at and not written):
            raise InputError(f"A loss is written [STAGE:]NAME=WEIGHT[@TEMPERATURE], got {text!r:.80}")
        own = LOSSES[name].temperature if temperature is None else temperature
        found.setdefault(stage, []).append(Term(name, _positive(weight, text), _positive(written, text) if at else own))
    return found


def stage_terms(
    stage: str, asked: Mapping[str, Sequence[Term]], *, trains_encoder: bool, has_teacher: bool
) -> tuple[Term, ...]:
    """The terms of a stage: those asked for, else its own as far as they have something to learn from.

    Raises:
        InputError: there is no such stage, nothing is left, or a loss asked for cannot teach anything here.
    """
    check_choice("a stage", stage, STAGES)
    wanted = tuple(asked.get(stage, asked.get("", ())))
    missing = {name for name in _FOR_ENCODER if not trains_encoder} | {n for n in _FROM_TEACHER if not has_teacher}
    for term in wanted:
        if term.name in missing:
            why = "a trained encoder (--lora-rank)" if term.name in _FOR_ENCODER else "a teacher (--teacher)"
            raise InputError(f"The loss {term.name!r} needs {why}")
    own = {name: weight for name, weight in STAGES[stage].items() if name not in missing}
    return wanted or tuple(Term(name, weight, LOSSES[name].temperature) for name, weight in own.items())


def total(terms: Sequence[Term], lists: Lists) -> dict[str, Tensor]:
    """``loss``, the weighted sum, and each of its terms."""
    parts = {term.name: LOSSES[term.name].compute(lists, term.temperature) for term in terms}
    return {"loss": torch.stack([term.weight * parts[term.name] for term in terms]).sum(), **parts}


def _positive(text: str, whole: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise InputError(f"Weight and temperature of a loss are numbers above 0, got {whole!r:.80}")
    return number
