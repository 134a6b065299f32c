"""A Chroma store on disk with some of the sample corpus, made once."""

from __future__ import annotations

import pytest

from rerankit import ChromaRetriever
from rerankit.samples import farm


@pytest.fixture(scope="session")
def farm_store(tmp_path_factory):
    """The folder of the store."""
    folder = tmp_path_factory.mktemp("farm")
    with ChromaRetriever(folder) as retriever:
        retriever.index(farm.passages()[:60])
    return folder
