"""The command line: ``rerankit ask | index | rank | compare | explain | eval | questions | models | doctor``."""

from __future__ import annotations

import sys

__all__ = ["main"]

INTERRUPTED = 130


def main() -> None:
    """The entry point ``rerankit``; what it needs is imported here, so that Ctrl-C is quiet from the start."""
    try:
        from rerankit.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
