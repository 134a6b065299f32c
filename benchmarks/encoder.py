"""Cross-encoder throughput, side by side in one run: ``python benchmarks/encoder.py [--rounds 5]``.

The same MiniLM-L6-shaped cross-encoder (see encoder_model.py), 50 passages of about 220 tokens, two threads. All
contestants take turns within each round, so that other load on the machine hits them alike; medians are printed.
Differences and Kendall tau are against torch in float32. Rows without a package that is missing say so.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import importlib.util
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
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
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(rounds):
        for name, score in rows.items():
            started = time.perf_counter()
            score(lists[turn % len(lists)])
            seconds[name].append(time.perf_counter() - started)
    report(seconds, quality, len(lists[0]))


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


def report(seconds: dict[str, list[float]], quality: dict[str, tuple[float, float]], count: int) -> None:
    base = seconds.get("sentence-transformers")
    print(f"{'':28s} {'pairs/s':>8s} {'ratio':>6s} {'max diff':>9s} {'tau':>7s}")
    for name, times in seconds.items():
        # The ratio is the median of the rounds' ratios: each compares neighbours in time.
        ratio = statistics.median(b / t for b, t in zip(base, times, strict=True)) if base else float("nan")
        gap, tau = quality[name]
        print(f"{name:28s} {count / statistics.median(times):8.1f} {ratio:6.2f} {gap:9.1e} {tau:7.4f}")


if __name__ == "__main__":
    main()
