"""nDCG@10 of rerankers on test collections: ``python benchmarks/quality.py --data DIR [--sets ...] [--arms ...]``.

Every folder of ``--data`` with ``corpus.jsonl[.gz]``, ``queries.jsonl`` and ``qrels.tsv`` is a set. All rerankers order
the same candidates, the 100 that the embedded model finds in the whole corpus, whose vectors they are given, as a store
would:

    bm25               the words of the query, over the whole corpus: other candidates
    dense              the candidates as they are found; the baseline that every other arm is compared with
    dense+bm25         z-scores of both over the candidates, added
    prf                cosine to a query moved towards its first three passages
    lexical            BM25 over the candidates
    late-interaction   MaxSim over the embedded model's token vectors
    in-context         attention of the query's tokens over those of the whole list, from the same token vectors
    default            what rerankit.load() gives: dense, lexical and late interaction, z-scores added
    compressed         the shipped model that reads one vector per passage
    cross-encoder      the shipped cross-encoder
    default+compressed and cascades, named by their specs

``--arm SPEC`` adds any other reranker. Arms whose weights are not shipped are left out, with a note. Vectors and each
arm's nDCG@10 per query are kept in ``--cache``: what was measured is not measured again, until the arm's fingerprint or
the questions change. Code is not part of a fingerprint: measure with ``--fresh`` after changing it.

Differences are paired by query; quality_table.py says how their 95 % intervals are made and what the bars are.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
from numpy.typing import NDArray
from quality_plot import write_plot
from quality_table import BASELINE, METRIC, Gains, markdown, print_bars, print_tables
from rich.console import Console
from rich.progress import track

import rerankit
from rerankit.errors import MissingExtraError, ModelError, RerankitError, SpecError
from rerankit.evaluation.datasets import Dataset, open_dataset
from rerankit.evaluation.metrics import PerQuery, ranking_metrics
from rerankit.models.embedded import embedder
from rerankit.models.late_encoder import load_late_encoder
from rerankit.models.text_vectors import encoder_fingerprint, text_key, text_vectors
from rerankit.models.vector_cache import VectorCache
from rerankit.rag.lexical import LexicalIndex
from rerankit.rerankers.base import Reranker
from rerankit.training.checkpoint import write_atomically
from rerankit.types import Passage

SETS = (
    "agask_dev", "birco_clinicaltrial", "cacm", "cisi", "climate_fever", "covid_qa", "covidfaq", "cranfield",
    "expertqa_130", "hotpotqa_100", "hotpotqa_130", "liveqa_med", "npl_vaswani", "stackfaq", "trec_dl19", "trecqa",
    "xquad_de", "xquad_en", "xquad_zh",
)  # fmt: skip
"""All sets that nothing is trained on, those in languages that the embedded model was not made for included."""

CANDIDATES = 100
PRF_PASSAGES = 3
CHUNK = 512

PLAIN = {"bm25": "bm25", BASELINE: "dense", "prf": f"prf:{PRF_PASSAGES}"}
"""Arms that are no rerankers of the library, and their fingerprints."""
RERANKERS = {
    "dense+bm25": "fusion:dense+lexical",
    "lexical": "lexical",
    "late-interaction": "late-interaction",
    "in-context": "in-context",
    "default": "default",
    "compressed": "compressed",
    "cross-encoder": "cross-encoder",
    "default+compressed": "fusion:default+compressed[weights=1/{weight:g}]",
    "compressed[:30] | default": "compressed[:30] | default",
    "default[:20] | cross-encoder": "default[:20] | cross-encoder",
}
"""Arms and their specs."""

T = TypeVar("T")
Vector: TypeAlias = NDArray[np.float32]
Ranker: TypeAlias = Callable[[str, Vector, Sequence[Passage]], list[str]]
"""From a query, its vector and its candidates, in the order they were found, to ids, best first."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What is measured.

    Attributes:
        spec: of a reranker; empty for those of ``PLAIN``.
        fingerprint: changes when anything changes that its orders depend on, code aside.
    """

    name: str
    spec: str
    fingerprint: str


def main() -> int:
    """Measure what is missing, print tables and bars; say so if there is nothing to run on."""
    options = _options()
    folders = [options.data / name for name in options.sets if (options.data / name / "qrels.tsv").is_file()]
    if not folders:
        print(f"No test collections in {options.data}: nothing measured. Point --data at a folder of them.")
        return 0
    if absent := sorted(set(options.sets) - {folder.name for folder in folders}):
        print(f"Not in {options.data}, left out: {', '.join(absent)}")
    arms = [*_named_arms(options), *_further_arms(options)]
    gains = Gains({folder.name: _result(folder, arms, options) for folder in folders})
    print_tables(gains, f"{METRIC}; rerankers order dense's {CANDIDATES} best")
    print_bars(gains, pipelines=[arm.name for arm in arms if arm.spec])
    if options.out:
        options.out.write_text(markdown(gains), "utf-8")
    if options.plot:
        write_plot(gains, options.plot)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*PLAIN, *RERANKERS]
    parser.add_argument("--data", type=Path, required=True, help="folder of test collections")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders in it; by default the DEV sets")
    parser.add_argument("--arms", nargs="*", default=names, choices=names, metavar="ARM", help="by default all")
    parser.add_argument("--arm", action="append", default=[], metavar="SPEC", help="one more reranker; repeatable")
    parser.add_argument("--fusion-weight", type=float, default=1.0, help="of compressed, that of default being 1")
    parser.add_argument("--max-queries", type=int, default=200, help="per set, spread evenly over the file")
    parser.add_argument("--cache", type=Path, default=Path(".rerankit/bench-quality"), help="vectors and results")
    parser.add_argument("--fresh", action="store_true", help="rank again; vectors are kept")
    parser.add_argument("--out", type=Path, help="write the tables here, in Markdown")
    parser.add_argument("--plot", type=Path, help="draw the gains over dense here, a PNG")
    return parser.parse_args()


def _named_arms(options: argparse.Namespace) -> list[Arm]:
    """The chosen ones of PLAIN and RERANKERS that can be had, dense in any case."""
    arms = [Arm(name, "", mark) for name, mark in PLAIN.items() if name in options.arms or name == BASELINE]
    absent = defaultdict(list)
    for name in (name for name in RERANKERS if name in options.arms):
        spec = RERANKERS[name].format(weight=options.fusion_weight)
        try:
            arms.append(Arm(name, spec, _fingerprint(spec)))
        except (MissingExtraError, ModelError, SpecError) as error:
            absent[str(error)].append(name)
    for reason, names in absent.items():
        print(f"Left out: {', '.join(names)}. {reason}")
    return arms


def _further_arms(options: argparse.Namespace) -> Iterator[Arm]:
    for spec in dict.fromkeys(options.arm):
        if spec in PLAIN or spec in RERANKERS:
            raise SystemExit(f"--arm {spec!r} is the name of an arm; choose it with --arms")
        try:
            yield Arm(spec, spec, _fingerprint(spec))
        except RerankitError as error:
            raise SystemExit(f"--arm {spec!r}: {error}") from error


def _fingerprint(spec: str) -> str:
    with rerankit.load(spec) as reranker:
        return reranker.passage_fingerprint


def _result(folder: Path, arms: Sequence[Arm], options: argparse.Namespace) -> dict[str, PerQuery]:
    """nDCG@10 of each arm on each query, from earlier runs where they measured the same."""
    dataset = _judged(open_dataset(folder), options.max_queries)
    path = options.cache / f"{folder.name}.json"
    everything = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    known = everything.setdefault(f"{dataset.digest()}:{CANDIDATES}:{encoder_fingerprint(embedder())}", {})
    missing = [arm for arm in arms if options.fresh or arm.fingerprint not in known]
    if missing:
        started = time.monotonic()
        cache = VectorCache(options.cache / f"{folder.name}.sqlite", disk_bytes=2**36)
        found = measure(dataset, missing, cache)
        cache.close()
        known |= {arm.fingerprint: found[arm.name] for arm in missing}
        write_atomically(path, json.dumps(everything).encode())
        scores = "  ".join(f"{arm.name} {np.mean(list(found[arm.name].values())):.4f}" for arm in missing)
        print(f"{folder.name}: {scores}  ({time.monotonic() - started:.0f} s)", flush=True)
    return {arm.name: known[arm.fingerprint] for arm in arms}


def _judged(dataset: Dataset, count: int) -> Dataset:
    """Questions with at least one relevant passage, at most ``count`` of them."""
    relevant = {name for name, grades in dataset.qrels.items() if max(grades.values()) > 0}
    kept = {name: question for name, question in dataset.questions.items() if name in relevant}
    qrels = {name: grades for name, grades in dataset.qrels.items() if name in relevant}
    return Dataset(dataset.name, kept, qrels, dataset.read_corpus).sample(count)


def measure(dataset: Dataset, arms: Sequence[Arm], cache: VectorCache) -> dict[str, PerQuery]:
    """nDCG@10 of every arm on every query of one set; all that read vectors share the cache."""
    passages = _with_vectors(list(dataset.passages()), cache, dataset.name)
    rankers = {arm.name: _ranker(arm, passages, cache) for arm in arms}
    orders: dict[str, dict[str, list[str]]] = {arm.name: {} for arm in arms}
    queries = {name: question.text for name, question in dataset.questions.items()}
    lists = zip(queries.items(), _candidates(list(queries.values()), passages), strict=True)
    for (name, query), (vector, found) in _tracked(lists, f"{dataset.name}: ranking", len(queries)):
        for arm, ranker in rankers.items():  # arm by arm within a query, so that its token vectors are read once
            orders[arm][name] = ranker(query, vector, found)
    return {arm: ranking_metrics(orders[arm], dataset.qrels, [METRIC])[METRIC] for arm in orders}


def _with_vectors(passages: Sequence[Passage], cache: VectorCache, name: str) -> list[Passage]:
    """The corpus as a store keeps it: one vector per passage. Token vectors are made in the same pass and cached."""
    encoder, late = embedder(), load_late_encoder(None, cache, "float16", {})
    done = []
    for start in _tracked(range(0, len(passages), CHUNK), f"{name}: encoding"):
        part = passages[start : start + CHUNK]
        texts = [f"{passage.title}\n{passage.text}" if passage.title else passage.text for passage in part]
        keys = [text_key(encoder, text) for text in texts]
        known = cache.get_many(keys)
        fresh = [text for text, key in zip(texts, keys, strict=True) if key not in known]
        counts = encoder.count_tokens(fresh)
        late.passages([text for text, count in zip(fresh, counts, strict=True) if count <= late.room()])
        vectors = text_vectors(encoder, texts, cache)
        done += [
            passage.replace(embedding=vector, embedding_model=encoder.model_id)
            for passage, vector in zip(part, vectors, strict=True)
        ]
    return done


def _candidates(queries: Sequence[str], passages: Sequence[Passage]) -> Iterator[tuple[Vector, list[Passage]]]:
    """Each query's vector, and the passages nearest to it, nearest first."""
    matrix = _embeddings(passages)
    for vector in embedder().encode(queries, kind="query"):
        yield vector, [passages[i] for i in np.argsort(-(matrix @ vector), kind="stable")[:CANDIDATES]]


def _ranker(arm: Arm, passages: Sequence[Passage], cache: VectorCache) -> Ranker:
    if arm.name == "bm25":
        ids = [passage.id for passage in passages]
        index = LexicalIndex(ids, [f"{passage.title}\n{passage.text}" for passage in passages])
        return lambda query, vector, found: index.search(query, CANDIDATES)
    if arm.name == BASELINE:
        return lambda query, vector, found: [passage.id for passage in found]
    if arm.name == "prf":
        return lambda query, vector, found: _feedback_order(vector, found)
    reranker = _loaded(arm.spec, cache)
    return lambda query, vector, found: [hit.id for hit in reranker.rank(query, found)]


def _feedback_order(query: Vector, found: Sequence[Passage]) -> list[str]:
    """Pseudo-relevance feedback on vectors, nothing trained: the query plus the mean of its first passages, cosine.

    Rocchio's formula with equal weights, one of the forms in Li et al., "Pseudo Relevance Feedback with Deep Language
    Models and Dense Retrievers: Successes and Pitfalls" (arXiv:2108.11044).

    Args:
        query: unit vector ``[dim]``.
        found: passages with unit vectors, nearest first.
    """
    vectors = _embeddings(found)
    moved = query + vectors[:PRF_PASSAGES].mean(axis=0)
    cosines = vectors @ (moved / np.linalg.norm(moved))
    return [found[i].id for i in np.argsort(-cosines, kind="stable")]


def _loaded(spec: str, cache: VectorCache) -> Reranker:
    """The reranker, with all of its parts that read vectors reading them from the cache."""
    try:
        return rerankit.load(spec, vectors=cache)
    except SpecError:  # no part of it reads vectors
        return rerankit.load(spec)


def _embeddings(passages: Sequence[Passage]) -> Vector:
    """``[n, dim]``."""
    return np.stack([passage.embedding for passage in passages if passage.embedding is not None]).astype(np.float32)


def _tracked(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    return track(items, what, total=total, transient=True, console=Console(stderr=True))


if __name__ == "__main__":
    raise SystemExit(main())
