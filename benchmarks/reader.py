"""Does the reader find the words that answer, and does it know when there are none?

    python benchmarks/reader.py                            # the DEV sets with answers, the shipped reader
    python benchmarks/reader.py --max-queries 30           # quicker
    python benchmarks/reader.py --reader DIR --plot curve.png

Each question is asked of its relevant passages (gold) and of the first five of ``--rerank`` over the 30 best by dense
plus BM25, in a sample of the corpus that holds all relevant passages. Printed are exact match and F1 of words with the
reference answers (after SQuAD's normalising), and the share of answers that hold a reference whole:

    sentence   the best sentence without a reader (ExtractiveGenerator, one sentence)
    read       the best sentence with the reader
    span       the reader's best span

Abstention: every question once with and once without its relevant passages. Sorted by confidence, at each share of the
answerable questions answered (coverage): the share of the others that are answered too (fooled).

Sets that flatter are marked, as the files of what is measured say: "trained on"; "dev" where they chose the reader's
weights and calibrated it; "fitted on" where the coefficients of the abstention, with or without a reader, come from
them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from abstention import COEFFICIENTS, DataSet, Memory, load, made_of, marks, ranker, tuned_on
from numpy.typing import NDArray

import rerankit
from rerankit.evaluation.answers import exact_match, normalise, token_f1
from rerankit.models.span_reader import SpanReader
from rerankit.rag import support
from rerankit.rag.context import Context, pack
from rerankit.rag.reader_answer import read_calibration, with_spans
from rerankit.types import Hit, Passage

ROOT = Path(__file__).resolve().parents[1]
SETS = ("xquad_en", "hotpotqa_100", "hotpotqa_130", "covid_qa", "expertqa_130", "agask_dev")
WAYS = ("sentence", "read", "span")
COVERAGES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Said:
    """What each way says, and how sure the two abstainers are."""

    texts: dict[str, str]
    confidence: dict[str, float]


def ask(question: str, context: Context, memory: Memory) -> Said:
    found = support.statements(question, context, memory)
    if not found:
        return Said(dict.fromkeys(WAYS, ""), dict.fromkeys(("sentence", "read"), 0.0))
    read = with_spans(question, found, memory)
    blocks = [Passage(block.hit.id, block.text, block.passage.title) for block in context.blocks]
    spans = [span for reading in memory.read(question, blocks, keep=8) for span in reading.spans]
    span = max(spans, key=lambda one: one.score).text if spans else ""
    plain, full = support.Calibration.bundled(), read_calibration()
    confidence = {"sentence": plain.probability(found[0].features), "read": full.probability(read[0].features)}
    return Said({"sentence": found[0].text, "read": read[0].text, "span": span}, confidence)


def contexts(data: DataSet, memory: Memory, spec: str) -> Callable[[str, set[str]], Context]:
    """The first five of a reranker, without hidden passages."""
    first, reranker = ranker(data.passages, memory), rerankit.load(spec)

    def context(question: str, hidden: set[str]) -> Context:
        candidates = [hit.passage for hit in first(question, hidden, 30)]
        return pack(reranker.rank(question, candidates).hits, limit=5)

    return context


def quality(rows: Sequence[tuple[Said, Sequence[str]]], way: str) -> tuple[float, float, float]:
    texts = [(said.texts[way], answers) for said, answers in rows]
    whole = [any(f" {normalise(a)} " in f" {normalise(text)} " for a in answers) for text, answers in texts]
    return fmean(exact_match(*row) for row in texts), fmean(token_f1(*row) for row in texts), fmean(whole)


def gold(data: DataSet, relevant: set[str]) -> Context:
    found = [passage for passage in data.passages if passage.id in relevant]
    return pack([Hit(passage, n, None, n) for n, passage in enumerate(found, 1)], limit=10)


def curve(answerable: NDArray[np.float64], others: NDArray[np.float64]) -> list[float]:
    """Share of the others at or above the confidence that answers each share of the answerable."""
    return [float((others >= np.quantile(answerable, 1 - coverage)).mean()) for coverage in COVERAGES]


def plot(curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], target: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.5))
    for name, (answerable, others) in curves.items():
        floors = np.unique(np.concatenate([answerable, others, [0.0, 1.1]]))
        axes.plot([(answerable >= f).mean() for f in floors], [(others >= f).mean() for f in floors], label=name)
    axes.set(xlabel="answerable questions answered", ylabel="unanswerable questions answered", title="Abstention")
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", metavar="DIR", help="default the shipped one")
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--max-queries", type=int, default=100, help="per set")
    parser.add_argument("--passages", type=int, default=300, help="per set, about")
    parser.add_argument("--rerank", default="default", metavar="SPEC")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the abstention curve")
    args = parser.parse_args()
    memory = Memory(SpanReader(args.reader))
    sure: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in ("sentence", "read")}
    seconds: list[float] = []
    tuned = [made_of(args.reader), *(tuned_on("fitted on", file) for file in COEFFICIENTS.values())]
    flatters = {name: mark for name in args.sets if (mark := marks(name, *tuned))}
    print("set            passages  way         exact     F1   holds")
    for name in args.sets:
        data = load(args.data / name, args.max_queries, args.passages)
        context = contexts(data, memory, args.rerank)
        rows: dict[str, list[tuple[Said, Sequence[str]]]] = {"gold": [], "top 5": []}
        for question in data.questions:
            rows["gold"].append((ask(question.text, gold(data, question.relevant), memory), question.answers))
            top, without = (context(question.text, hidden) for hidden in (set(), question.relevant))
            started = time.perf_counter()
            said = ask(question.text, top, memory)
            seconds.append(time.perf_counter() - started)
            rows["top 5"].append((said, question.answers))
            lost = ask(question.text, without, memory)
            for way, (right, wrong) in sure.items():
                right.append(said.confidence[way])
                wrong.append(lost.confidence[way])
        for passages, found in rows.items():
            for way in WAYS:
                exact, f1, whole = quality(found, way)
                print(
                    f"{name:14} {passages:8}  {way:8}  {exact:7.3f} {f1:6.3f} {whole:7.3f}  {flatters.get(name, '')}",
                    flush=True,
                )
    print(f"\nSeconds per question for both, five passages: median {np.median(seconds):.2f}")
    print(f"\nAbstention, all sets, of which {len(flatters)} are marked: share of the unanswerable answered")
    print("coverage  " + "  ".join(sure))
    curves = {way: (np.array(right), np.array(wrong)) for way, (right, wrong) in sure.items()}
    columns = [curve(*pair) for pair in curves.values()]
    for i, coverage in enumerate(COVERAGES):
        print(
            f"{coverage:8.2f}  "
            + "  ".join(f"{column[i]:{len(w)}.3f}" for w, column in zip(sure, columns, strict=True))
        )
    if args.plot:
        plot(curves, args.plot)


if __name__ == "__main__":
    main()
