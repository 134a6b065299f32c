"""Learning nDCG itself: sampled rankings, rewarded by what they are worth."""

from __future__ import annotations

import torch
from torch import Tensor

from rerankit.checks import check_whole
from rerankit.training.losses_masks import check_temperature, checked, lowest, mean_of_lists, ordered_pairs

__all__ = ["ndcg", "policy_gradient"]


def policy_gradient(
    scores: Tensor,
    grades: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    *,
    generator: torch.Generator,
    samples: int = 16,
    depth: int | None = 10,
    weights: Tensor | None = None,
) -> Tensor:
    """Raise the expected nDCG of rankings drawn from the scores (Neural PG-RANK).

    The policy is Plackett and Luce's, ``pi(r) = prod_i exp(s_ri/t) / sum_{j >= i} exp(s_rj/t)``; rankings are drawn by
    adding Gumbel noise to the scores and sorting. The gradient is that of minus the expected nDCG, estimated without
    bias by ``-mean_r (nDCG(r) - b_r) grad log pi(r)``, where b_r is the mean reward of the other samples. Ranks below
    ``depth`` earn nothing, so only the choices above it enter log pi, which keeps the mean and lessens the variance.
    The value itself means nothing; watch nDCG instead.

    Source: Gao et al., arXiv:2310.04407; leave-one-out baseline: Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline
    for Free!" (2019). Gains are linear, as in the evaluation.

    Args:
        scores: ``[b, n]``.
        grades: ``[b, n]``: the gains.
        mask: bool ``[b, n]``.
        temperature: divides the scores; lower samples closer to the best order.
        generator: of the noise, on any device.
        samples: rankings per list, 2 at least.
        depth: k of nDCG@k; None: the whole list.
        weights: ``[b]``.

    Raises:
        InputError: also for ``samples`` and ``depth`` out of range.
    """
    check_temperature(temperature)
    check_whole(2, samples=samples)
    check_whole(1, or_none=True, depth=depth)
    scores, grades = checked(mask, scores, grades)
    logits = (scores / temperature).masked_fill(~mask, lowest(scores))
    order = _sample(logits.detach(), mask, samples, generator)
    reward = ndcg(grades, order, depth)
    advantage = reward - (reward.sum(0) - reward) / (samples - 1)
    values = -(advantage * _log_likelihood(logits, mask, order, depth)).mean(0)
    return mean_of_lists(values, ordered_pairs(grades, mask).any(-1).any(-1), weights)


def _sample(logits: Tensor, mask: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Rankings ``[samples, b, n]`` as places in the input, best first; masked places last."""
    noise = torch.empty(samples, *logits.shape, device=generator.device).exponential_(generator=generator)
    gumbel = -noise.log().to(logits)
    return (logits + gumbel).masked_fill(~mask, -torch.inf).argsort(-1, descending=True)


def ndcg(grades: Tensor, order: Tensor, depth: int | None) -> Tensor:
    """What rankings are worth: nDCG@depth ``[samples, b]`` with linear gains; 0 where nothing is relevant.

    Args:
        grades: ``[b, n]``, 0 at masked places.
        order: places in the input, best first, ``[samples, b, n]``.
        depth: None: the whole list.
    """
    gains = grades.clamp_min(0.0)
    top = gains.shape[-1] if depth is None else min(depth, gains.shape[-1])
    discounts = torch.arange(2, top + 2, device=gains.device).to(gains.dtype).log2().reciprocal()
    ideal = (gains.sort(-1, descending=True).values[..., :top] * discounts).sum(-1)
    found = (gains.expand(order.shape).gather(-1, order)[..., :top] * discounts).sum(-1)
    return found / ideal.masked_fill(ideal == 0, 1.0)


def _log_likelihood(logits: Tensor, mask: Tensor, order: Tensor, depth: int | None) -> Tensor:
    """Log-probability ``[samples, b]`` of the first ``depth`` choices of rankings."""
    ranked = logits.expand(order.shape).gather(-1, order)
    remaining = ranked.flip(-1).logcumsumexp(-1).flip(-1)
    real = mask.expand(order.shape).gather(-1, order)
    return (ranked - remaining).masked_fill(~real, 0.0)[..., :depth].sum(-1)
