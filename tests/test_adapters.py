"""What adapters share: a number keeps its meaning, records are JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import rerankit
from rerankit.adapters import finite_or_none, hit_record


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
