"""How good is the assistant without a language model?

    python benchmarks/assistant.py                       # the sample corpus: answers, abstention, follow-ups, claims
    python benchmarks/assistant.py --llm http://localhost:11434/v1#qwen3:8b   # the same with a language model
    python benchmarks/assistant.py --reader              # the same, judged and quoted with the shipped reader
    python benchmarks/assistant.py --plain               # the same without the vocabulary
    python benchmarks/assistant.py --data DIR            # also the data set in DIR (corpus, queries, qrels)

Answers: means over the answerable questions (see rerankit.evaluation.answers); without an answer they are 0.
Abstention: for each floor of the judge's probability, the share of the forty unanswerable questions that are met with
silence, and the share of the answerable ones. The bars are 90 % and at most 10 %. Then the same for the held-out
questions, which are harder. The floor was chosen on the first set; how the vocabulary was made is told in
rerankit/samples/farm/README.md.
Follow-ups: dialogues whose last message, condensed, has an expected passage among the first five. To compare: the same
message without the conversation, and a standalone form written by hand.
Claims: reference answers checked against the passages that hold them, against near-misses, and with a figure changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import rerankit
from rerankit.evaluation.answers import answer_metrics
from rerankit.evaluation.datasets import Question, open_dataset
from rerankit.rag.agent import Assistant
from rerankit.rag.agent_events import Turn
from rerankit.rag.answer import Answer
from rerankit.rag.claims import FLOOR, check_claims
from rerankit.rag.context import pack
from rerankit.rag.extractive import ExtractiveGenerator
from rerankit.samples import farm
from rerankit.types import Hit, Passage

JUDGE_FLOOR = 0.05  # as in examples/farm_assistant; with a reader, probabilities are others, and its own floor holds
FLOORS = (0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
CLAIM_FLOORS = (0.4, 0.45, 0.5, 0.55, 0.6, 0.65)


Grades = Mapping[str, Mapping[str, int]]


def answers(name: str, assistant: Assistant, questions: Sequence[Question], grades: Grades) -> list[Turn]:
    turns = [assistant.ask(question.text, conversation=question.id) for question in questions]
    rows = [
        answer_metrics(_judged(turn), question, grades.get(question.id, {}))
        for turn, question in zip(turns, questions, strict=True)
        if question.answerable
    ]
    print(f"\n{name}: {len(rows)} answerable questions")
    for metric in dict.fromkeys(metric for row in rows for metric in row):
        print(f"  {metric:20} {statistics.fmean(row[metric] for row in rows if metric in row):.3f}")
    answered = [row["citation_precision"] for row in rows if row["answered"]]
    print(f"  {'precision, answered':20} {statistics.fmean(answered):.3f}")
    for kind in ("answer", "abstention", "question"):
        print(f"  turns that end in {kind}: {sum(turn.kind == kind for turn in turns)}")
    seconds = sorted(sum(turn.timings.values()) for turn in turns)
    high = seconds[int(0.95 * len(seconds))]
    print(f"  seconds per turn: median {statistics.median(seconds):.2f}, 95 % below {high:.2f}")
    return turns


def _judged(turn: Turn) -> Answer:
    """The answer; a question back is none."""
    return turn.answer if turn.kind == "answer" else dataclasses.replace(turn.answer, abstained=True)


def abstention(name: str, silent: Sequence[Turn], answerable: Sequence[Turn]) -> None:
    print(f"\nAbstention, {name}: {len(silent)} unanswerable and {len(answerable)} answerable questions")
    print(f"  as built: {_share(t.kind != 'answer' for t in silent):.3f} of the unanswerable not answered, "
          f"{_share(t.kind != 'answer' for t in answerable):.3f} of the answerable")  # fmt: skip
    print("  floor  unanswerable abstained  answerable abstained")
    for floor in FLOORS:
        shares = [_share(_confidence(turn) < floor for turn in turns) for turns in (silent, answerable)]
        print(f"  {floor:5.2f}  {shares[0]:22.3f}  {shares[1]:20.3f}")


def _asked(assistant: Assistant, questions: Iterable[farm.Question]) -> list[Turn]:
    return [assistant.ask(question.text, conversation=question.id) for question in questions]


def _reason(question: farm.Question) -> str:
    """Why a held-out question has no answer here, as its id says: another kind of thing, aspect, place or figure."""
    return question.id.split("-")[1]


def _confidence(turn: Turn) -> float:
    return turn.answer.confidence or 0.0


def _share(found: Iterable[bool]) -> float:
    values = list(found)
    return sum(values) / len(values)


def follow_ups(assistant: Assistant) -> None:
    rows = []
    for dialogue in farm.dialogues():
        for question in dialogue.turns:
            assistant.ask(question, conversation=dialogue.id)
        turn = assistant.ask(dialogue.follow_up, conversation=dialogue.id)
        alone = assistant.ask(dialogue.follow_up, conversation=f"{dialogue.id} alone")
        written = assistant.ask(dialogue.standalone, conversation=f"{dialogue.id} written")
        rows.append([_finds(t, dialogue.relevant) for t in (turn, alone, written)])
        print(f"  {'found ' if rows[-1][0] else 'missed'} {dialogue.id}: {turn.standalone}")
    total = len(rows)
    condensed, alone, written = (sum(column) for column in zip(*rows, strict=True))
    print(f"Follow-ups: {condensed} of {total} condensed, {alone} as they are, {written} as written by hand")


def _finds(turn: Turn, relevant: Sequence[str]) -> bool:
    return bool({hit.id for hit in turn.ranking[:5]} & set(relevant))


def claims(assistant: Assistant) -> None:
    passages, grades = {p.id: p for p in farm.passages()}, farm.qrels()
    cases: dict[str, list[tuple[str, list[Passage]]]] = {"supported": [], "near-miss": [], "figure changed": []}
    for question in farm.questions():
        if question.answerable:
            said = question.answer.rstrip(".") + " [1]."
            graded = grades[question.id]
            best, wrong = ([passages[i] for i, g in graded.items() if g == grade] for grade in (2, 0))
            cases["supported"].append((said, best[:1]))
            cases["near-miss"].extend((said, [passage]) for passage in wrong[:1])
            changed = re.sub(r"(?<!\[)\d+", lambda match: str(int(match[0]) * 7 + 1), said, count=1)
            if changed != said:
                cases["figure changed"].append((changed, best[:1]))
    print("\nClaims: share of reference answers that pass as supported")
    print("  floor  " + "  ".join(cases))
    found = {name: [_claim(assistant, *case) for case in rows] for name, rows in cases.items()}
    for floor in CLAIM_FLOORS:
        shares = [_share(numbers and match >= floor for match, numbers in rows) for rows in found.values()]
        columns = "  ".join(f"{share:{len(name)}.3f}" for name, share in zip(cases, shares, strict=True))
        print(f"  {floor:5.2f}  {columns}  {'<- default' if floor == FLOOR else ''}")


def _claim(assistant: Assistant, said: str, source: list[Passage]) -> tuple[float, bool]:
    """The lowest match of its sentences, and whether its numbers stand in the source."""
    context = pack([Hit(passage, n, None, n) for n, passage in enumerate(source, 1)], limit=1)
    found = [claim for claim in check_claims(said, context, assistant.judge.embedder, floor=0.0) if claim.cited]
    return min((claim.match or 0.0 for claim in found), default=0.0), all(claim.supported for claim in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rerank", default="default", metavar="SPEC")
    parser.add_argument("--llm", metavar="URL#MODEL")
    parser.add_argument("--reader", action="store_true", help="judge and quote with the shipped reader")
    parser.add_argument("--plain", action="store_true", help="without the vocabulary")
    parser.add_argument("--aspects", type=int, default=3)
    parser.add_argument("--attempts", type=int, default=2)
    parser.add_argument("--data", type=Path, metavar="DIR", help="a further data set")
    args = parser.parse_args()
    reranker = rerankit.load(args.rerank)

    def assistant(folder: str, passages: Sequence[Passage], name: str) -> Assistant:
        retriever = rerankit.ChromaRetriever(folder, collection=name)
        retriever.index(passages)
        judge = ExtractiveGenerator(
            reader=args.reader,
            vocabulary=None if args.plain else farm.vocabulary(),
            floor=None if args.reader else JUDGE_FLOOR,
        )
        options = {"llm": args.llm, "max_aspects": args.aspects, "attempts": args.attempts}
        return Assistant(retriever, reranker, judge=judge, **options)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        built = assistant(folder, farm.passages(), "farm")
        asked = [Question(q.id, q.text, (q.answer,), q.key_facts) for q in farm.questions() if q.answerable]
        turns = answers("Farm sample", built, asked, farm.qrels())
        abstention("forty and all that have an answer", _asked(built, farm.unanswerable()), turns)
        held_out = {known: [q for q in farm.held_out() if q.answerable == known] for known in (False, True)}
        silent = _asked(built, held_out[False])
        abstention("held out", silent, _asked(built, held_out[True]))
        for reason, found in itertools.groupby(
            zip(held_out[False], silent, strict=True), lambda pair: _reason(pair[0])
        ):
            ends = [turn.kind != "answer" for _, turn in found]
            print(f"  another {reason}: {sum(ends)} of {len(ends)} not answered")
        print()
        follow_ups(built)
        claims(built)
        if args.data:
            data = open_dataset(args.data)
            answers(data.name, assistant(folder, list(data.passages()), "data"), [*data.questions.values()], data.qrels)


if __name__ == "__main__":
    main()
