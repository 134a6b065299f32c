"""The farm corpus keeps its promises: sizes, judgements that resolve, facts that the passages really state."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from importlib import resources

import pytest

from rerankit.samples import farm

TOPICS = {"crops", "soils", "pests", "livestock", "water", "machinery", "seasons"}
READABLE_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

PASSAGES = {passage.id: passage for passage in farm.passages()}
QUESTIONS = {question.id: question for question in farm.questions()}
QRELS = farm.qrels()
ANSWERABLE = [question for question in QUESTIONS.values() if question.answerable]


def graded(question_id: str, grade: int) -> list[str]:
    return [passage_id for passage_id, found in QRELS[question_id].items() if found == grade]


def plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_there_is_enough_of_everything():
    assert len(PASSAGES) >= 160
    assert len(ANSWERABLE) >= 64
    assert len(QUESTIONS) - len(ANSWERABLE) >= 8


def test_ids_are_unique_and_readable():
    for ids in ([p.id for p in farm.passages()], [q.id for q in farm.questions()]):
        assert len(ids) == len(set(ids))
        assert [i for i in ids if not READABLE_ID.fullmatch(i)] == []


def test_no_text_is_there_twice():
    for texts in (
        [plain(p.text) for p in PASSAGES.values()],
        [plain(p.title) for p in PASSAGES.values()],
        [plain(q.text) for q in QUESTIONS.values()],
    ):
        assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_no_two_passages_are_one_template_with_other_words():
    """Near-misses share a subject, not sentences: no pair has more than ten runs of four words in common."""
    runs = {}
    for passage in PASSAGES.values():
        words = plain(passage.text).split()
        runs[passage.id] = set(zip(words, words[1:], words[2:], words[3:], strict=False))
    ids = list(runs)
    alike = [(a, b) for n, a in enumerate(ids) for b in ids[:n] if len(runs[a] & runs[b]) > 10]
    assert alike == []


@pytest.mark.parametrize("passage", PASSAGES.values(), ids=PASSAGES)
def test_passage_is_a_titled_leaflet_paragraph_of_60_to_130_words(passage):
    assert 60 <= len(passage.text.split()) <= 130
    assert 2 <= len(passage.title.split()) <= 12
    assert passage.text == passage.text.strip()
    assert passage.text.endswith(".")
    assert passage.metadata.keys() == {"topic", "subject", "region"}
    assert passage.metadata["topic"] in TOPICS
    assert all(passage.metadata.values())
    assert any(character.isdigit() for character in passage.text), "a leaflet gives figures"


def test_every_topic_is_covered_and_subjects_hold_near_misses():
    topics = Counter(p.metadata["topic"] for p in PASSAGES.values())
    assert topics.keys() == TOPICS
    assert min(topics.values()) >= 10
    subjects = Counter(p.metadata["subject"] for p in PASSAGES.values())
    assert len(subjects) >= 40
    assert min(subjects.values()) >= 3


def test_every_judgement_names_a_known_question_and_passage():
    assert QRELS.keys() == QUESTIONS.keys()
    for judged in QRELS.values():
        assert judged.keys() <= PASSAGES.keys()
        assert set(judged.values()) <= {0, 1, 2}


def test_qrels_file_has_the_standard_header_and_no_pair_twice():
    text = resources.files(farm).joinpath("qrels.tsv").read_text(encoding="utf-8")
    header, *rows = csv.reader(text.splitlines(), delimiter="\t")
    assert header == ["query-id", "corpus-id", "score"]
    pairs = [tuple(row[:2]) for row in rows]
    assert len(pairs) == len(set(pairs)) == sum(map(len, QRELS.values()))


@pytest.mark.parametrize("question", ANSWERABLE, ids=lambda question: question.id)
def test_answerable_question_has_an_answer_its_passages_support(question):
    best = graded(question.id, 2)
    assert best
    assert len(graded(question.id, 0)) >= 2
    assert question.text.endswith("?")
    assert question.answer.endswith(".")
    assert question.key_facts
    for fact in question.key_facts:
        assert any(fact.lower() in PASSAGES[passage_id].text.lower() for passage_id in best), fact
        assert fact.lower() in question.answer.lower(), fact


def test_unanswerable_questions_hold_nothing_but_near_misses():
    for question in QUESTIONS.values():
        if not question.answerable:
            assert (question.answer, question.key_facts) == ("", ())
            assert question.text.endswith("?")
            assert len(graded(question.id, 0)) == len(QRELS[question.id]) >= 2


def test_every_subject_is_asked_about():
    asked = {PASSAGES[p].metadata["subject"] for question in ANSWERABLE for p in graded(question.id, 2)}
    assert asked == {p.metadata["subject"] for p in PASSAGES.values()}


def test_forty_more_questions_have_no_answer_here_but_near_misses():
    rows = [json.loads(line) for line in _lines("unanswerable.jsonl")]
    assert len(rows) == 40
    assert [question.text for question in farm.unanswerable()] == [row["text"] for row in rows]
    assert not any(question.answerable for question in farm.unanswerable())
    assert not {plain(row["text"]) for row in rows} & {plain(question.text) for question in QUESTIONS.values()}
    assert len({row["id"] for row in rows} | QUESTIONS.keys()) == 40 + len(QUESTIONS)
    for row in rows:
        assert row["text"].endswith("?")
        assert row["near"]
        assert set(row["near"]) <= PASSAGES.keys()


def test_held_out_questions_are_new_and_name_passages_that_are_there():
    rows = [json.loads(line) for line in _lines("held_out.jsonl")]
    assert [question.text for question in farm.held_out()] == [row["text"] for row in rows]
    assert Counter(question.answerable for question in farm.held_out()) == {True: 80, False: 60}
    known = [plain(question.text) for question in (*QUESTIONS.values(), *farm.unanswerable(), *farm.held_out())]
    assert [text for text, count in Counter(known).items() if count > 1] == []
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["near"] and set(row["near"]) <= PASSAGES.keys() for row in rows)


def test_the_vocabulary_names_something_in_nearly_every_passage_and_contradicts_few_right_ones():
    """Where it contradicts the passage that answers, an answer is lost; it must not do so often."""
    names = farm.vocabulary()
    texts = {passage.id: f"{passage.title}\n{passage.text}" for passage in PASSAGES.values()}
    assert sum(bool(names.kinds(text)) for text in texts.values()) >= 0.95 * len(texts)
    lost = [q.id for q in ANSWERABLE if all(names.conflict(q.text, texts[i]) for i in graded(q.id, 2))]
    assert len(lost) <= 0.02 * len(ANSWERABLE)
    near = {row["text"]: row["near"][0] for row in map(json.loads, _lines("unanswerable.jsonl"))}
    assert sum(names.conflict(text, texts[passage]) is not None for text, passage in near.items()) >= 0.5 * len(near)


def test_dialogues_end_in_a_follow_up_that_passages_answer():
    dialogues = farm.dialogues()
    assert len(dialogues) >= 10
    assert len({dialogue.id for dialogue in dialogues}) == len(dialogues)
    for dialogue in dialogues:
        assert dialogue.turns
        assert all(text.endswith("?") for text in (*dialogue.turns, dialogue.follow_up, dialogue.standalone))
        assert set(dialogue.relevant) <= PASSAGES.keys()


def _lines(name: str) -> list[str]:
    return resources.files(farm).joinpath(name).read_text(encoding="utf-8").splitlines()


def test_callers_get_their_own_copies_of_immutable_values():
    farm.passages().clear()
    farm.qrels()["wheat-depth-dry"].clear()
    assert {p.id for p in farm.passages()} == PASSAGES.keys()
    assert farm.qrels() == QRELS
    with pytest.raises(dataclasses.FrozenInstanceError):
        ANSWERABLE[0].text = "changed"


def test_corpus_lines_round_trip_through_passage():
    lines = resources.files(farm).joinpath("corpus.jsonl").read_text(encoding="utf-8").splitlines()
    for line, passage in zip(lines, farm.passages(), strict=True):
        assert json.loads(line).items() <= passage.to_dict().items()


def test_readme_quotes_the_counts_that_the_command_prints():
    printed = subprocess.run(
        [sys.executable, "-m", "rerankit.samples.farm"], capture_output=True, text=True, check=True
    ).stdout
    assert f"passages\t{len(PASSAGES)}" in printed
    readme = resources.files(farm).joinpath("README.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (.+?) \| (\d+) \|$", readme, flags=re.MULTILINE))
    assert table == dict(line.strip().split("\t") for line in printed.splitlines())
