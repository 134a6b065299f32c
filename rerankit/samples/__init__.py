"""Small data sets that ship with rerankit, for demos, tests and first experiments."""

from __future__ import annotations
