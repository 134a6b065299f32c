"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# A time limit per example would fail on a busy machine, not on a wrong program.
settings.register_profile("rerankit", deadline=None)
settings.load_profile("rerankit")
