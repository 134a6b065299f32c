"""Losses that learn from another model's scores; no gradient goes into that model."""

from __future__ import annotations

import torch
from torch import Tensor

from rerankit.training.losses_masks import check_temperature, checked, lowest, mean_of_lists

__all__ = ["kl", "margin_mse", "two_tower"]


def kl(
    scores: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0, *, weights: Tensor | None = None
) -> Tensor:
    """Match the teacher's distribution over the list.

    Per list, ``t^2 KL(softmax(teacher/t) || softmax(scores/t))``; the factor keeps the gradient's size when the
    temperature changes. Offsets of the teacher do not matter, its scale does.

    Source: Hinton et al., arXiv:1503.02531; for rankers, Lin et al., arXiv:2010.11386.

    Args:
        scores: the student's, ``[b, n]``.
        teacher: ``[b, n]``.
        mask: bool ``[b, n]``; a list of one passage teaches nothing.
        temperature: divides both.
        weights: ``[b]``.
    """
    check_temperature(temperature)
    student, teacher = (_log_softmax(one / temperature, mask) for one in checked(mask, scores, teacher))
    values = temperature**2 * (teacher.exp() * (teacher - student)).sum(-1)
    return mean_of_lists(values, mask.sum(-1) > 1, weights)


def margin_mse(
    scores: Tensor, teacher: Tensor, mask: Tensor, grades: Tensor | None = None, *, weights: Tensor | None = None
) -> Tensor:
    """Match the teacher's margins.

    Per list, the mean over its pairs (i, j) of ``((s_i - s_j) - (teacher_i - teacher_j))^2``. Offsets of the teacher
    do not matter, its scale does. Quadratic in n.

    Source: Hofstaetter et al., arXiv:2010.02666.

    Args:
        scores: the student's, ``[b, n]``.
        teacher: ``[b, n]``.
        mask: bool ``[b, n]``.
        grades: ``[b, n]``: the pairs are each positive with each negative; None: every two passages, for lists
            without labels.
        weights: ``[b]``.
    """
    scores, teacher, *labels = checked(mask, scores, teacher, *(() if grades is None else (grades,)))
    first, second = ((labels[0] > 0) & mask, (labels[0] <= 0) & mask) if labels else (mask, mask)
    itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    pairs = first[:, :, None] & second[:, None, :] & ~itself
    error = scores - teacher
    lost = (error[:, :, None] - error[:, None, :]).square().masked_fill(~pairs, 0.0)
    count = pairs.sum((1, 2))
    return mean_of_lists(lost.sum((1, 2)) / count.clamp_min(1), count > 0, weights)


def two_tower(
    retrieval: Tensor, reranked: Tensor, mask: Tensor, temperature: float = 1.0, *, weights: Tensor | None = None
) -> Tensor:
    """Teach the retrieval scores what the list model makes of them, while both are trained.

    :func:`kl` with the list model of the same step as the teacher: ``t^2 KL(softmax(reranked/t) ||
    softmax(retrieval/t))``. The towers learn from the list model and never the other way about.

    Source: LT-TTD, arXiv:2505.04434.

    Args:
        retrieval: scores of the towers, ``[b, n]``.
        reranked: scores of the list model, ``[b, n]``.
        mask: bool ``[b, n]``.
        temperature: divides both.
        weights: ``[b]``.
    """
    return kl(retrieval, reranked, mask, temperature, weights=weights)


def _log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Over the real passages; 0 at the others."""
    return logits.masked_fill(~mask, lowest(logits)).log_softmax(-1).masked_fill(~mask, 0.0)
