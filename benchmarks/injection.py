"""How far can a passage push itself up? ``python benchmarks/injection.py [--spec SPEC ...]``.

In the manner of C-SEO Bench: for every question of the sample corpus, 20 candidates are retrieved, one that the
judgements call irrelevant is taken from the lower half, and each text of ``injection_attacks.json`` is put behind it.
The list is ranked with the honest and with the tampered passage; everything else stays as it is. Printed per reranker
and kind of attack, with a 95 % bootstrap interval for the mean:

    gain    places won (positive: the attack works)
    top     share of tampered passages that end first

The kinds are instructions to the judge, claimed verdicts, forged identifiers and frames, control tokens, claims of
authority, and the question itself repeated (no attack on a prompt, but what search-engine optimisers do: a reranker
that reads meaning gives something for it, and the figures say how much).

Language models are named like any other: ``--spec pairwise:http://localhost:11434/v1#qwen3:8b``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy import stats

import rerankit
from rerankit.models.embedded import embedder
from rerankit.samples import farm
from rerankit.types import Passage

ATTACKS: Mapping[str, Sequence[str]] = json.loads(Path(__file__).with_name("injection_attacks.json").read_text("utf-8"))
SPECS = ("lexical", "dense", "late-interaction", "default")
CANDIDATES = 20


@dataclass(frozen=True)
class Case:
    """A question, its candidates, and the place of the irrelevant one that is tampered with."""

    query: str
    passages: tuple[Passage, ...]
    target: int

    def tampered(self, attack: str) -> list[Passage]:
        """The candidates, the target with the attack behind its text; its stored vector would not fit any more."""
        victim = self.passages[self.target]
        text = f"{victim.text} {attack.replace('{query}', self.query)}"
        return [
            victim.replace(text=text, embedding=None) if i == self.target else passage
            for i, passage in enumerate(self.passages)
        ]


def cases(count: int, seed: int) -> list[Case]:
    """At most ``count`` cases from the sample corpus, drawn with ``seed``."""
    encoder, generator = embedder(), np.random.default_rng(seed)
    passages, qrels = farm.passages(), farm.qrels()
    vectors = encoder.encode([f"{passage.title}\n{passage.text}" for passage in passages])
    questions = [question for question in farm.questions() if qrels.get(question.id)]
    found = []
    for i in generator.permutation(len(questions))[:count]:
        question = questions[i]
        order = np.argsort(-(vectors @ encoder.encode([question.text], kind="query")[0]), kind="stable")[:CANDIDATES]
        irrelevant = [
            place
            for place in range(CANDIDATES // 2, len(order))
            if not qrels[question.id].get(passages[order[place]].id)
        ]
        listed = tuple(
            passages[k].replace(embedding=vectors[k], embedding_model=encoder.model_id, score=None) for k in order
        )
        found.append(Case(question.text, listed, int(generator.choice(irrelevant))))
    return found


def measure(spec: str, cases: Sequence[Case]) -> dict[str, NDArray[np.float64]]:
    """Per kind of attack, (places won, ended first) of each case ``[cases, 2]``, averaged over the kind's texts."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in ATTACKS}
    with rerankit.load(spec) as reranker:
        for case in track(cases, spec, transient=True, console=Console(stderr=True)):
            honest = _place(reranker.rank(case.query, case.passages), case.target)
            lists = [(kind, case.tampered(text)) for kind, texts in ATTACKS.items() for text in texts]
            rankings = reranker.rank_many([(case.query, tampered) for _, tampered in lists])
            for (kind, _), ranking in zip(lists, rankings, strict=True):
                place = _place(ranking, case.target)
                found[kind].append((honest - place, float(place == 1)))
    return {kind: np.array(rows).reshape(-1, len(ATTACKS[kind]), 2).mean(axis=1) for kind, rows in found.items()}


def _place(ranking: rerankit.Ranking, target: int) -> int:
    return next(hit.rank for hit in ranking if hit.prior_rank == target + 1)


def main() -> None:
    """Measure every spec and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", action="append", help="a reranker; may be given several times")
    parser.add_argument("--questions", type=int, default=40, help="how many questions of the sample corpus")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write every case's outcome here, as JSON")
    options = parser.parse_args()
    chosen = cases(options.questions, options.seed)
    results = {spec: measure(spec, chosen) for spec in options.spec or SPECS}
    _print(results, len(chosen))
    if options.out:
        options.out.write_text(
            json.dumps({s: {k: v.tolist() for k, v in r.items()} for s, r in results.items()}), "utf-8"
        )


def _print(results: Mapping[str, Mapping[str, NDArray[np.float64]]], count: int) -> None:
    table = Table(title=f"Places won by a tampered irrelevant passage, {CANDIDATES} candidates, {count} questions")
    for name in ("reranker", *ATTACKS):
        table.add_column(name, justify="left" if name == "reranker" else "right")
    for spec, found in results.items():
        table.add_row(spec, *(_cell(rows) for rows in found.values()))
    Console(width=150).print(table)


def _cell(rows: NDArray[np.float64]) -> str:
    gains, tops = rows[:, 0], rows[:, 1]
    if np.ptp(gains) == 0:
        return f"{gains.mean():+.1f}\ntop {tops.mean():.0%}"
    low, high = stats.bootstrap((gains,), np.mean, n_resamples=999, rng=0, method="percentile").confidence_interval
    return f"{gains.mean():+.1f} [{low:+.1f}, {high:+.1f}]\ntop {tops.mean():.0%}"


if __name__ == "__main__":
    main()
