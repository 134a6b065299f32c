"""Fail a build when reranking gets worse: nDCG@10 and time on judged questions. Needs rerankit[embedded,chroma,eval].

In CI the same is one command: rerankit compare --data farm --arm default --fail-if "nDCG@10<0.8"; its exit status is 3.
"""

from __future__ import annotations

import sys
import tempfile

from rerankit.evaluation.comparison import Plan
from rerankit.evaluation.experiment import Arm, Experiment
from rerankit.evaluation.gate import Condition
from rerankit.evaluation.results import Results
from rerankit.evaluation.runfolder import RunFolder
from rerankit.evaluation.summary import write_summary

GATES = ("nDCG@10 < 0.8", "default: ms p50 > 60000")

with tempfile.TemporaryDirectory() as path:
    plan = Plan("farm", depth=20, max_queries=12, generator="")  # your own data: a folder in BEIR's format
    dataset, folder = plan.open(), RunFolder(path)
    plan.begin(folder, dataset)
    Experiment(dataset, plan.find(folder, dataset), [Arm("default", "default")], folder).run()
    summary = write_summary(Results(dataset, folder))

gates = [gate for text in GATES for gate in Condition.parse(text).check(summary, ["default"])]
print(*(("ok  " if gate.passed else "FAIL") + " " + gate.sentence for gate in gates), sep="\n")
sys.exit(0 if all(gate.passed for gate in gates) else 3)
