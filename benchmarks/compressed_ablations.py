"""What each part of the compressed reranker is worth: ``python benchmarks/compressed_ablations.py --data DIR``.

Trains the same small run once per row, with one thing changed, and prints nDCG@10 on DEV sets that nothing is trained
on: dense is the untrained cosine, ``untrained`` the model before its first step, every other row the best evaluation
after that, even where the untrained model is better. Then the full one reads its lists in random order, which must
change nothing. A run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rerankit.models.embedded import embedder
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.compressed import Compressed
from rerankit.training.compressed import CompressedOptions
from rerankit.training.compressed_run import CompressedRun, train_compressed
from rerankit.training.retrieved import retrieved_lists
from rerankit.training.task import Settings

TRAIN = ("squad_sentences", "nq_gold", "pubmedqa", "scifact_train")
DEV = ("agask_dev", "covidfaq", "expertqa_130", "stackfaq", "cranfield", "hotpotqa_100")
METRIC = "nDCG@10"
SHAPE = {"width": 256, "layers": 2, "heads": 4, "dropout": 0.1, "words": True, "score_residual": True}
LOSSES = {
    "one": ("list_nce=1@1", "rank_net=1@1"),
    "two": ("rank_net=1@1", "kl=1@1"),
    "joint": ("list_nce=1@1", "kl=1@1"),
}


def main() -> None:
    """Train every row and print the table."""
    options = _options()
    full = CompressedRun(
        data=[str(options.data / name) for name in TRAIN],
        dev=[str(options.data / name) for name in DEV],
        count=options.count,
        dev_count=60,
        retrieve=True,
        stages=("joint",),
        shape=SHAPE,
        options=CompressedOptions(batch=32, max_passages=48, sharpness=1.7),
        vectors=options.out / "vectors.sqlite",
        cache=options.out / "cache",
    )
    vectors_only = {**SHAPE, "words": False, "score_residual": False}
    rows = {
        "full: joint, words, residual": full,
        "no words (vectors of the store alone)": replace(full, shape=vectors_only),
        "no residual": replace(full, shape={**SHAPE, "residual": False}),
        "no score residual": replace(full, shape={**SHAPE, "score_residual": False}),
        "no teacher, no stage two: labels alone": replace(full, stages=("one",), teacher="none"),
        "stages one by one, not joint": replace(full, stages=("one", "two")),
    }
    settings = Settings(epochs=1, learning_rate=5e-4, weight_decay=0.05, evaluate_every=options.every, seed=0)
    found = {name: _trained(name, run, settings, options.out) for name, run in rows.items()}
    _print(found)
    _shuffled(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of test collections")
    parser.add_argument("--out", type=Path, default=Path(".rerankit/compressed-ablations"), help="runs and vectors")
    parser.add_argument("--count", type=int, default=800, help="most lists per training set")
    parser.add_argument("--every", type=int, default=25, help="steps between two evaluations")
    return parser.parse_args()


def _trained(name: str, run: CompressedRun, settings: Settings, out: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics before the first step, and the best ones of the last stage after it."""
    run = run if run.shape["words"] else replace(run, losses=())
    losses = [f"{stage}:{loss}" for stage in run.stages for loss in LOSSES[stage]] if run.shape["words"] else ()
    folder = out / "".join(c if c.isalnum() else "-" for c in name)
    reports = train_compressed(replace(run, losses=losses), settings, folder, tell=print)
    first, *_ = (row["metrics"] for row in reports[0].history if "metrics" in row)
    later = [row["metrics"] for row in reports[-1].history if "metrics" in row and row["step"]]
    return first, max(later, key=lambda metrics: metrics[METRIC])


def _print(found: dict[str, tuple[dict[str, float], dict[str, float]]]) -> None:
    table = Table(title=f"{METRIC} on DEV lists of 100, best step of the training")
    for column in ("", *DEV, "mean"):
        table.add_column(column, justify="right" if column else "left")
    plain = found["no words (vectors of the store alone)"][0]
    rows = {"dense": plain, "untrained, with words": next(iter(found.values()))[0]}
    for name, metrics in {**rows, **{name: best for name, (_, best) in found.items()}}.items():
        table.add_row(name, *(f"{metrics[f'{METRIC} {one}']:.4f}" for one in DEV), f"{metrics[METRIC]:.4f}")
    Console(width=170).print(table)


def _shuffled(options: argparse.Namespace) -> None:
    """The order of the input must not matter."""
    folder = next(path.parent for path in sorted(options.out.glob("full*/model.safetensors")))
    cache, random = VectorCache(options.out / "vectors.sqlite"), np.random.default_rng(0)
    lists = retrieved_lists(options.data / DEV[2], embedder(), cache, count=40, split="test")
    worst = 0.0
    with Compressed(folder, vectors=cache) as reranker:
        for item in lists:
            scores = {hit.id: hit.score for hit in reranker.rank(item.query, item.passages)}
            mixed = [item.passages[i] for i in random.permutation(len(item.passages))]
            again = {hit.id: hit.score for hit in reranker.rank(item.query, mixed)}
            worst = max(worst, *(abs(scores[name] - again[name]) for name in scores))
    print(f"Shuffled input: the largest change of a score in {len(lists)} lists is {worst:.1e}")


if __name__ == "__main__":
    main()
