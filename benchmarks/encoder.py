"""Cross-encoder throughput, side by side in one run: ``python benchmarks/encoder.py [--rounds 5]``.

The same MiniLM-L6-shaped cross-encoder (see encoder_model.py), 50 passages of about 220 tokens, two threads. All
contestants take turns within each round, so that other load on the machine hits them alike; medians are printed.
Differences and Kendall tau are against torch in float32. Rows without a package that is missing say so.

The last column and lines compare with the processor itself: its rate of plain matrix products, measured in the same
rounds, and the operations that a pair cannot do without (see encoder_ceiling.py). Ratios much beyond those of the last
lines are beyond this processor in that precision; int8 has a rate of its own, which is not measured.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import importlib.util
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from encoder_ceiling import flop, matmul_rate
from encoder_model import TOPICS, examples, save_cross_encoder

from rerankit.models import backends, batching
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.embedded import model_folder
from rerankit.models.encoder import PairEncoder
from rerankit.models.meter import Meter

Pairs = Sequence[tuple[str, str]]
Score = Callable[[Pairs], Sequence[float]]


def sentence_transformers(model: Path) -> Score:
    from sentence_transformers import CrossEncoder

    loaded = CrossEncoder(str(model), device="cpu", max_length=512)
    return lambda pairs: loaded.predict(list(pairs), activation_fn=_identity(), show_progress_bar=False)


def _identity() -> object:
    import torch

    return torch.nn.Identity()


def rerankers(model: Path) -> Score:
    from rerankers import Reranker

    loaded = Reranker(str(model), model_type="cross-encoder", device="cpu", dtype="float32", verbose=0)

    def score(pairs: Pairs) -> list[float]:
        results = loaded.rank(pairs[0][0], [text for _, text in pairs], doc_ids=list(range(len(pairs)))).results
        return [result.score for result in sorted(results, key=lambda result: result.doc_id)]

    return score


def one_padded_batch(model: Path) -> Score:
    """Everything tokenised anew and run in one padded onnxruntime batch."""
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()
    backend, _ = backends.load(find_checkpoint(model), "logits", backends.Choice("onnxruntime", "cpu", "float32"))

    def score(pairs: Pairs) -> Sequence[float]:
        rows = tokenizer.encode_batch(list(pairs))
        parts = ([row.ids for row in rows], [row.attention_mask for row in rows], [row.type_ids for row in rows])
        return backend(batching.Batch(*(np.array(part, np.int64) for part in parts)))[:, 0]

    return score


def engine(backend: str, dtype: str) -> Callable[[Path], Score]:
    def load(model: Path) -> Score:
        return PairEncoder(model, backend=backend, dtype=dtype).score

    return load


CONTESTANTS: dict[str, tuple[str, Callable[[Path], Score]]] = {
    "sentence-transformers": ("sentence_transformers", sentence_transformers),
    "rerankers": ("rerankers", rerankers),
    "one padded ONNX batch": ("onnxruntime", one_padded_batch),
    "rerankit torch": ("torch", engine("torch", "float32")),
    "rerankit onnxruntime": ("onnxruntime", engine("onnxruntime", "float32")),
    "rerankit openvino": ("openvino", engine("openvino", "float32")),
    "rerankit openvino bfloat16": ("openvino", engine("openvino", "bfloat16")),
    "rerankit openvino int8": ("openvino", engine("openvino", "int8")),
    "rerankit onnxruntime int8": ("onnxruntime", engine("onnxruntime", "int8")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated parts of row names")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(2026)
    lists = [[(q, p) for q, p, _ in examples(rng, topic, 50, (10, 15))] for topic in list(TOPICS)[:2]]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("RERANKIT_CACHE", folder + "/cache")
        model = Path(folder) / "cross-encoder"
        save_cross_encoder(model_folder(), model)
        run(model, lists, options.rounds, [part for part in options.only.split(",") if part])


def run(model: Path, lists: list[Pairs], rounds: int, only: list[str]) -> None:
    exact = PairEncoder(model, backend="torch", dtype="float32")
    describe(exact, lists)
    reference = [exact.score(pairs) for pairs in lists]
    rows = {}
    for name, (package, load) in CONTESTANTS.items():
        if only and name != "sentence-transformers" and not any(part in name for part in only):
            continue
        if importlib.util.find_spec(package) is None:
            print(f"{name:28s} absent: {package} is not installed")
            continue
        if "bfloat16" in name and not backends.native_bfloat16():
            print(f"{name:28s} absent: this processor has no bfloat16 instructions")
            continue
        rows[name] = load(model)
    quality = {name: compare(score, lists, reference) for name, score in rows.items()}
    config = json.loads((model / "config.json").read_text("utf-8"))
    work = [sum(flop(config, entry.size()) for entry in exact.entries(pairs)) for pairs in lists]
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    # The seconds that the same lists would take if the processor did nothing but multiply.
    least: dict[str, list[float]] = {dtype: [] for dtype in ("float32", "bfloat16") if dtype in map(precision, rows)}
    for turn in range(rounds):
        for dtype, times in least.items():
            times.append(work[turn % len(lists)] / matmul_rate(config, dtype))
        for name, score in rows.items():
            started = time.perf_counter()
            score(lists[turn % len(lists)])
            seconds[name].append(time.perf_counter() - started)
    report(seconds, least, quality, len(lists[0]))
    report_ceiling(seconds, least, work, len(lists[0]))


def describe(encoder: PairEncoder, lists: list[Pairs]) -> None:
    meter = Meter()
    encoder.score(lists[0], meter=meter)
    tokens = encoder.count_tokens([text for _, text in lists[0]])
    scores = encoder.score(lists[0])
    started = time.perf_counter()
    entries = encoder.entries(lists[0])
    for batch in batching.plan([entry.size() for entry in entries], 2048):
        batching.pad([entries[i] for i in batch], encoder.engine.pad_id)
    host = time.perf_counter() - started
    print(f"{len(lists[0])} passages of {np.mean(tokens):.0f} tokens ({min(tokens)} to {max(tokens)}), ", end="")
    print(f"{os.environ['OMP_NUM_THREADS']} threads, standard deviation of the scores {scores.std():.2f}")
    print(f"padding ratio {meter.padded_tokens / meter.input_tokens:.3f}, ", end="")
    print(f"host time for {len(lists[0])} cached passages {host * 1000:.2f} ms\n")


def compare(score: Score, lists: list[Pairs], reference: list[np.ndarray]) -> tuple[float, float]:
    """Largest score difference and mean Kendall tau to the reference."""
    found = [np.asarray(score(pairs), np.float64) for pairs in lists]
    gap = max(float(np.abs(a - b).max()) for a, b in zip(found, reference, strict=True))
    return gap, float(np.mean([kendall_tau(a, b) for a, b in zip(found, reference, strict=True)]))


def kendall_tau(a: np.ndarray, b: np.ndarray) -> float:
    """Share of concordant minus share of discordant pairs of items (no ties expected)."""
    upper = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[:, None] - a)[upper] * np.sign(b[:, None] - b)[upper]))


def precision(name: str) -> str | None:
    """In which precision a row of ours multiplies, if its rate is measured."""
    if not name.startswith("rerankit") or "int8" in name:
        return None
    return "bfloat16" if "bfloat16" in name else "float32"


def report(
    seconds: dict[str, list[float]],
    least: dict[str, list[float]],
    quality: dict[str, tuple[float, float]],
    count: int,
) -> None:
    base = seconds.get("sentence-transformers", [])
    print(f"{'':28s} {'pairs/s':>8s} {'ratio':>6s} {'max diff':>9s} {'tau':>7s} {'of peak':>8s}")
    for name, times in seconds.items():
        gap, tau = quality[name]
        dtype = precision(name)
        share = f" {ratio(least[dtype], times):8.0%}" if dtype else ""
        print(f"{name:28s} {speed(times, base, count)} {gap:9.1e} {tau:7.4f}{share}")


def report_ceiling(seconds: dict[str, list[float]], least: dict[str, list[float]], work: list[int], count: int) -> None:
    """How far a program could go that does nothing but the products of each pair, without padding, at the full rate."""
    base = seconds.get("sentence-transformers", [])
    print(f"\nA pair takes {statistics.mean(work) / count / 1e9:.2f} GFLOP at least. Matrix products alone:")
    for dtype, times in least.items():
        rate = statistics.median(work[turn % len(work)] / took / 1e9 for turn, took in enumerate(times))
        print(f"{dtype:28s} {speed(times, base, count)}   at {rate:.0f} GFLOP/s")


def speed(times: Sequence[float], base: Sequence[float], count: int) -> str:
    return f"{count / statistics.median(times):8.1f} {ratio(base, times):6.2f}"


def ratio(base: Sequence[float], times: Sequence[float]) -> float:
    """The median of the rounds' ratios: each compares neighbours in time."""
    return statistics.median(b / t for b, t in zip(base, times, strict=True)) if base else float("nan")


if __name__ == "__main__":
    main()
