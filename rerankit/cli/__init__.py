"""The command line ``rerankit``, one module per command."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]

INTERRUPTED = 130


def main() -> None:
    """The entry point ``rerankit``; what it needs is imported here, so that Ctrl-C is quiet from the start."""
    # As an exit and not as KeyboardInterrupt, which typer would turn into "Aborted" and status 1.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(INTERRUPTED))
    try:
        from rerankit.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
