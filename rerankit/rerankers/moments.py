"""Dates as people and stores write them, to seconds since 1970."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time

_MILLISECONDS = 1e11
"""Larger numbers are milliseconds: as seconds they would lie beyond the year 5000."""

_YEARS = range(1000, 10_000)


def moment(value: object) -> float | None:
    """Seconds since 1970-01-01 UTC, or None if ``value`` cannot be read as a date.

    Reads ISO 8601 text, datetimes and dates, four-digit years, and seconds or milliseconds since 1970, as numbers or as
    text. What names no time zone is UTC; a year begins on its first day.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, int | float):
        return _from_number(float(value)) if abs(value) < 1e300 else None
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, date):
        return _seconds(datetime.combine(value, time()))
    return None


def _from_text(text: str) -> float | None:
    try:
        return _seconds(datetime.fromisoformat(text))
    except ValueError:
        pass
    try:
        return _from_number(float(text))
    except ValueError:
        return None


def _from_number(number: float) -> float | None:
    if not math.isfinite(number):
        return None
    if number.is_integer() and int(number) in _YEARS:
        return _seconds(datetime(int(number), 1, 1, tzinfo=UTC))
    return number / 1000.0 if abs(number) > _MILLISECONDS else number


def _seconds(value: datetime) -> float:
    zoned = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return (zoned - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
