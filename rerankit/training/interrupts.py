"""Ctrl-C between two steps, not within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]


class Interrupts:
    """While open, Ctrl-C raises ``KeyboardInterrupt``; inside :meth:`held` only at its end, or when pressed again.

    Does nothing outside the main thread, which alone can receive signals, and where Ctrl-C is switched off.
    """

    def __init__(self) -> None:
        self._holding = self._pressed = False
        self._before: Any = None  # the handler to put back

    def __enter__(self) -> Interrupts:
        replaceable = signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)
        if replaceable and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A piece of work that is done whole."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pressed:
            self._pressed = False
            raise KeyboardInterrupt

    def _press(self, number: int, frame: FrameType | None) -> None:
        if not self._holding or self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
