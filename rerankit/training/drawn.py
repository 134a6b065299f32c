"""What is drawn of lists for a step, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rerankit.training.objective import Lists

__all__ = ["Drawn", "padded", "to_lists"]


class HasLabels(Protocol):
    """A list with its labels."""

    @property
    def grades(self) -> NDArray[np.float32]:
        """Of each passage, ``[n]``."""

    @property
    def teacher(self) -> NDArray[np.float32] | None:
        """A teacher's scores, standardised, ``[n]``; None without one."""

    @property
    def weight(self) -> float:
        """Of the list."""


T_co = TypeVar("T_co", bound=HasLabels, covariant=True)


@dataclass(frozen=True, slots=True, eq=False)
class Drawn(Generic[T_co]):
    """A list of a batch: which one, and which of its passages."""

    item: T_co
    places: NDArray[np.int64]


def to_lists(
    batch: Sequence[Drawn[HasLabels]],
    scores: Tensor,
    cosines: Tensor,
    mask: Tensor,
    *,
    sharpness: float,
    levels: Tensor | None = None,
) -> Lists:
    """What the losses take.

    Args:
        batch: the lists, of ``b`` rows.
        scores: of the model, ``[b, n]``.
        cosines: of the retrieval, ``[b, n]``.
        mask: bool ``[b, n]``: where there is a passage.
        sharpness: spread of the teacher's scores.
        levels: of an :class:`~rerankit.training.losses.OrdinalHead`.
    """
    none = np.zeros(0, np.float32)
    teacher = padded([none if (t := one.item.teacher) is None else t[one.places] for one in batch], mask)
    taught = torch.tensor([one.item.teacher is not None for one in batch], device=mask.device)
    return Lists(
        scores=scores,
        cosines=cosines,
        grades=padded([one.item.grades[one.places] for one in batch], mask),
        teacher=sharpness * teacher,
        mask=mask,
        taught=mask & taught[:, None],
        weights=torch.tensor([one.item.weight for one in batch], device=mask.device),
        levels=levels,
    )


def padded(rows: Sequence[NDArray[np.float32]], mask: Tensor) -> Tensor:
    """Rows as ``[b, n]``, 0 where they end."""
    result = torch.zeros(mask.shape)
    for place, row in enumerate(rows):
        result[place, : len(row)] = torch.from_numpy(row)
    return result.to(mask.device)
