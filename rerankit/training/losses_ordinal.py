"""Grades as ordered thresholds on one score: a head, its loss, and the grade that it expects."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from rerankit.checks import check_whole
from rerankit.errors import InputError
from rerankit.training.losses_masks import checked, mean_of_lists

__all__ = ["OrdinalHead", "expected_grade", "ordinal"]


class OrdinalHead(nn.Module):
    """Turns a score into the K - 1 logits of "the grade is over k".

    ``z_k = a s + b_k`` with one slope a > 0 and biases ``b_0 >= b_1 >= ...`` by construction. So P(grade > k) never
    rises with k, and the expected grade orders passages as the score does: the head adds grades and cannot change
    a ranking. The slope makes cosines usable as well as logits.

    Source: the shared weight of CORAL, Cao et al., arXiv:1901.07884; cumulative relevance: arXiv:2605.27704.

    Args:
        grades: K, how many grades there are: 4 for 0 to 3.

    Raises:
        InputError: fewer than 2 grades.
    """

    def __init__(self, grades: int = 4) -> None:
        super().__init__()
        check_whole(2, grades=grades)
        self.log_slope = nn.Parameter(torch.zeros(()))
        self.first = nn.Parameter(torch.tensor((grades - 2) / 2))
        # Untrained, the biases are one apart and the middle of the grades is at the score 0.
        self.gaps = nn.Parameter(torch.full((grades - 2,), math.log(math.e - 1)))

    def biases(self) -> Tensor:
        """Float ``[K - 1]``, never rising."""
        return self.first - torch.cat([self.gaps.new_zeros(1), softplus(self.gaps).cumsum(0)])

    def forward(self, scores: Tensor) -> Tensor:
        """Float ``[..., K - 1]`` logits from scores ``[...]``; float32 at least."""
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return self.log_slope.exp() * scores[..., None] + self.biases()


def expected_grade(logits: Tensor) -> Tensor:
    """Float ``[...]``: ``sum_k sigmoid(z_k)``, between 0 and K - 1, from logits ``[..., K - 1]``."""
    return logits.sigmoid().sum(-1)


def ordinal(logits: Tensor, grades: Tensor, mask: Tensor, *, weights: Tensor | None = None) -> Tensor:
    """Learn grades as such: a passage without rivals teaches too.

    Per list, the mean over its passages of the binary cross-entropies of "the grade is over k", added up over k. A
    grade between two whole ones (raters who disagree) is a share of the threshold between them, so that the expected
    grade is that grade; one over K - 1 counts as K - 1.

    Source: CORAL, Cao et al., arXiv:1901.07884.

    Args:
        logits: of :class:`OrdinalHead`, ``[b, n, K - 1]``.
        grades: ``[b, n]``, 0 to K - 1.
        mask: bool ``[b, n]``.
        weights: ``[b]``.
    """
    if logits.ndim != 3 or not logits.shape[2]:
        raise InputError(f"The logits of grades are [b, n, K - 1]; got the shape {tuple(logits.shape)}")
    _, grades = checked(mask, logits[..., 0], grades)
    logits = logits.to(grades.dtype).masked_fill(~mask[..., None], 0.0)
    over = torch.arange(logits.shape[2], device=logits.device)
    target = (grades[..., None] - over).clamp(0.0, 1.0)
    lost = binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1).masked_fill(~mask, 0.0)
    count = mask.sum(-1)
    return mean_of_lists(lost.sum(-1) / count.clamp_min(1), count > 0, weights)
