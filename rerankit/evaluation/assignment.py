"""Who sees which arm: deterministic buckets from a salted hash.

The same unit (a user, or a query) gets the same arm on every call, in every process, on every machine, without a
table. Experiments with different names or salts are independent of each other.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from rerankit.errors import InputError

__all__ = ["assign", "bucket", "check_weights", "unit_seed"]


def unit_seed(*parts: str) -> int:
    """A 64-bit number from strings, evenly spread; each part is length-prefixed, so that no two lists collide.

    Raises:
        InputError: a part is not a string.
    """
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, str):
            raise InputError(f"Units, experiments and salts are strings, got {part!r:.80}; write str(...) around it")
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest()[:8], "little")


def bucket(unit: str, *, experiment: str, salt: str = "") -> float:
    """Where ``unit`` falls in [0, 1)."""
    return (unit_seed(salt, experiment, unit) >> 11) / 2.0**53


def assign(unit: str, weights: Mapping[str, float], *, experiment: str, salt: str = "") -> str:
    """The arm of ``unit``.

    Arms own consecutive parts of [0, 1) in the order of ``weights``: when a weight grows at a neighbour's expense,
    only the units between the two move.

    Args:
        unit: what is assigned as a whole: a user id, a session id or the query's text.
        weights: positive traffic weights per arm; they need not sum to one.
        experiment: name of the experiment.
        salt: secret or version that makes the assignment unpredictable from outside.

    Raises:
        InputError: the weights are not usable, or a name is not a string.
    """
    shares = check_weights(weights)
    point, edge = bucket(unit, experiment=experiment, salt=salt), 0.0
    for arm, share in shares.items():
        edge += share
        if point < edge:
            return arm
    return arm  # rounding left the edge a hair under one


def check_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights as shares that sum to one.

    Raises:
        InputError: fewer than two arms, or a weight that is not positive and finite.
    """
    if len(weights) < 2:
        raise InputError(f"An experiment has at least two arms, got {list(weights)}")
    for arm, weight in weights.items():
        if not (weight > 0.0 and math.isfinite(weight)):
            raise InputError(f"The weight of arm {arm!r} must be positive and finite, got {weight}")
    total = sum(weights.values())
    return {arm: weight / total for arm, weight in weights.items()}
