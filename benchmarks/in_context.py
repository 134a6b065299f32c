"""In-context reranking: seconds and peak memory against two plain ways to the same scores.

    python benchmarks/in_context.py                       # the reference's small model on the CPU
    python benchmarks/in_context.py --device cuda         # shapes of real models, random weights, on a GPU

CPU: 20, 50 and 100 passages of 150 tokens, all heads, calibrated by "N/A". Each contestant runs in a process of its
own, so that peaks of memory are its own:

* rerankit: the passages once, query and "N/A" as two tails behind them;
* no reuse: the same reader, but query and "N/A" each from the full prompt. Bar: 1.8 times the seconds;
* plain: transformers' eager attention with output_attentions=True, each from the full prompt. Bar: 5 times, at 50.

Printed is the median over the rounds (each with passages of its own) and the peak of resident memory above the loaded
model. On one thread the process's own seconds are those of the clock on an idle machine, and other load on a busy one
does not count. The plain way is left out where its matrices would not fit into the free memory.

GPU: milliseconds and peak memory of rerankit with the 16 heads of four middle layers, and the share of the floor: the
time that the necessary multiplications take at the rate of one large matrix product, measured on the same device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import resource
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures" / "icr"
PASSAGE_TOKENS = 150
COUNTS = (20, 50, 100)
QUERY = "Which project helps young people, and who founded it?"
BAR_PLAIN, BAR_REUSE = 5.0, 1.8

SHAPES = {
    "Qwen3-0.6B": ("Qwen3", {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
                             "num_key_value_heads": 8, "intermediate_size": 3072, "head_dim": 128}),
    "Qwen3-4B": ("Qwen3", {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
                           "num_key_value_heads": 8, "intermediate_size": 9728, "head_dim": 128}),
    "Llama-3.1-8B": ("Llama", {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                               "num_key_value_heads": 8, "intermediate_size": 14336}),
}  # fmt: skip


def save_model(folder: Path) -> Path:
    """The reference's small model: four layers, 8 heads on 2 key heads, width 128, random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(FIXTURES)).save_pretrained(folder)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(FIXTURES / name, folder)
    return folder


def passages(count: int, seed: int) -> list[str]:
    """Texts of at least 150 tokens; what is beyond them is cut."""
    random = np.random.default_rng(seed)
    cases = json.loads((FIXTURES / "reference_scores.json").read_text("utf-8"))
    words = " ".join(cases[0]["documents"]).split()
    return [" ".join(random.choice(words, 2 * PASSAGE_TOKENS)) for _ in range(count)]


Run = Callable[[list[str]], np.ndarray]


def rerankit_run(folder: Path) -> Run:
    from rerankit.rerankers.in_context import InContext

    reranker = InContext(folder, heads="all", order="given", passage_tokens=PASSAGE_TOKENS, dtype="float32")

    def run(texts: list[str]) -> np.ndarray:
        hits = sorted(reranker.rank(QUERY, texts), key=lambda hit: hit.prior_rank)
        return np.array([hit.score for hit in hits])

    return run


def _parts(folder: Path) -> tuple[Any, Any]:
    """The model and the prompt that all contestants share."""
    from rerankit.models.causal import LocalLM
    from rerankit.models.in_context_prompt import InContextPrompt, fitting_template

    lm = LocalLM(folder, dtype="float32")
    return lm, InContextPrompt(lm.reader, fitting_template("llama-3", None, lm.reader))


def _scores(query: np.ndarray, null: np.ndarray, spans: Any) -> np.ndarray:
    from rerankit.rerankers.in_context_scores import by_passage, passage_score

    tokens = query.astype(np.float64) - null
    return np.array([passage_score(own, 2.0, "sum") for own in by_passage(tokens, spans)])


def no_reuse_run(folder: Path) -> Run:
    from rerankit.models.attention import AttentionReader, Tail
    from rerankit.models.attention_layers import model_shape

    lm, prompt = _parts(folder)
    reader = AttentionReader(lm, model_shape(lm.model).all_heads())

    def means(shared: Any, query: str) -> np.ndarray:
        question = prompt.question(query)
        prefix = reader.read_prefix(shared.ids, shared.columns, rows=shared.rows)
        own = reader.read_tails(prefix, [Tail(question.ids)])
        return (prefix.sums[0] + own[0, 0]) / (shared.rows + len(question.ids))

    def run(texts: list[str]) -> np.ndarray:
        shared = prompt.shared([prompt.candidate(text, PASSAGE_TOKENS) for text in texts])
        return _scores(means(shared, QUERY), means(shared, "N/A"), shared.spans)

    return run


def plain_run(folder: Path) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    _, prompt = _parts(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()

    def means(shared: Any, query: str) -> np.ndarray:
        ids = torch.tensor([[*shared.ids, *prompt.question(query).ids]])
        with torch.inference_mode():
            layers = model(ids, output_attentions=True).attentions
        first = len(shared.ids) - shared.rows
        return sum(layer[0, :, first:, shared.columns].mean(1).sum(0) for layer in layers).numpy()

    def run(texts: list[str]) -> np.ndarray:
        shared = prompt.shared([prompt.candidate(text, PASSAGE_TOKENS) for text in texts])
        return _scores(means(shared, QUERY), means(shared, "N/A"), shared.spans)

    return run


CONTESTANTS = {"rerankit": rerankit_run, "no reuse": no_reuse_run, "plain": plain_run}


def measure(name: str, folder: Path, count: int, rounds: int) -> None:
    """In a process of its own: one JSON line."""
    run = CONTESTANTS[name](folder)
    run(passages(3, 99))
    loaded = peak()
    seconds = []
    for number in range(rounds):
        texts = passages(count, number)
        started = time.process_time()
        scores = run(texts)
        seconds.append(time.process_time() - started)
    print(json.dumps({"seconds": statistics.median(seconds), "bytes": peak() - loaded, "scores": scores.tolist()}))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain_bytes(count: int) -> float:
    """Four layers of 8 heads, and about as much again while the last one is made."""
    return 4 * 8 * (count * (PASSAGE_TOKENS + 5)) ** 2 * 4 * 1.5


def on_cpu(counts: tuple[int, ...], rounds: int) -> None:
    found: dict[tuple[str, int], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder) / "llama-3-tiny")
        for count in counts:
            for name in CONTESTANTS:
                if name == "plain" and plain_bytes(count) > psutil.virtual_memory().available:
                    print(f"{count:4} passages  {name:9} left out: about {plain_bytes(count) / 1e9:.0f} GB are needed")
                    continue
                command = [sys.executable, __file__, "--one", name, str(model), str(count), str(rounds)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name, count] = json.loads(done.stdout.splitlines()[-1])
                print(row(name, count, found), flush=True)
    memory = [found["rerankit", count]["bytes"] for count in counts]
    growth = ", ".join(f"{size / 1e6 / count:.2f}" for size, count in zip(memory, counts, strict=True))
    print(f"memory of rerankit in MB per passage, at {', '.join(map(str, counts))}: {growth}")


def row(name: str, count: int, found: dict[tuple[str, int], dict[str, Any]]) -> str:
    own, ours = found[name, count], found["rerankit", count]
    text = f"{count:4} passages  {name:9} {own['seconds']:8.2f} s {own['bytes'] / 1e6:8.0f} MB"
    if name == "rerankit":
        return text
    ratio = own["seconds"] / ours["seconds"]
    bar = BAR_PLAIN if name == "plain" else BAR_REUSE
    difference = np.abs(np.array(own["scores"]) - ours["scores"]).max()
    return f"{text}   {ratio:5.2f} times ours (bar {bar:g}); largest difference of a score {difference:.1e}"


def on_gpu(counts: tuple[int, ...], rounds: int, shapes: dict[str, Any], device: str) -> None:
    import torch
    import transformers

    half = torch.bfloat16 if device.startswith("cuda") else torch.float32
    rate = product_rate(device, half)
    print(f"{device}: one large product runs at {rate / 1e12:.1f} TFLOP/s")
    for name, (kind, shape) in shapes.items():
        config = getattr(transformers, f"{kind}Config")(vocab_size=32_000, max_position_embeddings=32_768, **shape)
        with torch.device(device):
            model_class = getattr(transformers, f"{kind}ForCausalLM")
            model = model_class._from_config(config, dtype=half, attn_implementation="sdpa").eval()
        for count in counts:
            seconds, memory = read_once(model, count, rounds)
            share = floor_flop(config, count) / rate / seconds
            print(f"{name:13} {count:4} passages {seconds * 1000:9.1f} ms {memory / 1e9:6.2f} GB above the weights, "
                  f"{share:.0%} of the floor's rate", flush=True)  # fmt: skip
        del model


def heads_of(config: Any) -> list[tuple[int, int]]:
    """16 heads, spread over four middle layers."""
    start = round(config.num_hidden_layers * 10 / 28)
    return [(start + i % 4, (i * 5) % config.num_attention_heads) for i in range(16)]


def read_once(model: Any, count: int, rounds: int) -> tuple[float, int]:
    """Median seconds for one list and query, and peak bytes above the weights."""
    import threading
    from types import SimpleNamespace

    import torch

    from rerankit.models.attention import AttentionReader, Tail

    reader = AttentionReader(SimpleNamespace(model=model, lock=threading.RLock()), heads_of(model.config))
    random = np.random.default_rng(0)
    ids = random.integers(10, 30_000, count * (PASSAGE_TOKENS + 5) + 40).tolist()
    cuda = model.device.type == "cuda"
    seconds, before = [], torch.cuda.memory_allocated() if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for number in range(rounds + 1):
        started = time.perf_counter()
        prefix = reader.read_prefix(ids, slice(20, len(ids) - 20), rows=20)
        reader.read_tails(prefix, [Tail(ids[:24]), Tail(ids[:12])])  # its result is on the CPU: the device is done
        if number:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() - before if cuda else 0


def floor_flop(config: Any, count: int) -> float:
    """Multiplications and additions of the layers below the last one read: projections, MLP, causal attention."""
    depth = max(layer for layer, _ in heads_of(config))
    tokens = count * (PASSAGE_TOKENS + 5) + 40
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    projections = config.hidden_size * dim * (2 * heads + 2 * key_heads)
    layer = 2 * tokens * (projections + 3 * config.hidden_size * config.intermediate_size)
    return depth * (layer + 2 * tokens**2 * heads * dim)


def product_rate(device: str, dtype: Any) -> float:
    """Floating point operations per second of one large matrix product."""
    import torch

    size = 8192 if device.startswith("cuda") else 1024
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--passages", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, metavar=("NAME", "MODEL", "PASSAGES", "ROUNDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, folder, count, rounds = given.one
        measure(name, Path(folder), int(count), int(rounds))
    elif given.device == "cpu":
        on_cpu(tuple(given.passages), given.rounds)
    else:
        on_gpu(tuple(given.passages), given.rounds, SHAPES, given.device)


if __name__ == "__main__":
    main()
