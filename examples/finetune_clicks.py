"""Fine-tune a reranker on clicks. Needs rerankit[embedded,eval,train].

The users are made up: they read from the top, less and less far, and click what answers their question. With your own
clicks it is one command:

    rerankit train compressed --data clicks.jsonl --corpus corpus.jsonl --teacher none --words --out model
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

import rerankit
from rerankit.samples import farm
from rerankit.training.compressed import CompressedOptions
from rerankit.training.compressed_run import CompressedRun, train_compressed
from rerankit.training.lists import read_lists
from rerankit.training.task import Settings

SHOWN, VISITS = 10, 4
passages, qrels, chance = farm.passages(), farm.qrels(), np.random.default_rng(0)
questions = [question for question in farm.questions() if question.answerable]
known, unseen = questions[::2], questions[1::2]


def good(ranking: rerankit.Ranking, question: str) -> list[int]:
    """Ranks of the passages that answer."""
    return [hit.rank for hit in ranking if qrels[question].get(hit.id, 0) > 1]


def first_place(reranker: rerankit.Reranker) -> float:
    """How many questions nobody has clicked on yet have an answer in the first place."""
    hits = [1 in good(reranker.rank(question.text, passages), question.id) for question in unseen]
    return sum(hits) / len(hits)


with tempfile.TemporaryDirectory() as place:
    folder = Path(place)
    before = rerankit.load("dense")
    with (folder / "clicks.jsonl").open("w") as clicks:
        for question in known:
            shown = before.rank(question.text, passages, top_k=SHOWN)
            for _ in range(VISITS):
                clicked = [shown[rank - 1].id for rank in good(shown, question.id) if chance.random() < 1 / rank**0.5]
                record = {"query": question.text, "shown": [hit.id for hit in shown], "clicked": clicked}
                clicks.write(json.dumps(record) + "\n")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": p.id, "title": p.title, "text": p.text}) + "\n" for p in passages))

    lists = read_lists(folder / "clicks.jsonl", corpus=corpus)
    print(f"{len(known) * VISITS} visits, {len(lists)} lists to train on")
    run = CompressedRun(
        [str(folder / "clicks.jsonl")], corpus=corpus, teacher="none", stages=["one"],
        shape={"width": 64, "layers": 1, "heads": 4, "words": True},
        options=CompressedOptions(max_passages=10, min_passages=5), vectors=folder / "vectors.sqlite",
    )  # fmt: skip
    train_compressed(run, Settings(epochs=8, learning_rate=2e-3, device="cpu"), folder / "model")
    with rerankit.load(f"compressed:{folder / 'model'}") as after:
        for name, reranker in {"before": before, "after": after}.items():
            print(f"{name}: {first_place(reranker):.0%} of {len(unseen)} other questions have the answer first")
            for hit in reranker.rank(unseen[0].text, passages, top_k=3):
                print(f"  {hit.rank} {hit.passage.title}")
