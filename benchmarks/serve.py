"""What micro-batching gives `rerankit serve`: 64 callers at once against one request at a time.

    python benchmarks/serve.py                        # the main workload for 60 s, the others for 10 s each
    python benchmarks/serve.py --seconds 10 --only cross-encoder-4

Server and callers share two cores (OMP_NUM_THREADS=2). The callers send as fast as they get answers, over connections
that stay open; requests are drawn from a fixed set. Each workload runs in rounds: one request at a time inside this
process ("engine", no HTTP), one caller over HTTP ("alone"), 64 callers, and the first two again, so that other load on
the machine hits all alike. Every reply is compared with the offline ranking of the same request: the same order, but
for scores that lie within 1e-4 of each other, and each score within 1e-4.

"cpu" is the server's processor time per request, ms, with one caller and with 64: what batching saves. The rest of
its gain is that one small request keeps one core busy, and a batch both.

The bar: 64 callers get at least twice the throughput of one request at a time through the same engine. The last phase
floods a server whose queue holds 4 requests: every answer is right or a 429 with Retry-After, and afterwards a single
request is answered as before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
import psutil
from encoder_model import save_cross_encoder

import rerankit
from rerankit.models.embedded import model_folder
from rerankit.rag.sentences import sentences
from rerankit.rerankers.base import Reranker
from rerankit.samples import farm
from rerankit.server.scores import relevance

CALLERS = 64
BAR = 2.0
TOLERANCE = 1e-4
DISTINCT = 512
BASELINE_S = 5.0


@dataclass(frozen=True)
class Workload:
    """A reranker and the shape of its requests."""

    name: str
    spec: str
    passages: int
    whole: bool  # whole passages of the sample corpus, or single sentences


@dataclass(frozen=True)
class Request:
    """One request, its bytes, and what the answer must be."""

    query: str
    texts: list[str]
    wire: bytes
    expected: dict[int, float]


@dataclass
class Outcome:
    """What the callers saw."""

    seconds: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    elapsed: float = 0.0

    @property
    def rate(self) -> float:
        """Right answers per second."""
        return self.statuses.get(200, 0) / self.elapsed

    def quantile(self, q: float) -> float:
        """Milliseconds."""
        return float(np.quantile(self.seconds, q)) * 1000 if self.seconds else float("nan")


def workloads(cross_encoder: Path) -> list[Workload]:
    ce = f"cross-encoder:{cross_encoder}[dtype=float32]"  # exact, whatever else is in the batch
    return [
        Workload("cross-encoder-4", ce, 4, whole=False),
        Workload("cross-encoder-20", ce, 20, whole=False),
        Workload("cross-encoder-long", ce, 20, whole=True),
        Workload("default-10", "default", 10, whole=True),
        Workload("lexical-10", "lexical", 10, whole=True),
    ]


def requests_of(workload: Workload, reranker: Reranker, seed: int = 0) -> list[Request]:
    rng = np.random.default_rng(seed)
    corpus = [passage.text for passage in farm.passages()]
    if not workload.whole:
        corpus = [text[start:end] for text in corpus for start, end in sentences(text) if 30 < end - start < 200]
    questions = [question.text for question in farm.questions()]
    asked = [
        (f"{rng.choice(questions)} ({number})", [str(text) for text in rng.choice(corpus, workload.passages, False)])
        for number in range(DISTINCT)
    ]
    made = []
    for start in range(0, DISTINCT, 32):
        part = asked[start : start + 32]
        for (query, texts), ranking in zip(part, reranker.rank_many(part), strict=True):
            expected = {hit.prior_rank - 1: score for hit, score in zip(ranking, relevance(ranking), strict=True)}
            made.append(Request(query, texts, wire(query, texts), expected))
    return made


def wire(query: str, texts: list[str]) -> bytes:
    body = json.dumps({"query": query, "documents": texts}).encode()
    head = "POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def fault(request: Request, body: bytes) -> str:
    """What is wrong with a reply, or nothing."""
    reply = json.loads(body)
    results = reply["results"]
    if reply["status"] != "scored":
        return f"the ranking is {reply['status']}: {reply['reason']}"
    got = {item["index"]: item["relevance_score"] for item in results}
    if got.keys() != request.expected.keys() or len(results) != len(got):
        return f"other documents came back: {sorted(got)}"
    worst = max(abs(got[i] - request.expected[i]) for i in got)
    if worst > TOLERANCE:
        return f"a score is off by {worst:.2g}"
    order = [request.expected[item["index"]] for item in results]
    drop = max((after - before for before, after in itertools.pairwise(order)), default=0.0)
    return f"the order is not the offline one (by {drop:.2g})" if drop > TOLERANCE else ""


async def caller(port: int, requests: Iterator[Request], until: float, outcome: Outcome) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        while time.perf_counter() < until:
            request = next(requests)
            started = time.perf_counter()
            writer.write(request.wire)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1]))
            outcome.seconds.append(time.perf_counter() - started)
            status = int(head[9:12])
            outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
            if status == 200 and (said := fault(request, body)):
                outcome.wrong.append(said)
            if status == 429 and b"retry-after" not in head.lower():
                outcome.wrong.append("429 without Retry-After")
            if status == 429:
                await asyncio.sleep(0.05)


async def load(port: int, requests: Sequence[Request], callers: int, seconds: float) -> Outcome:
    outcome, endless = Outcome(), itertools.cycle(requests)
    started = time.perf_counter()
    await asyncio.gather(*(caller(port, endless, started + seconds, outcome) for _ in range(callers)))
    outcome.elapsed = time.perf_counter() - started
    return outcome


async def watched(
    server: subprocess.Popen[bytes], port: int, requests: Sequence[Request], seconds: float
) -> tuple[Outcome, list[float]]:
    """64 callers, and the server's resident memory once a second, MB."""
    memory: list[float] = []

    async def watch() -> None:
        process = psutil.Process(server.pid)
        while True:
            memory.append(process.memory_info().rss / 1e6)
            await asyncio.sleep(1)

    watcher = asyncio.create_task(watch())
    outcome = await load(port, requests, CALLERS, seconds)
    watcher.cancel()
    return outcome, memory


def engine_rate(reranker: Reranker, requests: Sequence[Request], seconds: float) -> float:
    """Requests per second, one after the other, without HTTP."""
    started, done = time.perf_counter(), 0
    for request in itertools.cycle(requests):
        reranker.rank(request.query, request.texts)
        done += 1
        if time.perf_counter() - started > seconds:
            break
    return done / (time.perf_counter() - started)


@contextlib.contextmanager
def serving(spec: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    command = [sys.executable, "-m", "rerankit.cli", "serve", "--rerank", f"m={spec}", "--port", "0", *options]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stderr=log)
        try:
            yield server, port_of(server, log)
        finally:
            server.terminate()
            server.wait(60)


def port_of(server: subprocess.Popen[bytes], log: TextIO) -> int:
    """The port, once the server tells it."""
    while server.poll() is None:
        log.seek(0)
        if found := re.search(r"serving m at http://[\d.]+:(\d+)", log.read()):
            return int(found[1])
        time.sleep(0.1)
    sys.exit("the server did not start")


def measure(workload: Workload, seconds: float) -> bool:
    with rerankit.load(workload.spec) as reranker:
        requests = requests_of(workload, reranker)
        with serving(workload.spec) as (server, port):
            asyncio.run(load(port, requests, CALLERS, 3.0))  # caches filled, speeds learned
            engine, alone = [], []
            engine.append(engine_rate(reranker, requests, BASELINE_S))
            spent = [cpu_s(server)]
            alone.append(asyncio.run(load(port, requests, 1, BASELINE_S)))
            spent.append(cpu_s(server))
            many, memory = asyncio.run(watched(server, port, requests, seconds))
            spent.append(cpu_s(server))
            alone.append(asyncio.run(load(port, requests, 1, BASELINE_S)))
            engine.append(engine_rate(reranker, requests, BASELINE_S))
    rate = statistics.mean(engine)
    rate_alone = statistics.mean(outcome.rate for outcome in alone)
    cpu_alone = (spent[1] - spent[0]) * 1000 / max(1, len(alone[0].seconds))
    cpu_many = (spent[2] - spent[1]) * 1000 / max(1, len(many.seconds))
    wrong = [said for outcome in (*alone, many) for said in outcome.wrong]
    failed = sum(count for status, count in many.statuses.items() if status != 200)
    print(
        f"{workload.name:<19}{rate:>8.1f}{rate_alone:>8.1f}{many.rate:>10.1f}{many.rate / rate:>8.2f}"
        f"{many.rate / rate_alone:>8.2f}{cpu_alone:>7.0f}{cpu_many:>7.0f}"
        f"{many.quantile(0.5):>8.0f}{many.quantile(0.95):>8.0f}{failed:>8}{len(wrong):>7}"
        f"   {growth(memory)}",
        flush=True,
    )
    for said in wrong[:3]:
        print("   wrong:", said)
    return not wrong and not failed


def cpu_s(server: subprocess.Popen[bytes]) -> float:
    """Processor seconds of the server so far."""
    times = psutil.Process(server.pid).cpu_times()
    return times.user + times.system


def growth(memory: Sequence[float]) -> str:
    """Resident memory at the start, in the middle and at the end: medians of thirds of the run."""
    third = max(1, len(memory) // 3)
    parts = [statistics.median(memory[i : i + third]) for i in (0, third, max(0, len(memory) - third))]
    return " -> ".join(f"{part:.0f}" for part in parts) + " MB"


def flood(workload: Workload, seconds: float) -> bool:
    with rerankit.load(workload.spec) as reranker:
        requests = requests_of(workload, reranker)
    with serving(workload.spec, "--queue", "4") as (_, port):
        full = asyncio.run(load(port, requests, CALLERS, seconds))
        after = asyncio.run(load(port, requests, 1, 2.0))
    wrong = full.wrong + after.wrong
    print(f"\nqueue of 4, {CALLERS} callers: {full.statuses}, then one caller: {after.statuses}, wrong: {len(wrong)}")
    return not wrong and set(full.statuses) == {200, 429} and set(after.statuses) == {200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the first workload")
    parser.add_argument("--others", type=float, default=10.0, help="seconds of each other workload")
    parser.add_argument("--only", help="one workload, by name")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_cross_encoder(model_folder(), Path(folder))
        chosen = [item for item in workloads(Path(folder)) if given.only in (None, item.name)]
        print(f"requests per second, one at a time (engine alone; over HTTP) and with {CALLERS} callers; ms; errors")
        print(
            f"{'workload':<19}{'engine':>8}{'alone':>8}{'callers':>10}{'/engine':>8}{'/alone':>8}{'cpu 1':>7}"
            f"{'cpu 64':>7}{'p50':>8}{'p95':>8}"
            f"{'failed':>8}{'wrong':>7}   resident memory"
        )
        good = [measure(item, given.others if number else given.seconds) for number, item in enumerate(chosen)]
        good.append(flood(chosen[0], 5.0))
    print(f"bar: /engine at least {BAR:g} on {chosen[0].name}, no failure, nothing wrong")
    sys.exit(not all(good))


if __name__ == "__main__":
    main()
