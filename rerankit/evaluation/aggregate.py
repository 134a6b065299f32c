"""Which of many arms is best over many data sets? Social choice: each set is a voter.

Means over sets mix scales and let one large set decide. Here each set only says which of two arms it prefers, or that
they tie; three rules then make one order of it:

* Borda: points for every arm beaten on every set (half for a tie).
* Copeland: points for every arm beaten on more sets than it wins (half for an even split).
* Kemeny: the order, ties allowed, that disagrees least with the sets (Kemeny and Snell 1962). Exact, up to 8 arms.

When the three agree, so may the reader; when they do not, the sets disagree, and that is the finding. After
Dwork et al., "Rank aggregation methods for the Web" (WWW 2001) and Rofin et al., "Vote'n'Rank" (EACL 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations

from rerankit.errors import InputError

__all__ = ["KEMENY_ARMS", "Consensus", "aggregate", "borda", "copeland", "kemeny"]

KEMENY_ARMS = 8
"""Exact Kemeny orders take 3^arms steps: 6,561 at this limit."""

Wins = Mapping[tuple[str, str], float]
"""``wins[a, b]``: share of the sets that put ``a`` strictly above ``b``; what is left over are ties."""

Order = tuple[tuple[str, ...], ...]
"""Groups of tied arms, best first."""

_CLOSE = 1e-9


@dataclass(frozen=True, slots=True)
class Consensus:
    """The outcome of all rules.

    Attributes:
        borda: points per arm, as a share of the most possible, best first.
        copeland: points per arm, as a share of the most possible, best first.
        kemeny: groups of tied arms, best first; None beyond ``KEMENY_ARMS`` arms.
        winner: the arm that beats every other on more sets than it loses (Condorcet's winner), or None.
    """

    borda: dict[str, float]
    copeland: dict[str, float]
    kemeny: Order | None
    winner: str | None


def aggregate(scores: Mapping[str, Mapping[str, float]], *, margin: float = 0.0) -> Consensus:
    """Combine the arms' scores on several sets.

    Args:
        scores: ``{set: {arm: score}}``, higher is better; every set has the same arms.
        margin: on one set, scores no further apart than this tie.

    Raises:
        InputError: no sets, fewer than two arms, a set without one of the arms, or a score that is not a number.
    """
    arms = _arms(scores)
    wins = _wins(scores, arms, margin)
    leads = {arm: [wins[arm, other] - wins[other, arm] for other in arms if other != arm] for arm in arms}
    return Consensus(
        borda=borda(wins, arms),
        copeland=copeland(wins, arms),
        kemeny=kemeny(wins, arms) if len(arms) <= KEMENY_ARMS else None,
        winner=next((arm for arm in arms if min(leads[arm]) > _CLOSE), None),
    )


def borda(wins: Wins, arms: Sequence[str]) -> dict[str, float]:
    """Share of all contests (other arm, set) won, ties counted half; best first."""
    points = {}
    for arm in arms:
        leads = [wins[arm, other] - wins[other, arm] for other in arms if other != arm]
        points[arm] = sum(0.5 + 0.5 * lead for lead in leads) / len(leads)
    return _best_first(points)


def copeland(wins: Wins, arms: Sequence[str]) -> dict[str, float]:
    """Share of the other arms beaten on more sets than they win, even splits counted half; best first."""
    points = {}
    for arm in arms:
        leads = [wins[arm, other] - wins[other, arm] for other in arms if other != arm]
        points[arm] = sum(0.5 if abs(lead) <= _CLOSE else float(lead > 0.0) for lead in leads) / len(leads)
    return _best_first(points)


def kemeny(wins: Wins, arms: Sequence[str]) -> Order:
    """The order with ties that has the smallest summed Kemeny-Snell distance to the sets.

    On one set, a reversed pair costs 1, and a pair tied on one side only costs 1/2. Among equally good orders the one
    with more ties is taken, since nothing in the data speaks for the finer one. Found by dynamic programming over the
    arms still to place.

    Raises:
        InputError: more than ``KEMENY_ARMS`` arms.
    """
    if len(arms) > KEMENY_ARMS:
        raise InputError(f"An exact Kemeny order takes at most {KEMENY_ARMS} arms, got {len(arms)}")

    @cache
    def best(left: frozenset[str]) -> tuple[float, int, Order]:
        if not left:
            return 0.0, 0, ()
        options = []
        for group in _groups(sorted(left)):
            rest = left.difference(group)
            tied = sum(0.5 * (wins[a, b] + wins[b, a]) for a, b in combinations(group, 2))
            placed = sum(0.5 * (1.0 + wins[b, a] - wins[a, b]) for a in group for b in rest)
            later, count, order = best(rest)
            options.append((round(tied + placed + later, 9), count + 1, (group, *order)))
        return min(options)

    return best(frozenset(arms))[2]


def _groups(arms: Sequence[str]) -> list[tuple[str, ...]]:
    return [group for size in range(1, len(arms) + 1) for group in combinations(arms, size)]


def _arms(scores: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not scores:
        raise InputError("There is no set to aggregate over")
    arms = sorted(set().union(*scores.values()))
    if len(arms) < 2:
        raise InputError(f"Aggregation takes at least two arms, got {arms}")
    for name, row in scores.items():
        if missing := [arm for arm in arms if row.get(arm, float("nan")) != row.get(arm)]:
            raise InputError(f"Set {name!r} has no score for {missing}: leave the set or the arm out of the comparison")
    return arms


def _wins(
    scores: Mapping[str, Mapping[str, float]], arms: Sequence[str], margin: float
) -> dict[tuple[str, str], float]:
    return {
        (first, second): sum(row[first] - row[second] > margin for row in scores.values()) / len(scores)
        for first, second in permutations(arms, 2)
    }


def _best_first(points: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(points.items(), key=lambda item: (-item[1], item[0])))
