"""nDCG@10 of the untrained rerankers on test collections: ``python benchmarks/quality.py --data DIR [--sets ...]``.

Every folder of ``--data`` with ``corpus.jsonl[.gz]``, ``queries.jsonl`` and ``qrels.tsv`` is a set. First stages
search the whole corpus: bm25, dense (the embedded model), and rrf of the two (each one's 100 best). The rerankers all
order the same candidates, the 50 best of dense, whose vectors they are given, as a store would:

    lexical           BM25 over the candidates
    late-interaction  MaxSim over the embedded model's token vectors
    in-context        attention of the query's tokens over those of the whole list, from the same token vectors
    default           dense, lexical and late interaction, z-scores added: what rerankit.load("default") does

Vectors and finished sets are kept in ``--cache``, so a run that was broken off goes on where it stopped, and a second
one takes seconds. Bar: default at least .06 above dense on average, and below it on no set by more than .01.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

import rerankit
from rerankit.evaluation.datasets import Dataset, open_dataset
from rerankit.evaluation.metrics import ranking_metrics
from rerankit.models.embedded import embedder
from rerankit.models.late_encoder import load_late_encoder
from rerankit.models.text_vectors import text_vectors
from rerankit.models.vector_cache import VectorCache
from rerankit.rag.lexical import LexicalIndex, reciprocal_rank_fusion
from rerankit.rerankers.base import Reranker
from rerankit.rerankers.compose import Fusion
from rerankit.rerankers.dense import Dense
from rerankit.rerankers.late_interaction import LateInteraction
from rerankit.rerankers.token_attention import TokenAttention
from rerankit.types import Passage

SETS = (
    "agask_dev", "birco_clinicaltrial", "cacm", "cisi", "climate_fever", "covid_qa", "covidfaq", "cranfield",
    "expertqa_130", "hotpotqa_100", "hotpotqa_130", "liveqa_med", "npl_vaswani", "stackfaq", "trec_dl19", "trecqa",
    "xquad_de", "xquad_en", "xquad_zh",
)  # fmt: skip
"""All sets that nothing is trained on, those in languages that the embedded model was not made for included."""

ARMS = ("bm25", "dense", "rrf", "lexical", "late-interaction", "in-context", "default")
METRIC = "nDCG@10"
CANDIDATES, DEPTH = 50, 100
CHUNK = 512
MEAN_BAR, WORST_BAR = 0.06, -0.01

Orders = dict[str, list[str]]


def main() -> int:
    """Run what is missing and print the table; say so if there is nothing to run on."""
    options = _options()
    folders = [options.data / name for name in options.sets if (options.data / name / "qrels.tsv").is_file()]
    if not folders:
        print(f"No test collections in {options.data}: nothing measured. Point --data at a folder of them.")
        return 0
    results = {folder.name: _result(folder, options) for folder in folders}
    _print(results)
    if options.out:
        options.out.write_text(_markdown(results), "utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of test collections")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders in it; by default the DEV sets")
    parser.add_argument("--max-queries", type=int, default=200, help="per set, spread evenly over the file")
    parser.add_argument("--cache", type=Path, default=Path(".rerankit/bench-quality"), help="vectors and results")
    parser.add_argument("--fresh", action="store_true", help="rank again; vectors are kept")
    parser.add_argument("--out", type=Path, help="write the table here, in Markdown")
    return parser.parse_args()


def _result(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """nDCG@10 by arm, from an earlier run with the same settings if there is one."""
    reranker = rerankit.load("default")
    setting = {
        "queries": options.max_queries,
        "candidates": CANDIDATES,
        "arms": list(ARMS),
        "default": reranker.fingerprint,
    }
    path = options.cache / f"{folder.name}.json"
    if path.is_file() and not options.fresh:
        known = json.loads(path.read_text("utf-8"))
        if known["setting"] == setting:
            return dict(known["result"])
    started = time.monotonic()
    cache = VectorCache(options.cache / f"{folder.name}.sqlite", disk_bytes=2**36)
    result = measure(_judged(open_dataset(folder), options.max_queries), reranker, cache)
    cache.close()
    path.write_text(json.dumps({"setting": setting, "result": result}), "utf-8")
    scores = "  ".join(f"{arm} {result[arm]:.4f}" for arm in ARMS)
    print(f"{folder.name}: {scores}  ({time.monotonic() - started:.0f} s)", flush=True)
    return result


def _judged(dataset: Dataset, count: int) -> Dataset:
    """Questions with at least one relevant passage, at most ``count`` of them."""
    relevant = {name for name, grades in dataset.qrels.items() if max(grades.values()) > 0}
    kept = {name: question for name, question in dataset.questions.items() if name in relevant}
    qrels = {name: grades for name, grades in dataset.qrels.items() if name in relevant}
    return Dataset(dataset.name, kept, qrels, dataset.read_corpus).sample(count)


def measure(dataset: Dataset, default: Reranker, cache: VectorCache) -> dict[str, float]:
    """nDCG@10 of every arm on one set."""
    _use_cache(default, cache)
    passages = _with_vectors(list(dataset.passages()), cache, dataset.name)
    queries = {name: question.text for name, question in dataset.questions.items()}
    first, candidates = _first_stages(passages, queries)
    arms: dict[str, Reranker] = {"lexical": rerankit.load("lexical"), "default": default}
    arms["late-interaction"] = LateInteraction(vectors=cache)
    arms["in-context"] = TokenAttention(vectors=cache)
    orders = first | {arm: {} for arm in arms}
    for name in track(queries, f"{dataset.name}: ranking", transient=True, console=Console(stderr=True)):
        for arm, reranker in arms.items():
            orders[arm][name] = [hit.id for hit in reranker.rank(queries[name], candidates[name])]
    scored = {arm: ranking_metrics(orders[arm], dataset.qrels, [METRIC])[METRIC] for arm in ARMS}
    return {arm: float(np.mean(list(values.values()))) for arm, values in scored.items()}


def _use_cache(reranker: Reranker, cache: VectorCache) -> None:
    """Let the members of the default reranker read the vectors on disk."""
    for member in reranker.members if isinstance(reranker, Fusion) else ():
        if isinstance(member, LateInteraction):
            member.encoder.cache = cache
        if isinstance(member, Dense):
            member.vectors = cache


def _with_vectors(passages: Sequence[Passage], cache: VectorCache, name: str) -> list[Passage]:
    """The corpus as a store keeps it: one vector per passage. Token vectors are made in the same pass and cached."""
    encoder, late = embedder(), load_late_encoder(None, cache, "float16", {})
    done = []
    starts = range(0, len(passages), CHUNK)
    for start in track(starts, f"{name}: encoding", transient=True, console=Console(stderr=True)):
        part = passages[start : start + CHUNK]
        texts = [f"{passage.title}\n{passage.text}" if passage.title else passage.text for passage in part]
        whole = [text for text, count in zip(texts, encoder.count_tokens(texts), strict=True) if count <= late.room()]
        late.passages(whole)
        vectors = text_vectors(encoder, texts, cache)
        done += [
            passage.replace(embedding=vector, embedding_model=encoder.model_id)
            for passage, vector in zip(part, vectors, strict=True)
        ]
    return done


def _first_stages(
    passages: Sequence[Passage], queries: Mapping[str, str]
) -> tuple[dict[str, Orders], dict[str, list[Passage]]]:
    """The orders of bm25, dense and rrf over the whole corpus, and the candidates for the rerankers."""
    ids = [passage.id for passage in passages]
    index = LexicalIndex(ids, [f"{passage.title}\n{passage.text}" for passage in passages])
    matrix = np.stack([passage.embedding for passage in passages if passage.embedding is not None])
    orders: dict[str, Orders] = {"bm25": {}, "dense": {}, "rrf": {}}
    candidates = {}
    for name, query, nearest in _nearest(matrix, queries):
        dense = [ids[i] for i in nearest]
        lexical = index.search(query, DEPTH)
        orders["bm25"][name], orders["dense"][name] = lexical, dense
        orders["rrf"][name] = [key for key, _ in reciprocal_rank_fusion([dense, lexical])]
        candidates[name] = [passages[i] for i in nearest[:CANDIDATES]]
    return orders, candidates


def _nearest(matrix: NDArray[np.floating], queries: Mapping[str, str]) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    vectors = embedder().encode(list(queries.values()), kind="query")
    for (name, query), vector in zip(queries.items(), vectors, strict=True):
        yield name, query, np.argsort(-(matrix @ vector), kind="stable")[:DEPTH]


def _rows(results: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, list[float], float]]:
    """Per set, then for the average: name, nDCG@10 by arm, default minus dense."""
    for name, result in results.items():
        yield name, [result[arm] for arm in ARMS], result["default"] - result["dense"]
    means = np.mean([[result[arm] for arm in ARMS] for result in results.values()], axis=0).tolist()
    yield "average", means, means[ARMS.index("default")] - means[ARMS.index("dense")]


def _print(results: Mapping[str, Mapping[str, float]]) -> None:
    table = Table(title=f"{METRIC}; rerankers order dense's {CANDIDATES} best")
    for column in ("set", *ARMS, "default - dense"):
        table.add_column(column, justify="left" if column == "set" else "right")
    rows = list(_rows(results))
    for name, values, gain in rows:
        table.add_row(name, *(f"{value:.4f}" for value in values), f"{gain:+.4f}", end_section=name == rows[-2][0])
    Console(width=120 if not sys.stdout.isatty() else None).print(table)
    average, worst = rows[-1][2], min(rows[:-1], key=lambda row: row[2])
    print(f"average gain {average:+.4f} (bar {MEAN_BAR:+.2f}); worst {worst[0]} {worst[2]:+.4f} (bar {WORST_BAR:+.2f})")


def _markdown(results: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"| set | {' | '.join(ARMS)} | default - dense |", f"|---|{'--:|' * (len(ARMS) + 1)}"]
    for name, values, gain in _rows(results):
        lines.append(f"| {name} | {' | '.join(f'{value:.4f}' for value in values)} | {gain:+.4f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
