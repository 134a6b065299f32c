"""Losses that learn an order from grades, or from a teacher's order."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from rerankit.training.losses_masks import check_temperature, checked, lowest, mean_of_lists, ordered_pairs

__all__ = ["info_nce", "list_mle", "rank_net"]


def info_nce(
    scores: Tensor, grades: Tensor, mask: Tensor, temperature: float = 1.0, *, weights: Tensor | None = None
) -> Tensor:
    """Contrast each positive with all negatives of its list.

    Per list, the mean over its positives p of ``-log(exp(s_p/t) / (exp(s_p/t) + sum_neg exp(s_neg/t)))``. The other
    positives are left out, for they need not lose against this one. Linear in n, so that in-batch negatives fit.

    Source: van den Oord et al., arXiv:1807.03748; temperature of cosines: E2Rank, arXiv:2510.22733.

    Args:
        scores: ``[b, n]``.
        grades: ``[b, n]``; over 0 is a positive.
        mask: bool ``[b, n]``.
        temperature: divides the scores.
        weights: ``[b]``.
    """
    check_temperature(temperature)
    scores, grades = checked(mask, scores, grades)
    positive, negative = (grades > 0) & mask, (grades <= 0) & mask
    logits = scores / temperature
    against = logits.masked_fill(~negative, lowest(logits)).logsumexp(-1, keepdim=True)
    lost = -logsigmoid(logits - against).masked_fill(~positive, 0.0)
    values = lost.sum(-1) / positive.sum(-1).clamp_min(1)
    return mean_of_lists(values, positive.any(-1) & negative.any(-1), weights)


def rank_net(
    scores: Tensor, target: Tensor, mask: Tensor, temperature: float = 1.0, *, weights: Tensor | None = None
) -> Tensor:
    """Put the better passage of each pair first.

    Per list, the mean over the pairs with target_i > target_j of ``log(1 + exp(-(s_i - s_j)/t))``. E2Rank adds the
    pairs up; the mean gives lists of any length the same say. Quadratic in n.

    Source: Burges et al. (ICML 2005); as in E2Rank, arXiv:2510.22733.

    Args:
        scores: ``[b, n]``.
        target: ``[b, n]``; only its order counts, and ties are no pairs.
        mask: bool ``[b, n]``.
        temperature: divides the scores.
        weights: ``[b]``.
    """
    check_temperature(temperature)
    scores, target = checked(mask, scores, target)
    pairs = ordered_pairs(target, mask)
    lost = -logsigmoid((scores[:, :, None] - scores[:, None, :]) / temperature).masked_fill(~pairs, 0.0)
    count = pairs.sum((1, 2))
    return mean_of_lists(lost.sum((1, 2)) / count.clamp_min(1), count > 0, weights)


def list_mle(
    scores: Tensor, target: Tensor, mask: Tensor, temperature: float = 1.0, *, weights: Tensor | None = None
) -> Tensor:
    """The negative log-likelihood of the target order under Plackett and Luce.

    Per list, the sum over its passages i of ``-log(exp(s_i/t) / (exp(s_i/t) + sum_below exp(s_j/t)))``, where below i
    are the passages of a strictly lower target. Without ties that is ListMLE. Passages of one target take no part in
    each other's choice, so ties say nothing about their order, the order of the input does not matter, and with two
    grades it is :func:`info_nce` summed over the positives. As a sum it grows with the list. Quadratic in n.

    Source: Xia et al. (ICML 2008); the rule for ties is ours.

    Args:
        scores: ``[b, n]``.
        target: ``[b, n]``; only its order counts.
        mask: bool ``[b, n]``.
        temperature: divides the scores.
        weights: ``[b]``.
    """
    check_temperature(temperature)
    scores, target = checked(mask, scores, target)
    pairs = ordered_pairs(target, mask)
    logits = scores / temperature
    below = logits[:, None, :].masked_fill(~pairs, lowest(logits)).logsumexp(-1)
    lost = -logsigmoid(logits - below).masked_fill(~pairs.any(-1), 0.0)
    return mean_of_lists(lost.sum(-1), pairs.any(-1).any(-1), weights)
