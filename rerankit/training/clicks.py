"""Clicks as judgements.

The click model is a cascade (Craswell et al., "An experimental comparison of click position-bias models", WSDM 2008):
people read from the top and click what looks right. So what was clicked is relevant (grade 1); what was skipped above
the last click was seen and is not (grade 0: Joachims' "last click > skip above", SIGKDD 2002); what stands below the
last click may never have been seen, is not judged and left out. A passage that was clicked on another impression of
the same query is never counted as skipped.

Clicks far down are rare because few people look there. Therefore every click makes a list of its own, which weighs the
inverse of the chance that its position is looked at (Joachims, Swaminathan and Schnabel, "Unbiased learning-to-rank
with biased feedback", WSDM 2017). That chance is given per position, or ``(1 / rank) ** exponent`` with the paper's
exponent of 1; no weight is more than 20 times another. Weights are scaled to a mean of 1.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import is_number
from rerankit.errors import InputError
from rerankit.evaluation.position_bias import inverse_weights
from rerankit.training.lists_files import Draft, Judged, Row, query_key, query_of

__all__ = ["PositionBias", "Shown", "from_clicks", "graded"]

PositionBias: TypeAlias = float | Sequence[float]
"""The exponent of the chance that a rank is looked at, or that chance per position, from the top, in (0, 1]."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One list that somebody saw.

    Attributes:
        query: what was asked.
        ids: passages in the order shown.
        clicked: positions from 0.
        where: of the record, for messages.
    """

    query: str
    ids: tuple[str, ...]
    clicked: frozenset[int]
    where: str


def from_clicks(rows: Iterable[Row], source: str, position_bias: PositionBias) -> list[Draft]:
    """``{"query", "shown": [ids], "clicked": [ids]}``, ids in the order shown.

    Raises:
        InputError: ids are no strings, or something was clicked that was not shown.
    """
    return graded([_shown(row, where) for where, row in rows], source, position_bias)


def graded(impressions: Sequence[Shown], source: str, position_bias: PositionBias = 1.0) -> list[Draft]:
    """One list per click: the clicked passage, and those that were skipped on that impression.

    An impression without a click becomes a list without a relevant passage, so that it is counted where it is left
    out.

    Raises:
        InputError: ``position_bias`` is no exponent of at least 0, or no chances for as many positions as were clicked.
    """
    liked: dict[str, set[str]] = defaultdict(set)
    for seen in impressions:
        liked[query_key(seen.query)] |= {seen.ids[position] for position in seen.clicked}
    weights = _weights(position_bias, max((max(seen.clicked, default=0) for seen in impressions), default=0) + 1)
    drafts = [draft for seen in impressions for draft in _drafts(seen, liked[query_key(seen.query)], weights, source)]
    mean = float(np.mean([draft.weight for draft in drafts if draft.judged] or [1.0]))
    return [replace(draft, weight=draft.weight / mean) for draft in drafts]


def _drafts(seen: Shown, liked: set[str], weights: NDArray[np.float64], source: str) -> Iterator[Draft]:
    if not seen.clicked:
        yield Draft(seen.query, (), seen.where, source)
    above = dict.fromkeys(name for name in seen.ids[: max(seen.clicked, default=0)] if name not in liked)
    skipped = tuple(Judged(name, 0.0) for name in above)
    for position in sorted(seen.clicked):
        judged = (Judged(seen.ids[position], 1.0), *skipped)
        yield Draft(seen.query, judged, seen.where, source, float(weights[position]))


def _weights(position_bias: PositionBias, count: int) -> NDArray[np.float64]:
    """What a click at each of the first ``count`` positions counts, ``[count]`` or longer."""
    if is_number(position_bias):
        if not 0.0 <= position_bias < math.inf:
            raise InputError(f"The exponent of position_bias is at least 0 (no bias), got {position_bias!r}")
        return inverse_weights(np.arange(1, count + 1, dtype=float) ** -float(position_bias))
    try:
        weights = inverse_weights(position_bias)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"position_bias is an exponent or one chance per position, got {position_bias!r:.80}"
        ) from error
    if weights.ndim != 1 or len(weights) < count:
        raise InputError(
            f"position_bias holds the chances of {weights.size} positions, but position {count} was clicked; give one "
            "per position"
        )
    return weights


def _shown(row: Mapping[str, Any], where: str) -> Shown:
    columns = {}
    for name in ("shown", "clicked"):
        value = row.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InputError(f"{where}: {name!r} is a list of passage ids, as strings")
        columns[name] = value
    shown = columns["shown"]
    if strangers := [name for name in columns["clicked"] if name not in shown]:
        raise InputError(f"{where}: {strangers[0]!r} was clicked but not shown")
    return Shown(query_of(row, where), tuple(shown), frozenset(map(shown.index, columns["clicked"])), where)
