"""What the evaluation costs beyond the models.

    python benchmarks/harness.py                              # both parts, full size
    python benchmarks/harness.py --queries 1000               # a quick look

Part 1, overhead: four arms that do next to nothing are run over synthetic queries with 50 candidates each, through the
run folder and the score memo; printed is the time per query and arm, less that of the same arms called directly.
Bar: 2 ms.

Part 2, evaluation: recorded results of 5 arms x 100 candidates per query, with scores drawn at random (seeded), are
read, evaluated and written up as a report. Bars: 60 s and 2 GB (peak resident memory, whole process).
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from rerankit.evaluation.datasets import Dataset, Question
from rerankit.evaluation.experiment import BASELINE, Arm, Experiment
from rerankit.evaluation.report import write_report
from rerankit.evaluation.results import Results
from rerankit.evaluation.runfolder import RunFolder
from rerankit.evaluation.summary import write_summary
from rerankit.spec import load
from rerankit.types import Passage, Usage

ARMS = 5
DEPTH = 100
POOL = 20_000
OVERHEAD_QUERIES, OVERHEAD_DEPTH = 300, 50
BAR_MS, BAR_S, BAR_GB = 2.0, 60.0, 2.0


def passage(number: int) -> Passage:
    return Passage(
        f"passage-{number:06d}", f"Passage number {number} about nothing in particular.", score=-float(number)
    )


def collection(queries: int, depth: int, rng: np.random.Generator) -> tuple[Dataset, dict[str, list[int]]]:
    """Questions with three relevant passages among their candidates, and the candidates' numbers."""
    questions = {f"q{i}": Question(f"q{i}", f"question {i}") for i in range(queries)}
    candidates = {name: rng.choice(POOL, depth, replace=False).tolist() for name in questions}
    qrels = {
        name: {passage(number).id: grade for number, grade in zip(numbers[:30:10], (2, 1, 1), strict=True)}
        for name, numbers in candidates.items()
    }
    return Dataset("synthetic", questions, qrels, lambda: map(passage, range(POOL))), candidates


def overhead(folder: Path, rng: np.random.Generator) -> float:
    """Milliseconds per query and arm beyond what the arms took themselves."""
    dataset, numbers = collection(OVERHEAD_QUERIES, OVERHEAD_DEPTH, rng)
    pools = {name: [passage(number) for number in found] for name, found in numbers.items()}
    arms = [Arm("none", "none"), *(Arm(f"cut-{k}", f"none[:{k}] | none") for k in (10, 20, 40))]
    trial = Experiment(dataset, pools, arms, RunFolder(folder))
    trial.folder.begin({"data": "synthetic"})
    started = time.perf_counter()
    trial.run()
    total = time.perf_counter() - started
    rerankers = [load(str(arm.reranker)) for arm in arms]
    started = time.perf_counter()
    for reranker in rerankers:
        for name, question in dataset.questions.items():
            reranker.rank(question.text, pools[name])
    own = time.perf_counter() - started
    return (total - own) * 1000 / (OVERHEAD_QUERIES * len(arms))


def record(folder: RunFolder, candidates: dict[str, list[int]], rng: np.random.Generator) -> None:
    """Write what an experiment would have written."""
    folder.begin({"data": "synthetic"})
    names = [BASELINE, *(f"arm-{i}" for i in range(1, ARMS))]
    folder.name_arms(names)
    usage = Usage().to_dict()
    for strength, name in enumerate(names):
        with folder.arm_path(name).open("w", encoding="utf-8") as file:
            for query, numbers in candidates.items():
                scores = rng.normal(size=DEPTH)
                scores[:30:10] += 0.3 * strength
                order = np.argsort(-scores)
                line = {
                    "query": query,
                    "order": [passage(numbers[i]).id for i in order],
                    "scores": scores[order].tolist(),
                    "status": "scored",
                    "reason": "",
                    "seconds": float(rng.exponential(0.01)),
                    "usage": usage,
                }
                file.write(json.dumps(line) + "\n")


def evaluation(folder: Path, queries: int, rng: np.random.Generator) -> float:
    """Seconds from the recorded lines to verdicts and report."""
    dataset, candidates = collection(queries, DEPTH, rng)
    record(RunFolder(folder), candidates, rng)
    started = time.perf_counter()
    results = Results(dataset, RunFolder(folder), margin=0.01)
    write_report(results)
    summary = write_summary(results)
    seconds = time.perf_counter() - started
    for name, arm in summary["arms"].items():
        print(f"    {name}: nDCG@10 {arm['figures']['nDCG@10']:.4f}", arm["verdict"]["word"] if arm["verdict"] else "")
    return seconds


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        spent = overhead(Path(folder) / "overhead", rng)
        print(f"overhead: {spent:.2f} ms per query and arm (bar {BAR_MS:g}), {OVERHEAD_QUERIES} queries, 4 arms")
        print(f"evaluation of {given.queries:,} queries x {ARMS} arms x {DEPTH} candidates:")
        seconds = evaluation(Path(folder) / "evaluation", given.queries, rng)
        print(f"  {seconds:.1f} s (bar {BAR_S:g}), peak memory {peak_gb():.2f} GB (bar {BAR_GB:g})")


if __name__ == "__main__":
    main()
