"""The command line: ``rerankit ask | index | rank | models | doctor``."""

from __future__ import annotations

from rerankit.cli.app import main

__all__ = ["main"]
