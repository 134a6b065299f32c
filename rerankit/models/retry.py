"""When and how long to wait before asking an endpoint again.

Exponential backoff with full jitter: the wait is drawn uniformly between 0 and a bound that doubles with each failure,
so that many clients do not come back at the same moment (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
Blog, 2015). A ``Retry-After`` header (RFC 9110, section 10.2.3) is a lower bound on top of which the jitter comes.
"""

from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass

from rerankit.checks import check_whole
from rerankit.errors import InputError

RETRIED_STATUS = frozenset({408, 409, 425, 429})
"""Client errors that may pass: request timeout, conflict, too early, too many requests. Every 5xx is retried too."""


def is_retryable(status: int) -> bool:
    """Whether the same request may succeed later; 400, 401, 403, 404 and 422 never do."""
    return status in RETRIED_STATUS or status >= 500


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is.

    Attributes:
        max_retries: attempts after the first.
        base_s: bound of the first wait, in seconds; it doubles with each failure.
        max_backoff_s: upper end of that bound.
        max_retry_after_s: longest wait that a ``Retry-After`` header can impose.
    """

    max_retries: int = 3
    base_s: float = 0.5
    max_backoff_s: float = 8.0
    max_retry_after_s: float = 60.0

    def __post_init__(self) -> None:
        check_whole(0, max_retries=self.max_retries)
        for name in ("base_s", "max_backoff_s", "max_retry_after_s"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)!r}")

    def delay(self, failures: int, retry_after: float | None = None) -> float:
        """Seconds to wait after the ``failures``-th failure (from 1)."""
        bound = min(self.max_backoff_s, self.base_s * 2.0 ** (failures - 1))
        if retry_after is not None:
            return min(retry_after, self.max_retry_after_s) + random.uniform(0.0, min(bound, self.base_s))  # noqa: S311 - jitter, not secrets
        return random.uniform(0.0, bound)  # noqa: S311 - jitter, not secrets


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header, which is a number or an HTTP date; None if absent or unreadable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        return _seconds_until(value)
    return max(0.0, seconds) if seconds < float("inf") else None


def _seconds_until(date: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())
