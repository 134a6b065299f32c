"""From a question to a cited answer: load, store, retrieve, pack, answer."""

from __future__ import annotations
