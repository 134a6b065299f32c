"""What training minimises: pure functions of ``scores [b, n]``, one row per list.

All of them keep the same rules, so that they can be swapped and added up:

* ``mask [b, n]`` is True at a real passage. Nothing at another place matters, not even NaN.
* Grades are at least 0, and 0 means not relevant. A target (grades, or a teacher's scores) is higher for the better
  passage. No gradient goes into a target.
* A list that can teach nothing (no positive, or no pair of different targets) adds exactly 0 and does not count: the
  loss is the mean over the other lists, and 0 when there are none.
* ``weights [b]`` multiply the lists' losses before that mean (:func:`curriculum_weight`, ``TrainingList.weight``).
* The arithmetic is float32, in bfloat16 training too; float64 stays float64.
* A temperature divides the scores: 1 suits logits; E2Rank takes .03 (InfoNCE) and .1 (RankNet) for cosines.

Every function raises :class:`~rerankit.errors.InputError` for tensors that do not fit each other, or a temperature
that is not over 0.
"""

from __future__ import annotations

from rerankit.training.losses_curriculum import (
    curriculum_weight,
    list_difficulty,
    min_max,
    reciprocal_rank,
)
from rerankit.training.losses_distillation import kl, margin_mse, two_tower
from rerankit.training.losses_listwise import info_nce, list_mle, rank_net
from rerankit.training.losses_ordinal import OrdinalHead, expected_grade, ordinal
from rerankit.training.losses_policy import policy_gradient

__all__ = [
    "OrdinalHead",
    "curriculum_weight",
    "expected_grade",
    "info_nce",
    "kl",
    "list_difficulty",
    "list_mle",
    "margin_mse",
    "min_max",
    "ordinal",
    "policy_gradient",
    "rank_net",
    "reciprocal_rank",
    "two_tower",
]
