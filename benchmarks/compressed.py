"""100 stored passages reranked by their vectors, beside a cross-encoder: ``python benchmarks/compressed.py --out DIR``.

    python benchmarks/compressed.py                        # all of it; pictures and tables go to ./compressed-benchmark
    python benchmarks/compressed.py --rounds 5 --cross 1   # a quick look

``Compressed`` over vectors that the passages bring along, as from a store, against a cross-encoder of MiniLM shape
(see encoder_model.py) that reads the same 100 passages of about 220 tokens. Both take turns within each round, so that
other load on the machine hits them alike; every call has a question of its own, so that no cache answers. Two threads;
seconds are those of the clock, so run it on a quiet machine.

Printed per call, p50 and p95: ``list pass`` is the forward pass over the list, ``query`` the encoder's passes over the
question, ``model time`` both (bar: 15 ms p50), ``rank()`` all that a caller waits for. The ratio is the median of the
rounds' ratios of ``rank()``, cross-encoder to compressed. What it costs to encode the passages in the first place, once
each, is printed too: it is paid when they are indexed. Growth is the same from 100 to 1,000 passages, on random unit
vectors: time does not depend on what they hold.

Nothing here says how good an order is. The weights are those that come with rerankit, or where there are none an
untrained network of their shape; the first line says which.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from encoder_model import TOPICS, examples, question, save_cross_encoder

from rerankit.errors import ModelError
from rerankit.models.embedded import embedder, model_folder
from rerankit.models.resrank_files import ResRankConfig, save_resrank
from rerankit.rerankers.base import Reranker
from rerankit.rerankers.compressed import Compressed
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.types import Passage

BAR_MS = 15.0
SIZES = (100, 200, 300, 500, 750, 1000)
LISTED = 100
WARM_UP = 3


@dataclass
class Stopwatch:
    """Stands in for a callable and adds up the seconds spent in it."""

    call: Callable[..., Any]
    seconds: float = 0.0

    def __call__(self, *args: Any, **options: Any) -> Any:
        """What the callable returns."""
        started = time.perf_counter()
        try:
            return self.call(*args, **options)
        finally:
            self.seconds += time.perf_counter() - started

    def take(self) -> float:
        """The seconds so far; starts anew."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@dataclass
class Times:
    """Seconds per call, by what they were spent on."""

    list_pass: list[float] = field(default_factory=list)
    query: list[float] = field(default_factory=list)
    rank: list[float] = field(default_factory=list)

    @property
    def model(self) -> list[float]:
        """All that networks took."""
        return [a + b for a, b in zip(self.list_pass, self.query, strict=True)]

    def rows(self) -> dict[str, list[float]]:
        """By the names that are printed."""
        return {"list pass": self.list_pass, "query": self.query, "model time": self.model, "rank()": self.rank}


class Timed:
    """A ``Compressed`` whose calls are taken apart."""

    def __init__(self, reranker: Compressed) -> None:
        self.reranker = reranker
        self._list = Stopwatch(reranker.module.forward)
        self._query = Stopwatch(reranker.inputs.queries)
        reranker.module.forward = self._list  # type: ignore[method-assign]
        reranker.inputs.queries = self._query  # type: ignore[method-assign]

    def rank(self, query: str, passages: Sequence[Passage], times: Times) -> float:
        """Rank once and note the times; seconds of the whole."""
        self._list.take(), self._query.take()
        times.rank.append(seconds_of(self.reranker, query, passages))
        times.list_pass.append(self._list.take())
        times.query.append(self._query.take())
        return times.rank[-1]


def seconds_of(reranker: Reranker, query: str, passages: Sequence[Passage]) -> float:
    started = time.perf_counter()
    reranker.rank(query, passages)
    return time.perf_counter() - started


def questions(rng: np.random.Generator) -> Iterator[str]:
    """Questions that never come twice."""
    number = 0
    while True:
        number += 1
        yield f"{question(rng, str(rng.choice(list(TOPICS))))} ({number})"


def generated(rng: np.random.Generator) -> list[Passage]:
    """The listed passages, without vectors."""
    texts = [text for topic in list(TOPICS)[:2] for _, text, _ in examples(rng, topic, LISTED // 2, (10, 15))]
    return [Passage(str(i), text, score=1.0 / (i + 1)) for i, text in enumerate(texts)]


def with_vectors(passages: Sequence[Passage], vectors: np.ndarray) -> list[Passage]:
    """As a store gives them."""
    pairs = zip(passages, vectors, strict=True)
    return [one.replace(embedding=vector, embedding_model=embedder().model_id) for one, vector in pairs]


def random_list(rng: np.random.Generator, count: int) -> list[Passage]:
    """Passages with random unit vectors."""
    vectors = rng.normal(size=(count, embedder().dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return with_vectors([Passage(str(i), f"passage {i}", score=0.0) for i in range(count)], vectors)


def compressed(folder: Path) -> tuple[Compressed, str]:
    """The reranker, and whose weights it has."""
    try:
        reranker = Compressed()
    except ModelError:
        from rerankit.models.resrank import ResRank

        config = ResRankConfig(embedder().model_id, embedder().dim)
        save_resrank(ResRank(config), folder, dtype="float16")
        shape = f"{config.layers} layers of width {config.width}, {config.heads} heads"
        return Compressed(folder), f"UNTRAINED network of the default shape ({shape}): rerankit ships no weights here"
    return reranker, f"shipped weights {reranker.model}"


def duel(
    timed: Timed, cross: Reranker, passages: Sequence[Passage], asked: Iterator[str], turns: tuple[int, int, int]
) -> tuple[Times, list[float], list[float]]:
    """Times of the compressed reranker, seconds of the cross-encoder, and the ratios of the rounds that have both.

    Args:
        timed: the compressed reranker.
        cross: the other one.
        passages: that both rerank.
        asked: questions.
        turns: rounds, compressed calls per round, rounds with a cross-encoder.
    """
    rounds, calls, crossings = turns
    times, seconds, ratios = Times(), [], []
    for turn in range(rounds):
        own = [timed.rank(next(asked), passages, times) for _ in range(calls)]
        if turn < crossings:
            seconds.append(seconds_of(cross, next(asked), passages))
            ratios.append(seconds[-1] / statistics.median(own))
    return times, seconds, ratios


def growth(
    timed: Timed, lists: dict[int, list[Passage]], asked: Iterator[str], rounds: int
) -> dict[int, dict[str, dict[str, float]]]:
    """Times by the number of passages; sizes take turns."""
    found = {size: Times() for size in lists}
    for turn in range(rounds + 1):
        for size, passages in lists.items():
            timed.rank(next(asked), passages, found[size] if turn else Times())
    return {size: summary(times) for size, times in found.items()}


def summary(times: Times) -> dict[str, dict[str, float]]:
    """Milliseconds by what they were spent on."""
    return {
        name: {"p50": 1000 * float(np.percentile(values, 50)), "p95": 1000 * float(np.percentile(values, 95))}
        for name, values in times.rows().items()
    }


def print_growth(table: dict[int, dict[str, dict[str, float]]]) -> None:
    names = ["list pass", "model time", "rank()"]
    print(f"\n{'passages':>8s}" + "".join(f"{name + ' p50':>16s}{'p95':>8s}" for name in names))
    for size, row in table.items():
        print(f"{size:8d}" + "".join(f"{row[name]['p50']:13.1f} ms{row[name]['p95']:8.1f}" for name in names))


def draw(table: dict[int, dict[str, dict[str, float]]], target: Path, weights: str) -> None:
    """Milliseconds against passages: p50 as lines, up to p95 shaded."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    sizes = list(table)
    for name, colour in (("rank()", "#0072B2"), ("model time", "#009E73"), ("list pass", "#D55E00")):
        low, high = ([table[size][name][part] for size in sizes] for part in ("p50", "p95"))
        axes.plot(sizes, low, "o-", color=colour, label=name)
        axes.fill_between(sizes, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(BAR_MS, color="#7F7F7F", linestyle="--", linewidth=1)
    axes.annotate(f"{BAR_MS:g} ms", (sizes[-1], BAR_MS), ha="right", va="bottom", color="#7F7F7F")
    axes.set(xlabel="passages in the list", ylabel="milliseconds, p50 (shaded: to p95)", ylim=(0, None))
    axes.set_title(weights, fontsize=8)
    axes.legend()
    figure.savefig(target, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of ten compressed calls")
    parser.add_argument("--cross", type=int, default=5, help="how many of the rounds run the cross-encoder too")
    parser.add_argument("--out", type=Path, default=Path("compressed-benchmark"))
    given = parser.parse_args()
    if given.rounds < 1 or not 0 <= given.cross <= given.rounds:
        parser.error("--rounds must be at least 1, --cross from 0 to --rounds")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("RERANKIT_CACHE", scratch + "/cache")
        run(Path(scratch), given.rounds, given.cross, given.out)


def run(scratch: Path, rounds: int, crossings: int, out: Path) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    rng = np.random.default_rng(2026)
    reranker, weights = compressed(scratch / "untrained")
    print(f"{weights}\nencoder {reranker.encoder.model_id} on {reranker.device}, {torch.get_num_threads()} threads")
    bare, asked = generated(rng), questions(rng)
    started = time.perf_counter()
    vectors = embedder().encode([passage.text for passage in bare])
    indexing = time.perf_counter() - started
    passages, timed = with_vectors(bare, vectors), Timed(reranker)
    save_cross_encoder(model_folder(), scratch / "cross-encoder")
    cross = CrossEncoder(str(scratch / "cross-encoder"))
    duel(timed, cross, passages, asked, (1, WARM_UP, min(1, crossings)))
    times, seconds, ratios = duel(timed, cross, passages, asked, (rounds, 10, crossings))
    found = summary(times)
    print(f"\n{LISTED} stored passages, {len(times.rank)} calls")
    for name, row in found.items():
        print(f"  {name:12s} p50 {row['p50']:7.1f} ms   p95 {row['p95']:7.1f} ms")
    verdict = "met" if found["model time"]["p50"] <= BAR_MS else "MISSED"
    print(f"  bar of {BAR_MS:g} ms p50 model time: {verdict}")
    print(f"  encoding the passages, once: {indexing * 1000:.0f} ms ({indexing * 1000 / LISTED:.1f} ms each)")
    if ratios:
        tokens = np.mean(reranker.encoder.count_tokens([passage.text for passage in bare]))
        engine = cross.encoder.engine.choice
        print(f"cross-encoder ({engine.backend}, {engine.dtype}), the same {LISTED} passages of {tokens:.0f} tokens")
        print(f"  {'rank()':12s} p50 {statistics.median(seconds) * 1000:7.1f} ms, {len(seconds)} calls")
        print(f"  ratio {statistics.median(ratios):.0f} (rounds: {', '.join(f'{ratio:.0f}' for ratio in ratios)})")
    table = growth(timed, {size: random_list(rng, size) for size in SIZES}, asked, rounds)
    print_growth(table)
    facts = {"weights": weights, "listed": found, "ratios": ratios, "cross_s": seconds, "indexing_s": indexing}
    (out / "compressed.json").write_text(json.dumps({**facts, "growth": table}, indent=2) + "\n", "utf-8")
    draw(table, out / "growth.png", weights)
    print(f"\ntable {out / 'compressed.json'}, picture {out / 'growth.png'}")


if __name__ == "__main__":
    main()
