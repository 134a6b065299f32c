"""The remote family against ``rerankit serve``: over the network the ranking is the offline one, in every dialect."""

from __future__ import annotations

import contextlib

import pytest
from harness import serving

import rerankit
from rerankit.rerankers.remote import Remote
from rerankit.rerankers.remote_dialects import DIALECTS
from rerankit.samples import farm
from rerankit.server.settings import Settings

KEY = "a-long-enough-key"


@pytest.fixture(scope="module")
def url():
    with serving(Settings(models={"light": "lexical", "none": "none"}, api_keys=(KEY,))) as (address, _):
        yield address


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_ranking_is_the_offline_one(url, dialect):
    passages = [*farm.passages()[:70], *farm.passages()[:3]]
    plain = [passage.replace(text=f"{passage.title} {passage.text}", title="") for passage in passages]
    offline = rerankit.load("lexical")
    with Remote(f"{url}#light", dialect=dialect, api_key=KEY, max_passages=100) as reranker:
        for question in farm.questions()[:5]:
            here, there = offline.rank(question.text, plain), reranker.rank(question.text, passages)
            assert [hit.prior_rank for hit in there] == [hit.prior_rank for hit in here]
            assert there.status == "scored"
            assert all(isinstance(hit.score, float) for hit in there)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_a_wrong_key_is_told(url, dialect):
    reranker = Remote(f"{url}#light", dialect=dialect, api_key="wrong-but-long")
    with contextlib.closing(reranker), pytest.raises(rerankit.BackendError, match="status 401") as failure:
        reranker.rank("wheat", ["a", "b"])
    assert "wrong-but-long" not in str(failure.value)
