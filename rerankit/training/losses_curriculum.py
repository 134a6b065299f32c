"""Easy lists first: how hard a list is, and what it weighs in an epoch.

Source: MacAvaney et al., "Training Curricula for Open Domain Answer Re-Ranking" (SIGIR 2020), arXiv:2004.14269.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rerankit.checks import is_number
from rerankit.errors import InputError
from rerankit.training.losses_masks import checked

__all__ = ["curriculum_weight", "list_difficulty", "min_max", "reciprocal_rank"]


def reciprocal_rank(ranks: Tensor, mask: Tensor) -> Tensor:
    """How relevant a passage looks by its rank in the first stage, ``[b, n]``: 1 over the rank, which is from 1."""
    (ranks,) = checked(mask, ranks)
    return ranks.clamp_min(1.0).reciprocal().masked_fill(~mask, 0.0)


def min_max(scores: Tensor, mask: Tensor) -> Tensor:
    """How relevant a passage looks by its score (BM25, a teacher), ``[b, n]``: 0 for its list's lowest, 1 for the top.

    Equal scores all give 0.
    """
    (scores,) = checked(mask, scores)
    low = scores.masked_fill(~mask, torch.inf).amin(-1, keepdim=True)
    high = scores.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True)
    width = high - low
    return ((scores - low) / width.masked_fill(width == 0, 1.0)).masked_fill(~mask, 0.0)


def list_difficulty(looks: Tensor, grades: Tensor, mask: Tensor) -> Tensor:
    """How hard each list is, ``[b]`` between 0 and 1: 0.5 where positives and negatives look alike, 1 for opposites.

    ``(1 - looks+ + looks-) / 2`` of the hardest pair of a positive and a negative; 0 without such a pair.

    Args:
        looks: how relevant the passages look, from 0 to 1, ``[b, n]``: :func:`reciprocal_rank` or :func:`min_max`.
        grades: ``[b, n]``; over 0 is a positive.
        mask: bool ``[b, n]``.
    """
    looks, grades = checked(mask, looks, grades)
    positive, negative = (grades > 0) & mask, (grades <= 0) & mask
    worst = looks.masked_fill(~positive, torch.inf).amin(-1)
    best = looks.masked_fill(~negative, -torch.inf).amax(-1)
    return ((1 - worst + best) / 2).masked_fill(~(positive.any(-1) & negative.any(-1)), 0.0)


def curriculum_weight(difficulty: Tensor, epoch: float, epochs: float) -> Tensor:
    """What lists weigh, ``[b]``: at first 1 less their difficulty, growing evenly to 1 at the end of the curriculum.

    ``w (1 - e/m) + e/m`` with ``w = 1 - difficulty``, epoch e of m.

    Args:
        difficulty: ``[b]``, 0 to 1: :func:`list_difficulty`.
        epoch: from 0; a fraction will do, and so will the progress of the run where ``epochs`` is a share of it.
        epochs: length of the curriculum; all lists weigh 1 from then on. The paper takes 20.

    Raises:
        InputError: ``epoch`` is below 0, or ``epochs`` is not over 0.
    """
    if not (is_number(epoch) and is_number(epochs) and epoch >= 0 and epochs > 0):
        raise InputError(
            f"A curriculum takes an epoch from 0 and a length over 0, not {epoch!r:.40} and {epochs!r:.40}"
        )
    return 1 - difficulty * (1 - min(epoch / epochs, 1.0))
