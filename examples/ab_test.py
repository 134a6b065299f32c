"""An A/B test of two rerankers on live users, which may be looked at any time. Needs rerankit[embedded].

The users and their clicks are made up here: they click the first relevant passage they see.
"""

from __future__ import annotations

import tempfile
import time

import rerankit
from rerankit.evaluation.live import CLICK, LiveExperiment
from rerankit.samples import farm

passages, qrels = farm.passages(), farm.qrels()
arms = {"lexical": rerankit.load("lexical"), "dense": rerankit.load("dense")}

with tempfile.TemporaryDirectory() as folder:
    test = LiveExperiment(
        "which-reranker", {"lexical": 1, "dense": 1}, control="lexical", log=f"{folder}/feedback.sqlite",
        metric=CLICK, window_s=60.0, salt="keep this secret",
    )  # fmt: skip
    for number, question in enumerate(farm.questions()[:60]):
        user = f"user-{number}"
        ranking = arms[test.assign(user)].rank(question.text, passages, top_k=3)
        impression = test.shown(user, ids=[hit.id for hit in ranking])
        grades = qrels.get(question.id, {})
        for position, hit in enumerate(ranking):
            if grades.get(hit.id, 0) > 1:
                test.log.click(impression, position=position)
                break

    report = test.analyse(now=time.time() + 120)  # as it will look when everybody's minute is over
    for name, arm in report.arms.items():
        print(f"{name:8} {arm.n:3} users, {arm.mean:.0%} clicked")
    print(report.reason or "No verdict yet: go on", "| stop:", report.stop)
    test.log.close()
