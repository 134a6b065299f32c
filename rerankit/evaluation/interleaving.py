"""Interleaving: two rerankers share one result list, and clicks say which one the user prefers.

Every user is their own control, so interleaving needs far fewer impressions than an A/B split (Chapelle et al.,
"Large-scale validation and analysis of interleaved search evaluation", TOIS 2012).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from rerankit.errors import InputError

__all__ = ["Interleaved", "balanced", "team_draft"]


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A mixed result list and who is to be credited for it.

    Attributes:
        ids: passage ids in the order to show.
        credit: for each shown position, the arms that a click there credits.
        arms: all arms, those with nothing in the list included.
    """

    ids: tuple[str, ...]
    credit: tuple[tuple[str, ...], ...]
    arms: tuple[str, ...]

    def clicks(self, clicked: Collection[int]) -> dict[str, int]:
        """Credited clicks per arm, for clicked positions from 0; an arm without any is absent.

        Raises:
            InputError: a position that was not shown.
        """
        totals: dict[str, int] = {}
        for position in sorted(set(clicked)):
            if not 0 <= position < len(self.ids):
                raise InputError(f"Position {position} was not shown: the list has {len(self.ids)} passages, from 0")
            for arm in self.credit[position]:
                totals[arm] = totals.get(arm, 0) + 1
        return totals

    def preference(self, arm: str, baseline: str, clicked: Collection[int]) -> int:
        """1 if the clicks prefer ``arm`` to ``baseline``, -1 if the reverse, 0 if neither.

        Raises:
            InputError: an unknown arm, or a position that was not shown.
        """
        return _preference(self.clicks(clicked), arm, baseline, self.arms)


def team_draft(rankings: Mapping[str, Sequence[str]], *, k: int, seed: int | np.random.Generator) -> Interleaved:
    """Team-draft interleaving of two arms, team-draft multileaving of more.

    Round by round, in an order drawn anew, each arm adds its best passage that is not in the list yet, and is credited
    for clicks on it (Radlinski, Kurup and Joachims, CIKM 2008; Schuth et al., CIKM 2014). An arm that has nothing left
    to add sits out.

    Args:
        rankings: passage ids per arm, best first.
        k: length of the list to show.
        seed: an int (same list for the same unit and query) or a generator.

    Raises:
        InputError: fewer than two arms, ``k`` below one, or an id twice in one ranking.
    """
    _check(rankings, k)
    rng = np.random.default_rng(seed)
    queues = {arm: iter(ids) for arm, ids in rankings.items()}
    shown: dict[str, str] = {}
    while queues and len(shown) < k:
        arms = list(queues)
        for place in rng.permutation(len(arms)):
            pick = next((name for name in queues[arms[place]] if name not in shown), None)
            if pick is None:
                del queues[arms[place]]
            elif len(shown) < k:
                shown[pick] = arms[place]
    return Interleaved(tuple(shown), tuple((arm,) for arm in shown.values()), tuple(rankings))


def balanced(rankings: Mapping[str, Sequence[str]], *, k: int, seed: int | np.random.Generator) -> Balanced:
    """Balanced interleaving of two arms (Joachims, "Optimizing search engines using clickthrough data", KDD 2002).

    A coin decides who leads; then the arm that has contributed fewer of its own passages goes next, and duplicates are
    skipped. Any prefix of the list holds the top passages of both arms in nearly equal number. Clicks that ignore
    relevance can still favour one arm when the rankings are shifted copies of each other (Radlinski et al. 2008):
    team draft is the better default.

    Raises:
        InputError: not exactly two arms, ``k`` below one, or an id twice in one ranking.
    """
    _check(rankings, k)
    if len(rankings) != 2:
        raise InputError(f"Balanced interleaving takes two arms, got {list(rankings)}")
    lists = list(rankings.items())
    if np.random.default_rng(seed).integers(2):
        lists.reverse()
    shown: dict[str, None] = {}
    places = [0, 0]
    while len(shown) < k and any(place < len(ids) for place, (_, ids) in zip(places, lists, strict=True)):
        turn = 0 if places[0] <= places[1] else 1
        if places[turn] >= len(lists[turn][1]):
            turn = 1 - turn
        shown[lists[turn][1][places[turn]]] = None
        places[turn] += 1
    return Balanced(tuple(shown), {arm: tuple(ids) for arm, ids in lists})


@dataclass(frozen=True, slots=True)
class Balanced:
    """A balanced list; credit depends on how far down the user clicked.

    Attributes:
        ids: passage ids in the order to show.
        rankings: the two arms' own rankings.
    """

    ids: tuple[str, ...]
    rankings: Mapping[str, tuple[str, ...]]

    def clicks(self, clicked: Collection[int]) -> dict[str, int]:
        """Clicks on each arm's own top ``j``, ``j`` being the least depth at which an arm holds the lowest click.

        Raises:
            InputError: a position that was not shown.
        """
        positions = sorted(set(clicked))
        if not positions:
            return {}
        if positions[0] < 0 or positions[-1] >= len(self.ids):
            raise InputError(f"Positions {positions} were not all shown: the list has {len(self.ids)} passages, from 0")
        lowest = self.ids[positions[-1]]
        depth = min(ids.index(lowest) + 1 for ids in self.rankings.values() if lowest in ids)
        names = {self.ids[position] for position in positions}
        return {arm: len(names.intersection(islice(ids, depth))) for arm, ids in self.rankings.items()}

    def preference(self, arm: str, baseline: str, clicked: Collection[int]) -> int:
        """1 if the clicks prefer ``arm`` to ``baseline``, -1 if the reverse, 0 if neither.

        Raises:
            InputError: an unknown arm, or a position that was not shown.
        """
        return _preference(self.clicks(clicked), arm, baseline, self.rankings)


def _preference(totals: Mapping[str, int], arm: str, baseline: str, known: Collection[str]) -> int:
    if unknown := [name for name in (arm, baseline) if name not in known]:
        raise InputError(f"No such arm: {unknown}; known: {list(known)}")
    lead = totals.get(arm, 0) - totals.get(baseline, 0)
    return (lead > 0) - (lead < 0)


def _check(rankings: Mapping[str, Sequence[str]], k: int) -> None:
    if len(rankings) < 2:
        raise InputError(f"Interleaving takes at least two arms, got {list(rankings)}")
    if k < 1:
        raise InputError(f"k is the number of passages to show, at least 1, got {k}")
    for arm, ids in rankings.items():
        if len(set(ids)) < len(ids):
            raise InputError(f"The ranking of arm {arm!r} holds a passage id twice")
