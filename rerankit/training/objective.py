"""What a reranker is trained to do: a weighted sum of losses, by name, on lists that it scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rerankit.checks import check_choice
from rerankit.errors import InputError
from rerankit.training import losses

__all__ = ["FROM_TEACHER", "LOSSES", "Lists", "Term", "parse_losses", "total"]


@dataclass(frozen=True, slots=True)
class Lists:
    """A batch of lists, scored.

    Attributes:
        scores: of the list model, ``[b, n]``.
        cosines: scores of the retrieval, of the encoder itself where it is trained, ``[b, n]``.
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
    """One loss of a sum.

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


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss by name.

    Attributes:
        compute: from scored lists and a temperature, the loss.
        temperature: that suits cosines.
    """

    compute: Callable[[Lists, float], Tensor]
    temperature: float


def _policy(b: Lists, t: float) -> Tensor:
    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ()).item()))
    return losses.policy_gradient(b.scores, b.grades, b.mask, t, generator=generator, weights=b.weights)


def _ordinal(b: Lists, _: float) -> Tensor:
    if b.levels is None:
        raise InputError("The ordinal loss needs a head for grades")
    return losses.ordinal(b.levels, b.grades, b.mask, weights=b.weights)


def _by_grades(loss: Callable[..., Tensor], temperature: float) -> Loss:
    return Loss(lambda b, t: loss(b.scores, b.grades, b.mask, t, weights=b.weights), temperature)


def _by_teacher(loss: Callable[..., Tensor], temperature: float) -> Loss:
    """The teacher's order counts alone."""
    return Loss(lambda b, t: loss(b.scores, b.teacher, b.taught, t, weights=b.weights), temperature)


def _like_teacher(loss: Callable[..., Tensor], temperature: float) -> Loss:
    """The teacher's scores have a scale of their own: the student's alone are divided by the temperature."""
    return Loss(lambda b, t: loss(b.scores / t, b.teacher, b.taught, weights=b.weights), temperature)


LOSSES: dict[str, Loss] = {
    # retrieval: positives against negatives, and what the list model knows (both train the encoder)
    "info_nce": Loss(lambda b, t: losses.info_nce(b.cosines, b.grades, b.mask, t, weights=b.weights), 0.03),
    "two_tower": Loss(lambda b, t: losses.two_tower(b.cosines, b.scores, b.mask, t, weights=b.weights), 0.05),
    # grades: by pairs, by the likelihood of their order, positives against negatives, expected nDCG, thresholds
    "rank_net": _by_grades(losses.rank_net, 0.1),
    "list_mle": _by_grades(losses.list_mle, 0.1),
    "list_nce": _by_grades(losses.info_nce, 0.05),
    "policy": Loss(_policy, 0.1),
    "ordinal": Loss(_ordinal, 1.0),
    # a teacher: its distribution over the list, its margins, its order by pairs and by likelihood
    "kl": _like_teacher(losses.kl, 0.05),
    "margin_mse": _like_teacher(losses.margin_mse, 0.1),
    "teacher_rank_net": _by_teacher(losses.rank_net, 0.1),
    "teacher_list_mle": _by_teacher(losses.list_mle, 0.1),
}

FROM_TEACHER = ("kl", "margin_mse", "teacher_rank_net", "teacher_list_mle")
"""Losses that learn from a teacher's scores alone."""


def parse_losses(
    texts: Sequence[str], stages: Collection[str] = (), *, temperature: float | None = None
) -> dict[str, list[Term]]:
    """Per stage, the terms that ``[STAGE:]NAME=WEIGHT[@TEMPERATURE]`` ask for; under ``""`` those for all stages.

    Args:
        texts: as the user wrote them.
        stages: that there are; none for a training in one.
        temperature: where none is written; None: each loss's own, which suits cosines.

    Raises:
        InputError: a text is of another form, or names no stage or loss.
    """
    found: dict[str, list[Term]] = {}
    for text in texts:
        stage, colon, rest = text.rpartition(":")
        name, equals, value = rest.partition("=")
        weight, at, written = value.partition("@")
        if colon and not stages:
            raise InputError(f"This model has one stage; write a loss NAME=WEIGHT[@TEMPERATURE], got {text!r:.80}")
        if colon:
            check_choice("the stage of a loss", stage, stages)
        check_choice("a loss", name, LOSSES)
        if not equals or (at and not written):
            raise InputError(f"A loss is written [STAGE:]NAME=WEIGHT[@TEMPERATURE], got {text!r:.80}")
        own = LOSSES[name].temperature if temperature is None else temperature
        found.setdefault(stage, []).append(Term(name, _positive(weight, text), _positive(written, text) if at else own))
    return found


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
