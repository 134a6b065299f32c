"""Work: the circumstances under which a model works: what to count, until when, and whether anyone still waits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from rerankit.models.meter import Meter

__all__ = ["Work"]


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
