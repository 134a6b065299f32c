"""FeedbackLog: what was shown and what people did with it, in one sqlite file that many processes may write to.

The log holds passage ids, positions and times. Users appear only as the pseudonyms that the caller passes in, and a
query's text only if the caller passes it.
"""

from __future__ import annotations

import json
import math
import operator
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rerankit.errors import InputError, StoreError
from rerankit.models.database import connect

__all__ = ["FeedbackLog", "Impression", "UnitReward", "check_window"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS impressions (
    id INTEGER PRIMARY KEY, experiment TEXT NOT NULL, unit TEXT NOT NULL, arm TEXT NOT NULL, time REAL NOT NULL,
    query TEXT NOT NULL, shown TEXT NOT NULL, credit TEXT NOT NULL, swapped INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_unit ON impressions (experiment, unit, time);
CREATE TABLE IF NOT EXISTS events (
    impression INTEGER NOT NULL REFERENCES impressions (id), kind TEXT NOT NULL, position INTEGER NOT NULL,
    value REAL NOT NULL, time REAL NOT NULL, PRIMARY KEY (impression, kind, position)) WITHOUT ROWID;
"""
_REWARDS = """
WITH first AS (SELECT unit, arm, min(time) AS start, id FROM impressions WHERE experiment = :experiment GROUP BY unit)
SELECT first.unit, first.arm, first.start, avg(coalesce((
    SELECT max(value) FROM events
    WHERE impression = i.id AND kind = :kind AND time <= first.start + :window), :missing))
FROM first JOIN impressions i ON i.experiment = :experiment AND i.unit = first.unit AND i.time <= first.start + :window
WHERE first.start + :window <= :now GROUP BY first.unit ORDER BY first.start, first.id
"""
_CLICKS = """
SELECT i.id, i.unit, i.arm, i.time, i.query, i.shown, i.credit, i.swapped, (
    SELECT json_group_array(position) FROM events
    WHERE impression = i.id AND kind = 'click' AND time <= i.time + :window)
FROM impressions i WHERE experiment = :experiment AND time + :window <= :now ORDER BY time, id
"""


@dataclass(frozen=True, slots=True)
class UnitReward:
    """One unit's reward in the arm that it was assigned to; None when nothing was observed."""

    unit: str
    arm: str
    time: float
    value: float | None


@dataclass(frozen=True, slots=True)
class Impression:
    """One list that was shown, and the positions (from 0) that were clicked.

    ``credit`` names the arm to be credited per position, where lists were interleaved. ``swapped`` is the position that
    a swap intervention compared with the top, or 0.
    """

    id: int
    unit: str
    arm: str
    time: float
    query: str
    shown: tuple[str, ...]
    credit: tuple[str, ...]
    swapped: int
    clicked: tuple[int, ...]


class FeedbackLog:
    """A sqlite file of impressions and events; safe between threads and processes (write-ahead logging).

    Args:
        path: the file, created with its folder when absent.

    Raises:
        StoreError: the file cannot be opened, is no such log, or was written by another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._owner = 0
        self._connection: sqlite3.Connection | None = None
        self._run("SELECT 1")

    def shown(
        self,
        experiment: str,
        unit: str,
        arm: str,
        *,
        ids: Sequence[str] = (),
        credit: Sequence[str] = (),
        swapped: int = 0,
        query: str = "",
        at: float | None = None,
    ) -> int:
        """Record an impression.

        Args:
            experiment: name of the experiment.
            unit: who saw it; should be a pseudonym.
            arm: what they saw.
            ids: passage ids in the order shown.
            credit: per position the arm that a click credits (team draft).
            swapped: the position of a swap intervention.
            query: stored as it is; leave it out if queries are private.
            at: time in seconds since the epoch; default now.

        Returns:
            The impression's id, for its events.

        Raises:
            InputError: a name, text or id is no string that can be stored, or ``at`` is not finite.
        """
        if isinstance(ids, str) or not all(isinstance(name, str) for name in (*ids, *credit)):
            raise InputError(f"ids and credit are lists of strings, got {ids!r:.80} and {credit!r:.80}")
        if credit and len(credit) != len(ids):
            raise InputError(f"credit names one arm per shown passage: got {len(credit)} for {len(ids)} passages")
        values = (experiment, unit, arm, _time(at), query, json.dumps(list(ids)), json.dumps(list(credit)), swapped)
        columns = "experiment, unit, arm, time, query, shown, credit, swapped"
        sql = f"INSERT INTO impressions ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"  # noqa: S608 (constant)
        return int(self._run(sql, values)[0][0])

    def click(self, impression: int, position: int, *, at: float | None = None) -> None:
        """Record a click on a position from 0; a second click on the same position changes nothing."""
        self._event(impression, "click", position, 1.0, at, keep_first=True)

    def thumb(self, impression: int, up: bool, *, at: float | None = None) -> None:
        """Record a thumb up (1) or down (0) for the whole answer; the last one counts."""
        self._event(impression, "thumb", 0, float(up), at)

    def measure(self, impression: int, kind: str, value: float, *, at: float | None = None) -> None:
        """Record any other number about an impression, such as its latency; the last one of a kind counts."""
        self._event(impression, kind, 0, value, at)

    def rewards(
        self, experiment: str, kind: str, *, window_s: float, missing: float | None = 0.0, now: float | None = None
    ) -> list[UnitReward]:
        """One reward per unit, in order of the units' first impressions.

        What happens within ``window_s`` after a unit's first impression counts; units whose window is still open are
        left out. So no reward ever changes after it was read, which sequential tests rely on.

        Args:
            experiment: its name.
            kind: ``click`` (1 if any position was clicked), ``thumb``, or a kind given to :meth:`measure`.
            window_s: seconds, more than 0.
            missing: what an impression without such an event counts; None leaves it out of the unit's mean.
            now: seconds since the epoch.

        Raises:
            InputError: the window or ``now`` is not a usable number.
        """
        check_window(window_s)
        values = {"experiment": experiment, "kind": kind, "window": window_s, "missing": missing, "now": _time(now)}
        return [UnitReward(*row) for row in self._run(_REWARDS, values)]

    def impressions(self, experiment: str, *, window_s: float, now: float | None = None) -> Iterator[Impression]:
        """Impressions whose click window is over, in order of time, with what was clicked in it.

        Raises:
            InputError: the window or ``now`` is not a usable number.
        """
        check_window(window_s)
        for row in self._run(_CLICKS, {"experiment": experiment, "window": window_s, "now": _time(now)}):
            number, unit, arm, at, query, shown, credit, swapped, clicked = row
            lists = tuple(json.loads(shown)), tuple(json.loads(credit)), swapped, tuple(sorted(json.loads(clicked)))
            yield Impression(number, unit, arm, at, query, *lists)

    def experiments(self) -> list[str]:
        """Names of the experiments that have impressions."""
        return [row[0] for row in self._run("SELECT DISTINCT experiment FROM impressions ORDER BY experiment")]

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __enter__(self) -> FeedbackLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _event(
        self, impression: int, kind: str, position: int, value: float, at: float | None, *, keep_first: bool = False
    ) -> None:
        if not _is_finite(value) or not hasattr(position, "__index__") or position < 0 or not isinstance(kind, str):
            raise InputError(
                "An event has a kind (a string), a finite value and a position from 0, "
                f"got {kind!r:.80}, {value!r} and {position!r}"
            )
        verb = "IGNORE" if keep_first else "REPLACE"
        sql = f"INSERT OR {verb} INTO events (impression, kind, position, value, time) VALUES (?, ?, ?, ?, ?)"  # noqa: S608
        values = (impression, kind, operator.index(position), float(value), _time(at))
        try:
            self._run(sql, values)
        except sqlite3.IntegrityError as error:
            raise InputError(f"There is no impression {impression} in {self.path}") from error

    def _run(self, sql: str, values: Any = ()) -> list[Any]:
        with self._lock:
            try:
                connection = self._open()
                with connection:
                    return connection.execute(sql, values).fetchall()
            except sqlite3.IntegrityError:
                raise
            except UnicodeEncodeError as error:
                raise InputError(f"The feedback log stores no lone surrogates, got {error.object!r:.80}") from error
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"The feedback log {self.path} cannot be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():  # a forked child needs a connection of its own
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection, self._owner = connect(self.path, _SCHEMA, _VERSION, "feedback log"), os.getpid()
        return self._connection


def check_window(window_s: float) -> None:
    """Refuse a time in which nothing can happen.

    Raises:
        InputError: it is not a positive, finite number of seconds.
    """
    if not _is_finite(window_s) or window_s <= 0.0:
        raise InputError(
            f"window_s is a positive number of seconds, got {window_s!r}: feedback comes after the impression"
        )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def _time(at: float | None) -> float:
    if at is None:
        return time.time()
    if not _is_finite(at):
        raise InputError(f"A time is a finite number of seconds since 1970, got {at!r}")
    return float(at)
