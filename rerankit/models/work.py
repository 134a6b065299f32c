"""Work: the circumstances under which a model works: what to count, until when, and whether anyone still waits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from rerankit.checks import is_number
from rerankit.errors import InputError
from rerankit.models.meter import Meter

__all__ = ["Work", "deadline_after"]


def deadline_after(deadline_s: float | None) -> float | None:
    """``time.monotonic()`` in ``deadline_s`` seconds; None if that is None or longer than any clock here can wait.

    Raises:
        InputError: it is not a positive number.
    """
    if deadline_s is None:
        return None
    if not is_number(deadline_s) or not deadline_s > 0:
        raise InputError(f"deadline_s must be a positive number of seconds, got {deadline_s!r:.80}")
    return None if deadline_s > threading.TIMEOUT_MAX else time.monotonic() + float(deadline_s)


@dataclass(slots=True)
class Work:
    """One caller's piece of work, handed down to the models.

    Models look at :attr:`expired` between pieces; it costs nothing.

    Attributes:
        meter: count work here.
        deadline: ``time.monotonic()`` by which to return, or None.
        cancelled: set when nobody waits for the result any more; counts as a deadline that has passed.
        once: each prompt goes out once, since somebody counts: a reply that says nothing is not asked for again.
    """

    meter: Meter = field(default_factory=Meter)
    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    once: bool = False

    def remaining(self) -> float | None:
        """Seconds left, never negative; None without a deadline."""
        if self.cancelled.is_set():
            return 0.0
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether to stop: the deadline has passed, or the caller has gone."""
        return self.remaining() == 0.0
