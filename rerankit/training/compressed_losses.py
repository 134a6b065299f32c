"""The stages in which a ResRank-style model is trained, and the losses of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rerankit.checks import check_choice
from rerankit.errors import InputError
from rerankit.training.objective import FROM_TEACHER, LOSSES, Term

__all__ = ["STAGES", "stage_terms"]

_FOR_ENCODER = ("info_nce", "two_tower")

STAGES: dict[str, dict[str, float]] = {
    "one": {"info_nce": 1.0, "rank_net": 2.0},
    "two": {"rank_net": 1.0, "kl": 1.0},
    "joint": {"info_nce": 1.0, "rank_net": 2.0, "kl": 1.0},
}
"""Losses of each stage unless others are asked for; E2Rank (arXiv:2510.22733) weighs RankNet twice."""


def stage_terms(
    stage: str, asked: Mapping[str, Sequence[Term]], *, trains_encoder: bool, has_teacher: bool
) -> tuple[Term, ...]:
    """The terms of a stage: those asked for, else its own as far as they have something to learn from.

    Raises:
        InputError: there is no such stage, nothing is left, or a loss asked for cannot teach anything here.
    """
    check_choice("a stage", stage, STAGES)
    wanted = tuple(asked.get(stage, asked.get("", ())))
    missing = {name for name in _FOR_ENCODER if not trains_encoder} | {n for n in FROM_TEACHER if not has_teacher}
    for term in wanted:
        if term.name in missing:
            why = "a trained encoder (--lora-rank)" if term.name in _FOR_ENCODER else "a teacher (--teacher)"
            raise InputError(f"The loss {term.name!r} needs {why}")
    own = {name: weight for name, weight in STAGES[stage].items() if name not in missing}
    return wanted or tuple(Term(name, weight, LOSSES[name].temperature) for name, weight in own.items())
