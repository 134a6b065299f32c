"""Small data to train on: files, a test collection, and lists that hold what no ranking by words or cosines knows."""

from __future__ import annotations

import gzip
import json
import random

from tiny_models import WORDS

from rerankit.training.lists import TrainingList
from rerankit.types import Passage


def jsonl(path, *rows):
    """A file of rows, each a line of text or to be written as JSON."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def collection(folder, passages, rows):
    """A test collection of texts and rows of (question, answers, place of the relevant passage)."""
    folder.mkdir()
    with gzip.open(folder / "corpus.jsonl.gz", "wt") as file:
        file.writelines(
            json.dumps({"id": f"p{i}", "title": "", "text": text}) + "\n" for i, text in enumerate(passages)
        )
    questions = [{"id": f"q{i}", "text": q, "answers": answers} for i, (q, answers, _) in enumerate(rows)]
    jsonl(folder / "queries.jsonl", *questions)
    lines = [f"q{i}\tp{place}\t1\n" for i, (_, _, place) in enumerate(rows)]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def toy_lists(count, seed, teacher=False):
    """Whatever the query, passages about rust are right."""
    draw = random.Random(seed)
    lists = []
    for number in range(count):
        texts = sorted({" ".join(draw.choices([word for word in WORDS if word != "rust"], k=4)) for _ in range(8)})
        texts[:2] = [f"rust {text} rust" for text in texts[:2]]
        draw.shuffle(texts)
        grades = tuple(float(text.startswith("rust")) for text in texts)
        passages = tuple(Passage(f"{number}-{i}", text) for i, text in enumerate(texts))
        query = f"{number} {draw.choice(WORDS)} {draw.choice(WORDS)}"
        lists.append(TrainingList(query, passages, grades, grades if teacher else None))
    return lists
