"""Dates as people and stores write them, to seconds since 1970."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time

import numpy as np

_MILLISECONDS = 1e11
"""Larger numbers are milliseconds: as seconds they would lie beyond the year 5000."""

_YEARS = range(1000, 10_000)
_DAYS = range(1000_01_01, 10_000_01_01)
_MONTH = re.compile(r"\d{4}-\d{2}", re.ASCII)


def moment(value: object) -> float | None:
    """Seconds since 1970-01-01 UTC, or None if ``value`` cannot be read as a date.

    Reads ISO 8601 text, datetimes and dates, and as numbers or as text four-digit years, days such as ``20240501``, and
    seconds or milliseconds since 1970. What names no time zone is UTC; years and months begin on their first day. An
    eight-digit number that is a date is taken for one: as seconds it would lie before 1974.
    """
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, int | float | np.integer | np.floating):
        return _from_number(value)
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, date):
        return _seconds(datetime.combine(value, time()))
    return None


def _from_text(text: str) -> float | None:
    try:
        return _seconds(datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text))
    except ValueError:
        pass
    try:
        return _from_number(float(text))
    except ValueError:
        return None


def _from_number(value: float | np.integer | np.floating) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    if number.is_integer() and (known := _from_digits(int(number))) is not None:
        return known
    return number / 1000.0 if abs(number) > _MILLISECONDS else number


def _from_digits(number: int) -> float | None:
    """``2024`` and ``20240501``; None for any other number."""
    if number not in _YEARS and number not in _DAYS:
        return None
    month, day = (number // 100 % 100, number % 100) if number in _DAYS else (1, 1)
    try:
        return _seconds(datetime(int(str(number)[:4]), month, day, tzinfo=UTC))
    except ValueError:  # no such day
        return None


def _seconds(value: datetime) -> float:
    zoned = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    return (zoned - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
