"""Training lists: every source is read, what is broken is named, what is left out is counted, splits do not leak."""

from __future__ import annotations

import json
import sqlite3
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_lists import jsonl

from rerankit.errors import InputError, StoreError
from rerankit.evaluation.feedback import FeedbackLog
from rerankit.evaluation.labels_file import LabelFile, Pool, Verdict
from rerankit.rag.feedback_prior import export_feedback
from rerankit.rag.memory import Memory
from rerankit.training.clicks import Shown, graded
from rerankit.training.lists import TrainingList, read_lists, split_lists, write_lists
from rerankit.training.lists_files import query_key
from rerankit.types import Passage

TEXTS = {name: f"What passage {name} says." for name in "abcdef"}


@pytest.fixture
def corpus(tmp_path):
    return jsonl(tmp_path / "corpus.jsonl", *({"_id": name, "text": text} for name, text in TEXTS.items()))


def graded_ids(item):
    return {passage.id: grade for passage, grade in zip(item.passages, item.grades, strict=True)}


def graded_texts(item):
    return {passage.text: grade for passage, grade in zip(item.passages, item.grades, strict=True)}


# Test collections


@pytest.fixture
def collection(tmp_path, corpus):
    jsonl(tmp_path / "queries.jsonl", {"_id": "1", "text": "first"}, {"_id": "2", "text": "second"})
    rows = [("1", "a", 4), ("1", "b", -1), ("2", "c", 0)]
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{p}\t{g}\n" for q, p, g in rows)
    )
    return tmp_path


def test_a_collection_gives_judged_passages_and_first_stage_results(collection):
    scores = {"b": 9.0, "d": 8.0, "e": 7.0, "f": 6.0}
    (collection / "run.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"1\t{p}\t{s}\n" for p, s in scores.items())
    )
    told = []
    (item,) = read_lists(collection, depth=3, tell=told.append)
    assert [passage.id for passage in item.passages] == ["b", "d", "e", "a"]  # the one that was not found comes last
    assert item.grades == (0.0, 0.0, 0.0, 3.0)  # grades are brought into 0..3
    assert item.passages[0].score == 9.0
    assert (item.query, item.source, item.teacher, item.weight) == ("first", collection.name, None, 1.0)
    assert "1 of 2 lists have no relevant passage" in told[-1]


def test_a_collection_without_first_stage_results_gives_what_was_judged(collection):
    (item,) = read_lists(collection)
    assert graded_ids(item) == {"a": 3.0, "b": 0.0}


def test_an_unknown_run_is_refused(collection):
    with pytest.raises(InputError, match="no run 'bm25'"):
        read_lists(collection, run="bm25")


def test_the_sample_collection_is_read():
    lists = read_lists("farm")
    assert all(item.relevant for item in lists)
    assert read_lists("farm", count=5, seed=1) == read_lists("farm", count=5, seed=1) != read_lists("farm", count=5)
    assert [item for item in lists if item in read_lists("farm", count=5)] == read_lists("farm", count=5)


def test_a_file_of_questions_is_a_collection(tmp_path, corpus):
    path = jsonl(tmp_path / "q.jsonl", {"id": "1", "question": "first", "relevant": {"a": 2, "b": 0}})
    assert graded_ids(read_lists(path, corpus=corpus)[0]) == {"a": 2.0, "b": 0.0}


# jsonl


def test_positives_and_negatives(tmp_path):
    path = jsonl(
        tmp_path / "pairs.jsonl",
        {"query": "q1", "positives": ["yes", "yes too"], "negatives": ["no", " ", "yes"]},
        {"question": "q2", "positive": "right", "negatives": []},
        {"query": "q3", "pos": ["right"], "neg": ["wrong"]},
    )
    first, second, third = read_lists(path)
    assert graded_texts(first) == {"yes": 1.0, "yes too": 1.0, "no": 0.0}  # neither blank nor both right and wrong
    assert graded_texts(second) == {"right": 1.0}
    assert graded_texts(third) == {"right": 1.0, "wrong": 0.0}
    ids = {passage.text: passage.id for item in (second, third) for passage in item.passages}
    assert second.relevant[0].id == ids["right"]  # one text, one id


def test_the_order_of_unranked_passages_says_nothing(tmp_path):
    rows = [{"query": f"q{n}", "positive": f"right {n}", "negatives": [f"wrong {n}"]} for n in range(200)]
    first = sum(item.grades[0] for item in read_lists(jsonl(tmp_path / "pairs.jsonl", *rows)))
    assert 70 <= first <= 130


def test_lists_with_grades_titles_scores_and_a_teacher(tmp_path):
    path = jsonl(
        tmp_path / "graded.jsonl",
        {
            "query": "q1",
            "passages": [
                {"id": "a", "text": "A", "title": "T", "grade": 0, "score": 0.5, "teacher": -2},
                {"id": "b", "text": "B", "grade": 2.5, "score": 0.25, "teacher": 1.5},
            ],
            "weight": 2,
            "source": "panel",
        },
        {"query": "q2", "passages": [{"text": "C", "teacher": 0.1}, {"text": "D", "teacher": 0.2}]},
        {"query": "q3", "passages": [{"text": "E", "grade": 1}, {"text": "F", "grade": None}, {"text": "G"}]},
    )
    first, second, third = read_lists(path)
    passages = (Passage("a", "A", "T", score=0.5), Passage("b", "B", score=0.25))
    assert first == TrainingList("q1", passages, (0.0, 2.5), (-2.0, 1.5), "panel", 2.0)
    assert second.grades == (0.0, 0.0)  # a teacher's scores are enough to learn from
    assert sorted(second.teacher or ()) == [0.1, 0.2]
    assert graded_texts(third) == {"E": 1.0}  # what was not judged is left out
    assert third.source == "graded.jsonl"


def test_what_rerankit_label_wrote_is_read_with_the_lines_of_a_query_together(tmp_path):
    labels = LabelFile(tmp_path / "labels.jsonl", "model", "template")
    a, b, c = (Passage(name, TEXTS[name]) for name in "abc")
    pool = Pool("1", "q", (a, b, c))
    labels.add(pool, [(a, Verdict(2)), (c, Verdict(None, error="no reply"))])
    labels.add(pool, [(b, Verdict(0))])
    (item,) = read_lists(labels.path)
    assert graded_ids(item) == {"a": 2.0, "b": 0.0}


def test_ratings_are_grouped_by_query_and_averaged(tmp_path, corpus):
    path = jsonl(
        tmp_path / "ratings.jsonl",
        {"query": "How deep?", "id": "a", "grade": 3},
        {"query": "other", "text": "its own text", "grade": 1},
        {"query": " how  DEEP?", "id": "a", "grade": 2},
        {"query": "How deep?", "id": "b", "grade": 0},
        {"query": "How deep?", "id": "gone", "grade": 1},
    )
    told = []
    first, second = read_lists(path, corpus=corpus, tell=told.append)
    assert graded_ids(first) == {"a": 2.5, "b": 0.0}
    assert first.relevant[0].text == TEXTS["a"]
    assert graded_texts(second) == {"its own text": 1.0}
    assert told == [f"{path}: 1 of 3 passage ids are not in the corpus and are left out, first 'gone'"]


def test_the_corpus_may_be_a_function(tmp_path):
    path = jsonl(tmp_path / "ratings.jsonl", {"query": "q", "id": "a", "grade": 1})
    (item,) = read_lists(path, corpus=lambda: iter([Passage("a", "from a store")]))
    assert item.relevant[0].text == "from a store"


GOOD = {"query": "q", "positive": "p", "negatives": ["n"]}


@pytest.mark.parametrize(
    ("good", "broken", "problem"),
    [
        (GOOD, "{", "not valid JSON"),
        (GOOD, {"query": "  ", "positive": "p"}, "blank"),
        (GOOD, {"query": "q", "positive": 3}, "list of texts"),
        (GOOD, {"query": "q", "positive": "p", "negatives": [1]}, "list of texts"),
        ({"query": "q", "text": "t", "grade": 1}, {"query": "q", "text": "t", "grade": 5}, "0 .* to 3"),
        ({"query": "q", "text": "t", "grade": 1}, '{"query": "q", "text": "t", "grade": NaN}', "0 .* to 3"),
        ({"query": "q", "text": "t", "grade": 1}, {"query": "q", "text": "t"}, "expected 'grade' or"),
        ({"query": "q", "text": "t", "grade": 1}, {"query": "q", "text": "t", "grade": None}, "grade is a number"),
        (GOOD, {"query": "q", "passages": []}, r"keys \['passages', 'query'\]; expected 'positives' or"),
        ({"query": "q", "passages": []}, GOOD, r"expected 'passages', as in the file's first line"),
        ({"query": "q", "text": "t", "grade": 1}, {"query": "q", "grade": 1}, "has no 'id'"),
        ({"query": "q", "grades": {"a": 1}}, {"query": "q", "grades": ["a"]}, "'grades' is an object"),
        ({"query": "q", "passages": []}, {"query": "q", "passages": ["a"]}, "list of objects"),
        ({"query": "q", "passages": []}, {"query": "q", "passages": [{"text": 1, "grade": 1}]}, "is a string"),
        (
            {"query": "q", "passages": []},
            {"query": "q", "passages": [{"text": "a", "grade": 1}], "weight": 0},
            "above 0",
        ),
        (
            {"query": "q", "passages": []},
            {"query": "q", "passages": [{"text": "a", "grade": 1, "teacher": 1}, {"text": "b", "grade": 1}]},
            "all or none",
        ),
        ({"query": "q", "shown": ["a"], "clicked": []}, {"query": "q", "shown": ["a"], "clicked": ["b"]}, "not shown"),
        ({"query": "q", "shown": ["a"], "clicked": []}, {"query": "q", "shown": "a", "clicked": []}, "list of passage"),
    ],
)
def test_a_broken_line_is_named(tmp_path, corpus, good, broken, problem):
    path = jsonl(tmp_path / "lists.jsonl", good, good, broken)
    with pytest.raises(InputError, match=problem) as caught:
        read_lists(path, corpus=corpus)
    assert f"{path}, line 3" in str(caught.value)


def test_ids_without_a_corpus_and_unknown_shapes_say_what_to_do(tmp_path):
    path = jsonl(tmp_path / "ratings.jsonl", {"query": "q", "id": "a", "grade": 1})
    with pytest.raises(InputError, match=r"line 1: names passage 'a' by id.*--corpus"):
        read_lists(path)
    with pytest.raises(InputError, match=r"line 1: has the keys \['prompt'\]; expected .query, positives"):
        read_lists(jsonl(path, {"prompt": "q"}))
    unlike = {"query": "q", "passages": [{"id": "a", "text": "t", "label": 1}]}
    with pytest.raises(InputError, match=r"line 1: no passage has a 'grade'.* the keys \['id', 'label', 'text'\]"):
        read_lists(jsonl(path, unlike, unlike))
    with pytest.raises(InputError, match="is empty"):
        read_lists(jsonl(path))
    with pytest.raises(InputError, match="No test collection at"):
        read_lists(tmp_path / "nowhere")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text(json.dumps(GOOD) + "\n", encoding="utf-8-sig")
    assert len(read_lists(path)) == 1


def test_lists_without_a_relevant_passage_are_counted_and_an_empty_end_is_an_error(tmp_path, caplog):
    bad = {"query": "q", "positive": " ", "negatives": ["n"]}
    path = jsonl(tmp_path / "lists.jsonl", GOOD, bad, bad)
    assert len(read_lists(path)) == 1
    assert "2 of 3 lists have no relevant passage and are left out" in caplog.text
    with pytest.raises(InputError, match="no list with a relevant passage: 2 were read"):
        read_lists(jsonl(path, bad, bad))


@pytest.mark.parametrize(
    "broken",
    [
        {"query": " "},
        {"query": None},
        {"grades": (1.0,)},
        {"grades": (1.0, float("nan"))},
        {"grades": (1.0, -1.0)},
        {"teacher": (1.0,)},
        {"teacher": (1.0, float("inf"))},
        {"weight": 0.0},
    ],
)
def test_a_list_that_makes_no_sense_is_refused(broken):
    good = {"query": "q", "passages": (Passage("a", "A"), Passage("b", "B")), "grades": (1.0, 0.0)}
    assert TrainingList(**good).relevant == (Passage("a", "A"),)
    with pytest.raises(InputError):
        TrainingList(**{**good, **broken})


def test_written_lists_come_back_the_same(tmp_path):
    passages = (Passage("a", "A \ud800 ä", "T", score=0.5), Passage("b", "B", score=0.25))
    lists = [
        TrainingList("q1", passages, (0.0, 2.5), (-2.0, 1.5), "one", 0.3),
        TrainingList("q2", passages, (1.0, 0.0), None, "two"),
    ]
    assert write_lists(iter(lists), tmp_path / "out.jsonl") == 2
    assert read_lists(tmp_path / "out.jsonl") == lists
    with pytest.raises(StoreError, match="Cannot write"):
        write_lists(lists, tmp_path / "no" / "folder.jsonl")


# Clicks


def test_clicks_skips_and_what_nobody_saw(tmp_path, corpus):
    path = jsonl(
        tmp_path / "clicks.jsonl",
        {"query": "q", "shown": ["a", "b", "c", "d", "e"], "clicked": ["d", "b"]},
        {"query": "other", "shown": ["a", "b"], "clicked": []},
        {"query": "Q", "shown": ["c", "f"], "clicked": ["c"]},
    )
    told = []
    by_b, by_d, alone = read_lists(path, corpus=corpus, position_bias=0.0, tell=told.append)
    assert graded_ids(by_b) == {"b": 1.0, "a": 0.0}  # c was clicked another time, e stands below the last click
    assert graded_ids(by_d) == {"d": 1.0, "a": 0.0}
    assert graded_ids(alone) == {"c": 1.0}
    assert {item.weight for item in (by_b, by_d, alone)} == {1.0}
    assert "1 of 4 lists have no relevant passage" in told[-1]


def test_a_click_weighs_the_inverse_chance_that_its_place_is_looked_at(tmp_path, corpus):
    path = jsonl(tmp_path / "clicks.jsonl", {"query": "q", "shown": list("abcd"), "clicked": ["a", "d"]})
    first, fourth = read_lists(path, corpus=corpus)
    assert fourth.weight / first.weight == pytest.approx(4.0)  # 1 / rank
    assert first.weight + fourth.weight == pytest.approx(2.0)  # mean 1
    first, fourth = read_lists(path, corpus=corpus, position_bias=[1.0, 0.9, 0.5, 0.5])
    assert fourth.weight / first.weight == pytest.approx(2.0)
    with pytest.raises(InputError, match="3 positions, but position 4 was clicked"):
        read_lists(path, corpus=corpus, position_bias=[1.0, 0.9, 0.5])
    for wrong in (-1.0, float("inf"), [1.0, 2.0, 1.0, 1.0], "much"):
        with pytest.raises(InputError):
            read_lists(path, corpus=corpus, position_bias=wrong)


impressions = st.lists(
    st.builds(
        lambda query, ids, clicked: Shown(query, tuple(ids), frozenset(c % len(ids) for c in clicked), "here"),
        st.sampled_from(["q", "Q ", "other"]),
        st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6, unique=True),
        st.lists(st.integers(0, 5), max_size=3),
    ),
    max_size=8,
)


@given(impressions, st.floats(0, 3))
def test_nothing_clicked_is_ever_counted_as_skipped_and_weights_have_mean_one(seen, exponent):
    clicked = {(query_key(item.query), item.ids[place]) for item in seen for place in item.clicked}
    drafts = graded(seen, "test", exponent)
    skipped = {(query_key(d.query), j.passage) for d in drafts for j in d.judged if not j.grade}
    assert not clicked & skipped
    weights = [draft.weight for draft in drafts if draft.judged]
    assert len(weights) == sum(len(item.clicked) for item in seen)
    assert not weights or np.mean(weights) == pytest.approx(1.0)


def test_the_weights_undo_the_bias_that_they_state():
    """People who look at rank k with chance 1/k and click what is relevant: weighted clicks count relevance alone."""
    random = np.random.default_rng(0)
    seen = []
    for _ in range(4000):
        ids = tuple(random.permutation(["good", "fine", "bad"]))
        looked = random.random(3) < 1 / np.arange(1, 4)
        clicked = {
            k for k in range(3) if looked[k] and random.random() < {"good": 0.8, "fine": 0.4, "bad": 0.0}[ids[k]]
        }
        seen.append(Shown("q", ids, frozenset(clicked), ""))
    places = [place for item in seen for place in sorted(item.clicked)]
    drafts = [draft for draft in graded(seen, "", 1.0) if draft.judged]
    ranks = {name: dict.fromkeys(range(3), 0.0) for name in ("good", "fine")}
    for draft, place in zip(drafts, places, strict=True):
        ranks[draft.judged[0].passage][place] += draft.weight
    for weights in ranks.values():
        assert max(weights.values()) / min(weights.values()) < 1.4  # unweighted the top has three times the bottom's
    assert sum(ranks["good"].values()) / sum(ranks["fine"].values()) == pytest.approx(2.0, rel=0.15)


# Feedback


def test_a_feedback_log_gives_lists_of_its_clicks(tmp_path, corpus):
    yesterday = time.time() - 86_400
    with FeedbackLog(tmp_path / "log.sqlite") as log:
        for experiment in ("one", "two"):
            number = log.shown(experiment, "unit", "arm", ids=["a", "b"], query=f"query {experiment}", at=yesterday)
            log.click(number, 1, at=yesterday + 5)
        log.shown("one", "unit", "arm", ids=["a", "b"], at=yesterday)
        log.shown("one", "unit", "arm", ids=["a", "b"], query="just now")
    told = []
    lists = read_lists(tmp_path / "log.sqlite", corpus=corpus, tell=told.append)
    assert [item.query for item in lists] == ["query one", "query two"]
    assert all(graded_ids(item) == {"a": 0.0, "b": 1.0} for item in lists)
    assert told == [f"{tmp_path / 'log.sqlite'}: 1 of 3 impressions were logged without their query and are left out"]


def votes(path):
    with Memory(path) as memory:
        for user, helpful in (("ann", True), ("bob", False), ("cid", True)):
            turn = memory.add(user, "", "asked", "standalone question", "answer", "x", shown=["a", "b"], cited=["a"])
            memory.vote(turn, user, helpful=helpful)
        turn = memory.add("ann", "", "asked", "another", "answer", "x", shown=["a", "b"], cited=["a"])
        memory.vote(turn, "ann", helpful=False, passages=["c"])
        turn = memory.add("ann", "", "asked", "nothing good", "answer", "x", shown=["a"], cited=["a"])
        memory.vote(turn, "ann", helpful=False)
        return [export_feedback(memory, path.with_suffix(f".{form}"), form=form) for form in ("lists", "events")]


@pytest.mark.parametrize("name", ["memory.sqlite", "memory.lists", "memory.events"])
def test_the_assistants_feedback_gives_lists_of_what_was_cited(tmp_path, corpus, name):
    votes(tmp_path / "memory.sqlite")
    told = []
    first, second = read_lists(tmp_path / name, corpus=corpus, tell=told.append)
    assert graded_ids(first) == {"a": pytest.approx(2 / 3)}
    assert graded_ids(second) == {"a": 0.0, "c": 1.0}
    assert "1 of 3 lists have no relevant passage" in told[0]


def test_other_sqlite_files_are_refused_and_left_alone(tmp_path, corpus):
    path = tmp_path / "other.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE things (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"neither a feedback log .* \['things'\]"):
        read_lists(path, corpus=corpus)
    assert path.read_bytes() == before
    path.write_bytes(before[:100] + b"\xff" * 500)
    with pytest.raises(StoreError, match="cannot be read"):
        read_lists(path, corpus=corpus)


# Splits

PASSAGES = (Passage("a", "A"),)
queries = st.lists(
    st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable() and text.strip()), max_size=20
)


def lists_of(*texts):
    return [TrainingList(text, PASSAGES, (1.0,), weight=n + 1) for n, text in enumerate(texts)]


@given(queries, st.floats(0.01, 0.99), st.integers(0, 3))
def test_no_query_stands_on_both_sides_and_nothing_is_lost(texts, share, seed):
    lists = lists_of("first", "second", *texts, *(f" {text.upper()}" for text in texts if text.strip()))
    train, held_out = split_lists(lists, share, seed)
    assert train
    assert held_out
    assert not {query_key(item.query) for item in train} & {query_key(item.query) for item in held_out}
    assert sorted([*train, *held_out], key=lambda item: item.weight) == lists
    assert split_lists(lists[::-1], share, seed) == (train[::-1], held_out[::-1])


@given(st.integers(2, 80), st.floats(0.01, 0.99), st.integers(0, 9))
def test_a_split_has_the_share_asked_for(count, share, seed):
    lists = lists_of(*(f"query {n}" for n in range(count)))
    assert len(split_lists(lists, share, seed)[1]) == min(max(round(share * count), 1), count - 1)


def test_another_seed_is_another_split_and_few_queries_change_sides_when_others_come():
    lists = lists_of(*(f"query {n}" for n in range(2000)))
    _, held_out = split_lists(lists, 0.2)
    assert held_out != split_lists(lists, 0.2, seed=1)[1]
    _, fewer = split_lists(lists[:1000], 0.2)
    assert len(set(fewer) - set(held_out)) < 30


def test_splits_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="two different queries"):
        split_lists(lists_of("same", " Same"))
    with pytest.raises(InputError, match="two different queries"):
        split_lists([])
    for share in (0.0, 1.0, float("nan"), "half"):
        with pytest.raises(InputError, match="share"):
            split_lists(lists_of("a", "b"), share)
