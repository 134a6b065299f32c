"""Settings for the integrations' own tests: those of ``tests/conftest.py``, and no framework phones home."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

os.environ |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LANGSMITH_TRACING": "false"}

settings.register_profile("rerankit", deadline=None)
settings.load_profile("rerankit")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Conversions and vectors of the tests go to a folder of their own, never into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
