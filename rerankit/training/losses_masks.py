"""What all losses share: checked tensors, sets of pairs, and the mean over the lists that teach something."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rerankit.checks import is_number
from rerankit.errors import InputError

__all__ = ["check_temperature", "checked", "lowest", "mean_of_lists", "ordered_pairs"]


def checked(mask: Tensor, scores: Tensor, *others: Tensor) -> list[Tensor]:
    """Tensors of one shape and dtype, float32 at least, with 0 at the masked places.

    Args:
        mask: bool ``[b, n]``.
        scores: ``[b, n]``.
        others: ``[b, n]`` each: targets, through which no gradient flows.

    Raises:
        InputError: a shape or the mask's dtype is wrong.
    """
    shapes = [tuple(one.shape) for one in (mask, scores, *others)]
    if mask.dtype != torch.bool or mask.ndim != 2 or len(set(shapes)) > 1:
        raise InputError(
            f"A loss takes a bool mask [b, n] with scores and targets of the same shape; got a mask of {mask.dtype} "
            f"and the shapes {', '.join(map(str, shapes))}"
        )
    dtype = torch.promote_types(scores.dtype, torch.float32)
    tensors = (scores, *(one.detach() for one in others))
    return [one.to(dtype).masked_fill(~mask, 0.0) for one in tensors]


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not over 0.

    Raises:
        InputError: it is not, or is no finite number.
    """
    if not (is_number(temperature) and 0 < temperature < math.inf):
        raise InputError(f"temperature must be a number over 0, got {temperature!r:.80}")


def lowest(values: Tensor) -> float:
    """The score of what must not be chosen: finite, because a softmax over nothing but -inf is NaN."""
    return torch.finfo(values.dtype).min


def ordered_pairs(target: Tensor, mask: Tensor) -> Tensor:
    """Bool ``[b, n, n]``: passage i is better than passage j, and both are real."""
    return (target[:, :, None] > target[:, None, :]) & mask[:, :, None] & mask[:, None, :]


def mean_of_lists(values: Tensor, useful: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean over the useful lists; 0, with a gradient of 0, when there is none.

    Args:
        values: finite ``[b]``.
        useful: bool ``[b]``: lists that can teach something.
        weights: ``[b]``, multiplied in; they do not change what is divided by, or a batch of hard lists would get back
            the weight that a curriculum takes from it.

    Raises:
        InputError: the weights have another shape.
    """
    if weights is not None:
        if weights.shape != values.shape:
            raise InputError(f"There are {len(values)} lists, and weights of the shape {tuple(weights.shape)}")
        values = values * weights.detach().to(values.dtype)
    return values.masked_fill(~useful, 0.0).sum() / useful.sum().clamp_min(1)
