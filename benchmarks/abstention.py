"""Does the extractive answer know when it does not know?

    python benchmarks/abstention.py                         # the sample corpus, and DEV sets where they are present
    python benchmarks/abstention.py --fit nq_gold squad_dev # fit on TRAIN sets, write rerankit/rag/abstention.json
    python benchmarks/abstention.py --reader                # the same with the shipped reader; --reader DIR for another
    python benchmarks/abstention.py --reader --fit covid_qa agask_dev xquad_en  # writes abstention_reader.json

Each question of a data set is asked twice: of the whole corpus, and of the corpus without its relevant passages, which
leaves the next best passages of the same subject (in agask_dev some of those answer too: it was not judged in full, so
read its "fooled" as an upper bound). The sample corpus has unanswerable questions of its own as well.
Retrieval is dense plus BM25, z-scores added, top 5. Printed for each floor of the confidence:

    answered   share of answerable questions that are answered
    relevant   share of those whose first sentence is from a relevant passage
    fooled     share of unanswerable questions that are answered all the same

Sets that flatter are marked, as the files of what is measured say: "trained on"; "dev" where they chose the reader's
weights and calibrated it; "fitted on" where the coefficients come from them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rerankit.models.embedded import embedder
from rerankit.models.encoder import TokenStates
from rerankit.models.span_reader import Reading, SpanReader
from rerankit.rag import support
from rerankit.rag.context import pack
from rerankit.rag.reader_answer import READ_FEATURES, read_calibration, with_spans
from rerankit.rag.terms import terms
from rerankit.samples import farm
from rerankit.types import Hit, Passage

ROOT = Path(__file__).resolve().parents[1]
COEFFICIENTS = {True: ROOT / "rerankit/rag/abstention_reader.json", False: ROOT / "rerankit/rag/abstention.json"}
"""By whether there is a reader."""
FLOORS = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7)


@dataclass
class Question:
    """A question, the ids of the passages that answer it, and the answers."""

    text: str
    relevant: set[str]
    answers: tuple[str, ...] = ()


@dataclass
class DataSet:
    """A corpus and questions."""

    name: str
    passages: list[Passage]
    questions: list[Question]


@dataclass
class Outcome:
    """The best sentence for one question under one condition."""

    answerable: bool
    features: tuple[float, ...]
    relevant: bool


class Memory:
    """The embedded embedder, each text encoded once, and perhaps a reader."""

    def __init__(self, reader: SpanReader | None = None) -> None:
        self.reader: Any = reader
        self.readings: dict[tuple[str, str], Reading] = {}
        self.encoder = embedder()
        self.model_id, self.windows = self.encoder.model_id, self.encoder.windows
        self.known: dict[str, tuple[TokenStates, NDArray[np.float32]]] = {}

    def token_states(self, texts: Sequence[str], *, kind: str = "passage", meter: object = None) -> list[TokenStates]:
        """As the embedder's, which do not depend on ``kind``."""
        return [states for states, _ in self._both(texts)]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector per text."""
        return np.stack([vector for _, vector in self._both(texts)])

    def read(
        self, question: str, passages: Sequence[str | Passage], *, keep: int = 5, meter: object = None
    ) -> list[Reading]:
        """As the reader's, each passage read once per question."""
        asked = {(question, str(passage)): passage for passage in passages}
        if new := [key for key in asked if key not in self.readings]:
            found = self.reader.read(question, [asked[key] for key in new], keep=keep)
            self.readings.update(zip(new, found, strict=True))
        return [self.readings[question, str(passage)] for passage in passages]

    def _both(self, texts: Sequence[str]) -> list[tuple[TokenStates, NDArray[np.float32]]]:
        if new := [text for text in dict.fromkeys(texts) if text not in self.known]:
            self.known.update(zip(new, zip(*self.encoder.states_and_vectors(new), strict=True), strict=True))
        return [self.known[text] for text in texts]


def sample_corpus() -> tuple[DataSet, list[str]]:
    relevant = {q: {p for p, grade in row.items() if grade > 0} for q, row in farm.qrels().items()}
    questions = farm.questions()
    asked = [Question(q.text, relevant[q.id]) for q in questions if q.answerable]
    return DataSet("farm", farm.passages(), asked), [q.text for q in questions if not q.answerable]


def load(folder: Path, questions: int, passages: int) -> DataSet:
    """A sample: some questions, all their relevant passages, and others up to ``passages``."""
    rng = np.random.default_rng(0)
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text("utf-8").splitlines()]
    rows = [row for row in rows if row.get("answers")]
    rows = [rows[i] for i in sorted(rng.choice(len(rows), min(questions, len(rows)), replace=False))]
    relevant: dict[str, set[str]] = {}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, passage, grade = line.split("\t")
        if int(grade) > 0:
            relevant.setdefault(query, set()).add(passage)
    needed = set().union(*(relevant.get(row["id"], set()) for row in rows))
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        corpus = [Passage(p["id"], p["text"], p.get("title", "")) for p in map(json.loads, lines)]
    others = [p for p in corpus if p.id not in needed]
    rng.shuffle(others)
    asked = [Question(row["text"], relevant.get(row["id"], set()), tuple(row["answers"])) for row in rows]
    return DataSet(folder.name, [p for p in corpus if p.id in needed] + others[: max(0, passages - len(needed))], asked)


def outcomes(data: DataSet, memory: Memory) -> Iterator[Outcome]:
    rank = ranker(data.passages, memory)
    for question in data.questions:
        for hidden in (set(), question.relevant):
            best = _best(question.text, rank(question.text, hidden), memory)
            yield Outcome(not hidden, best.features, best.block.passage.id in question.relevant)


def ranker(passages: list[Passage], memory: Memory) -> Callable[..., list[Hit]]:
    """The best passages for a question, hidden ones left out, 20 unless told."""
    texts = [f"{p.title}\n{p.text}".strip() for p in passages]
    dense = memory.encode(texts)
    lexical = bm25s.BM25()
    lexical.index([terms(text) for text in texts], show_progress=False)

    def rank(query: str, hidden: set[str], count: int = 20) -> list[Hit]:
        scores = _z(dense @ memory.encode([query])[0]) + _z(lexical.get_scores(terms(query)))
        order = [i for i in np.argsort(-scores, kind="stable") if passages[i].id not in hidden][:count]
        return [Hit(passages[i], n, float(scores[i]), n) for n, i in enumerate(order, 1)]

    return rank


def tuned_on(mark: str, file: Path) -> dict[str, str]:
    """The sets that a file of coefficients says it was fitted on, each with the mark."""
    text = json.loads(file.read_text("utf-8")).get("fitted_on", "") if file.is_file() else ""
    return dict.fromkeys(re.findall(r"([\w.-]+) \(", text), mark)


def made_of(reader: str | None) -> dict[str, str]:
    """The sets that the shipped reader or another one was trained and chosen on, by its card and calibration."""
    folder = Path(reader) if reader else ROOT / "rerankit/weights/reader"
    card = (folder / "README.md").read_text("utf-8") if (folder / "README.md").is_file() else ""
    named = re.search(r"^datasets: (\[.*\])$", card, re.MULTILINE)
    trained = dict.fromkeys(json.loads(named[1]) if named else (), "trained on")
    return {**trained, **tuned_on("dev", folder / "calibration.json")}


def marks(name: str, *tuned: Mapping[str, str]) -> str:
    """What flatters a set, in words."""
    return ", ".join(dict.fromkeys(sets[name] for sets in tuned if name in sets))


def _z(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    return (scores - scores.mean()) / (scores.std() + 1e-9)


def _best(query: str, hits: list[Hit], memory: Memory) -> support.Statement:
    found = support.statements(query, pack(hits, limit=5), memory)
    return found[0] if memory.reader is None else with_spans(query, found, memory)[0]


def report(name: str, found: list[Outcome], calibration: support.Calibration) -> None:
    confidence = np.array([calibration.probability(outcome.features) for outcome in found])
    answerable = np.array([outcome.answerable for outcome in found])
    relevant = np.array([outcome.relevant for outcome in found])
    print(f"\n{name}: {answerable.sum()} answerable, {(~answerable).sum()} unanswerable questions", end="; ")
    print(f"area under the curve {roc_auc_score(answerable, confidence):.3f}")
    print("floor  answered  relevant  fooled")
    for floor in FLOORS:
        said = confidence >= floor
        right = relevant[answerable & said].mean() if (answerable & said).any() else float("nan")
        mark = " <- default" if abs(floor - calibration.floor) < 1e-9 else ""
        print(f"{floor:5.2f}  {said[answerable].mean():8.3f}  {right:8.3f}  {said[~answerable].mean():6.3f}{mark}")


def fit(found: list[Outcome], floor: float, source: str, memory: Memory, note: str) -> dict[str, object]:
    model = LogisticRegression(C=10.0, max_iter=1000)
    model.fit([outcome.features for outcome in found], [outcome.relevant for outcome in found])
    return {
        "made_by": source,
        "fitted_on": note,
        "embedder": memory.model_id,
        **({"reader": memory.reader.model_id} if memory.reader else {}),
        "features": READ_FEATURES if memory.reader else support.FEATURES,
        "weights": [round(float(weight), 3) for weight in model.coef_[0]],
        "intercept": round(float(model.intercept_[0]), 3),
        "floor": floor,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fit", nargs="+", metavar="SET", help="TRAIN sets (with --reader DEV sets) to fit on; writes the coefficients"
    )
    parser.add_argument("--floor", type=float, help="default floor to write with --fit")
    parser.add_argument("--sets", nargs="*", default=["agask_dev", "covid_qa"], help="DEV sets to show")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--questions", type=int, default=350, help="per set, at most")
    parser.add_argument("--passages", type=int, default=600, help="per set, about")
    parser.add_argument("--reader", nargs="?", const="", metavar="DIR", help="with the shipped reader, or this one")
    args = parser.parse_args()

    reader = None if args.reader is None else SpanReader(args.reader or None)
    memory = Memory(reader)
    bundled = support.Calibration.bundled if reader is None else read_calibration
    target = COEFFICIENTS[reader is not None]
    if args.fit:
        sets = [load(args.data / name, args.questions, args.passages) for name in args.fit]
        found = [outcome for data in sets for outcome in outcomes(data, memory)]
        floor = args.floor if args.floor is not None else bundled().floor
        note = ", ".join(f"{data.name} ({len(data.questions)} questions, twice)" for data in sets)
        command = "python benchmarks/abstention.py " + " ".join(sys.argv[1:])
        written = fit(found, floor, command, memory, note)
        target.write_text(json.dumps(written, indent=2) + "\n", "utf-8")
        print(json.dumps(written, indent=2))
        bundled.cache_clear()
    calibration = bundled()
    tuned = (made_of(args.reader) if reader is not None else {}), tuned_on("fitted on", target)

    data, unanswerable = sample_corpus()
    rank = ranker(data.passages, memory)
    asked = [Outcome(False, _best(q, rank(q, set()), memory).features, False) for q in unanswerable]
    found = list(outcomes(data, memory))
    report("farm (its own unanswerable questions)", [o for o in found if o.answerable] + asked, calibration)
    report("farm (relevant passages removed)", found, calibration)
    for name in args.sets:
        if (args.data / name).is_dir():
            data = load(args.data / name, args.questions, args.passages)
            what = "; ".join(filter(None, ["relevant passages removed", marks(name, *tuned)]))
            report(f"{name} ({what})", list(outcomes(data, memory)), calibration)


if __name__ == "__main__":
    main()
