"""Settings for all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# No framework phones home, neither from here nor from a program that a test starts; read when they are imported.
os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}

# A time limit per example would fail on a busy machine, not on a wrong program.
settings.register_profile("rerankit", deadline=None)
settings.load_profile("rerankit")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Conversions and vectors of the tests go to a folder of their own, never into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RERANKIT_CACHE", str(folder))
        yield folder
