"""Index precomputed vectors into Chroma and query them: how long retrieval takes beside the models' own time.

    python benchmarks/chroma.py --passages 100000

Vectors are synthetic (unit length, 384 dimensions, in clusters) and seeded; the embedder only looks them up, so every
figure is the store's and rerankit's own. Bar: a query's median below 50 ms at 100,000 passages.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from rerankit import ChromaRetriever, Passage

DIM = 384
CLUSTERS = 500
BAR_MS = 50.0


class Lookup:
    """An embedder that takes no time: a query is the number of its vector."""

    model_id, dim = "lookup@1", DIM

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def encode(self, texts: Sequence[str], *, kind: str = "passage") -> np.ndarray:
        """Rows by number."""
        return np.stack([self.vectors[int(text.split()[0])] for text in texts])


def clustered(count: int, generator: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    points = centres[generator.integers(len(centres), size=count)]
    points = points + generator.normal(scale=0.8 / np.sqrt(DIM), size=points.shape)
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def make_passages(vectors: np.ndarray, generator: np.random.Generator) -> Iterator[Passage]:
    words = np.array([f"word{n}" for n in range(20_000)])
    ranks = np.minimum(generator.zipf(1.3, size=(len(vectors), 80)), len(words)) - 1
    for number, vector in enumerate(vectors):
        text = " ".join(words[ranks[number]])
        yield Passage(f"p{number}", text, metadata={"source": f"s{number % 10}", "n": number}, embedding=vector)


def report(name: str, call: Callable[[str], object], queries: Sequence[str]) -> float:
    """Print and return the median milliseconds of a call."""
    call(queries[0])
    times = []
    for query in queries:
        started = time.perf_counter()
        call(query)
        times.append((time.perf_counter() - started) * 1e3)
    median = float(np.median(times))
    print(f"{name:<34} p50 {median:7.1f} ms   p95 {np.percentile(times, 95):7.1f} ms")
    return median


def recall(retriever: ChromaRetriever, vectors: np.ndarray, queries: np.ndarray, k: int) -> float:
    """Share of the exact nearest passages that Chroma's index finds."""
    found = retriever.retrieve_many([str(n) for n in range(len(queries))], k=k)
    exact = np.argpartition(-(queries @ vectors.T), k, axis=1)[:, :k]
    hits = [len({int(p.id[1:]) for p in row} & set(best)) for row, best in zip(found, exact.tolist(), strict=True)]
    return float(np.mean(hits)) / k


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLUSTERS, DIM))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors, queries = (clustered(count, generator, centres) for count in (options.passages, options.queries))
    texts = [f"{n} word{n + 5} word{n * 7 % 9000} word3" for n in range(len(queries))]
    with tempfile.TemporaryDirectory() as folder, ChromaRetriever(folder, embedder=Lookup(queries)) as retriever:
        done = retriever.index(make_passages(vectors, np.random.default_rng(1)), batch=5000)
        print(
            f"index {done.added:,} passages             {done.seconds:9.1f} s   {done.added / done.seconds:,.0f} per s"
        )
        again = retriever.index(make_passages(vectors, np.random.default_rng(1)), batch=5000)
        print(f"index again, {again.unchanged:,} unchanged  {again.seconds:9.1f} s")
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(f"on disk                            {size / 2**20:9.0f} MiB")
        bar = report("retrieve 50, with vectors", retriever.retrieve, texts)
        report("retrieve 50 where source = s3", lambda q: retriever.retrieve(q, where={"source": "s3"}), texts)
        started = time.perf_counter()
        retriever.retrieve_many(texts)
        print(f"retrieve_many, per query               {(time.perf_counter() - started) * 1e3 / len(texts):7.1f} ms")
        print(f"recall@50 against exact search         {recall(retriever, vectors, queries, 50):7.3f}")
        retriever.hybrid = True
        started = time.perf_counter()
        retriever.retrieve(texts[0])
        print(f"first hybrid query (builds BM25)   {time.perf_counter() - started:9.1f} s")
        report("hybrid retrieve 50", retriever.retrieve, texts)
    print(f"peak memory                        {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:9.0f} MiB")
    print(f"bar: p50 below {BAR_MS:.0f} ms: {'met' if bar < BAR_MS else 'MISSED'}")


if __name__ == "__main__":
    main()
