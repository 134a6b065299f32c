"""What adapters share: nothing secret is written, a number keeps its meaning, records are JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rerankit
from rerankit.adapters import finite_or_none, hit_record, public_options, public_spec


@pytest.mark.parametrize(
    ("spec", "public"),
    [
        ("default", "default"),
        ("dense[:30] | mmr[weight=0.7][:5]", "dense[:30] | mmr[weight=0.7][:5]"),
        ("remote:http://h/v1[api_key=sk-1]", "remote:http://h/v1"),
        ("remote:http://h/v1[timeout_s=3, api_key=sk-1][:5]", "remote:http://h/v1[timeout_s=3][:5]"),
        ("pairwise:https://me:sk-1@h/v1#m[method=heapsort]", "pairwise:https://h/v1#m[method=heapsort]"),
        ("judge:http://me:p@ss@h/v1#m", "judge:http://h/v1#m"),
        ("a[HF_TOKEN=sk-1] | fusion:b[secret=sk-1]+c[x=1]", "a | fusion:b+c[x=1]"),
        (
            "judge:http://h/v1#m[max_tokens=9,max_tokens_field=x]",
            "judge:http://h/v1#m[max_tokens=9,max_tokens_field=x]",
        ),
    ],
)
def test_a_spec_is_written_without_secrets(spec, public):
    assert public_spec(spec) == public


def test_options_are_written_without_secrets():
    options = {"device": "cpu", "api_key": "sk-1", "headers": {"x": "sk-1"}, "extra": {"seed": 1, "password": "sk-1"}}
    assert public_options(options) == {"device": "cpu", "extra": {"seed": 1}}
    assert options["api_key"] == "sk-1"


@given(st.text(alphabet=st.characters(exclude_characters="[],=|@"), min_size=1))
def test_no_written_secret_survives_whatever_it_is(secret):
    spec = public_spec(f"remote:http://h/v1[api_key={secret},top=1]")
    assert spec == "remote:http://h/v1[top=1]"


@pytest.mark.parametrize(
    ("given_score", "kept"),
    [(1, 1.0), (np.float32(0.5), 0.5), ("0.25", 0.25), (None, None), (math.nan, None), (math.inf, None), (True, None),
     ([1], None), ("high", None), (10**400, None)],
)  # fmt: skip
def test_first_stage_scores_are_finite_numbers_or_none(given_score, kept):
    found = finite_or_none(given_score)
    assert found == kept
    assert type(found) in (float, type(None))


def test_a_record_says_what_its_numbers_mean():
    ranking = rerankit.load("lexical").rank("rust", [rerankit.Passage("a", "sheep", score=0.5), "rust on wheat"])
    records = [hit_record(ranking, hit) for hit in ranking]
    assert json.loads(json.dumps(records)) == records
    assert [(record["rank"], record["prior_rank"], record["prior_score"]) for record in records] == [
        (1, 2, None),
        (2, 1, 0.5),
    ]
    assert {(record["scale"], record["model"], record["reason"]) for record in records} == {
        (ranking.scale, ranking.model, "")
    }
    assert all("passage" not in record for record in records)
