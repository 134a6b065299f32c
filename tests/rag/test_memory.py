"""Conversations and feedback in one file: apart per user, bounded, deletable, safe between processes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError, StoreError
from rerankit.evaluation.questions import read_feedback
from rerankit.rag.feedback_prior import FeedbackPrior, export_feedback
from rerankit.rag.memory import Memory
from rerankit.types import Hit, Passage, Ranking

DAY = 86_400.0


@pytest.fixture
def memory(tmp_path):
    with Memory(tmp_path / "folder" / "memory.sqlite") as opened:
        yield opened


def add(memory, user="ann", conversation="", question="how deep to sow wheat", **options):
    return memory.add(user, conversation, question, question, "answer", "3 cm [1]", **options)


def test_history_is_the_last_turns_of_one_conversation_of_one_user(memory):
    for n in range(4):
        add(memory, question=f"q{n}")
    add(memory, conversation="other", question="elsewhere")
    add(memory, user="bob", question="someone else's")
    assert [turn.question for turn in memory.history("ann", "", limit=2)] == ["q2", "q3"]
    assert memory.conversations("ann") == ["other", ""]
    assert memory.history("nobody", "") == []


def test_forgetting_takes_the_feedback_along_and_nothing_else(memory):
    first, other, bobs = add(memory), add(memory, conversation="other"), add(memory, user="bob")
    memory.vote(first, "ann", helpful=True)
    memory.vote(other, "ann", helpful=True)
    memory.vote(bobs, "bob", helpful=False)
    assert memory.forget("ann", "") == 1
    assert memory.history("ann", "") == []
    assert len(list(memory.votes())) == 2
    assert memory.forget("ann") == 1
    assert [vote.user for vote in memory.votes()] == ["bob"]


def test_what_is_forgotten_is_in_no_file_while_the_program_runs(tmp_path):
    path = tmp_path / "memory.sqlite"
    with Memory(path) as memory:
        for n in range(30):
            add(memory, user="ann", question=f"SECRET {n} " * 50)
            turn = add(memory, user="bob", question=f"kept {n}")
        memory.vote(add(memory, user="ann"), "ann", correction="SECRET")
        memory.vote(turn, "bob", helpful=True)
        assert memory.forget("ann") == 31
        written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"SECRET" not in written
    assert b"kept 29" in written


def test_the_oldest_turns_of_a_user_make_room():
    memory = Memory(max_turns=3)
    bobs = add(memory, user="bob")
    numbers = [add(memory, conversation=str(n), question=f"q{n}") for n in range(5)]
    assert memory.conversations("ann") == ["4", "3", "2"]
    assert [turn.id for turn in memory.history("bob", "")] == [bobs]
    with pytest.raises(InputError, match="forgotten"):
        memory.vote(numbers[0], "ann", helpful=True)


def test_only_the_one_who_asked_may_judge(memory):
    turn = add(memory)
    for wrong in (turn + 1, -1, 2**70, "1; DROP TABLE turns"):
        with pytest.raises(InputError, match="no turn"):
            memory.vote(wrong, "ann", helpful=True)
    with pytest.raises(InputError, match="no turn"):
        memory.vote(turn, "bob", helpful=True)
    with pytest.raises(InputError, match="Feedback is"):
        memory.vote(turn, "ann", correction="  ")
    assert list(memory.votes()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"passages": "cows"}, {"passages": [1]}, {"passages": ["a", None]}, {"passages": ["\ud800"]}, {"passages": 5},
        {"helpful": "yes"}, {"helpful": 2}, {"helpful": 1}, {"correction": 5}, {"correction": None},
        {"correction": "\ud800"},
    ],
)  # fmt: skip
def test_feedback_of_the_wrong_kind_is_refused_and_nothing_kept(memory, wrong):
    turn = add(memory)
    with pytest.raises(InputError):
        memory.vote(turn, "ann", **{"helpful": True, **wrong})
    assert list(memory.votes()) == []


def test_feedback_adds_up_and_the_last_word_counts(memory):
    turn = add(memory, shown=["a", "b"], cited=["a"])
    memory.vote(turn, "ann", helpful=True)
    memory.vote(turn, "ann", correction="Rather 5 cm.", passages=["b"])
    memory.vote(turn, "ann", helpful=False)
    (vote,) = memory.votes()
    assert (vote.helpful, vote.correction, vote.passages, vote.cited) == (False, "Rather 5 cm.", ("b",), ("a",))


@settings(max_examples=50)
@given(st.text(max_size=250), st.text())
def test_any_name_and_text_is_kept_as_it_is_or_refused(name, text):
    memory = Memory()
    try:
        memory.add(name, "../../etc/passwd", text, text, "answer", text)
    except InputError:
        return
    assert [turn.question for turn in memory.history(name, "../../etc/passwd")] == [text]
    assert memory.history(name + "x", "../../etc/passwd") == [] if len(name) < 200 else True


def test_names_that_cannot_be_kept_are_refused(memory):
    for name in ("x" * 201, None, "\ud800"):
        with pytest.raises(InputError):
            add(memory, user=name)


def test_what_is_no_memory_is_refused(tmp_path):
    (tmp_path / "text").write_text("not a database at all, but long enough to be looked at" * 10)
    with pytest.raises(StoreError, match="cannot be used"):
        Memory(tmp_path / "text")
    with sqlite3.connect(tmp_path / "newer") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StoreError, match="version 99"):
        Memory(tmp_path / "newer")
    with pytest.raises(InputError):
        Memory(max_turns=0)


def test_threads_and_processes_write_side_by_side(tmp_path):
    path = tmp_path / "memory.sqlite"
    program = (
        "import sys; from rerankit.rag.memory import Memory; m = Memory(sys.argv[1])\n"
        "for n in range(20): m.vote(m.add(sys.argv[2], '', str(n), str(n), 'answer', ''), sys.argv[2], helpful=True)"
    )
    others = [subprocess.Popen([sys.executable, "-c", program, str(path), f"process {n}"]) for n in range(2)]
    with Memory(path) as memory:
        threads = [
            threading.Thread(target=lambda n=n: [add(memory, user=f"thread {n}") for _ in range(20)]) for n in (0, 1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.wait() for other in others] == [0, 0]
        for user in ("process 0", "process 1", "thread 0", "thread 1"):
            assert len(memory.history(user, "", limit=100)) == 20
        assert len(list(memory.votes())) == 40


def ranking(*scores, query="how deep to sow wheat"):
    hits = tuple(Hit(Passage(f"p{n}", "text"), n, score, n) for n, score in enumerate(scores, 1))
    return Ranking(query, hits, "model", "logit")


def ids(ranked):
    return [hit.id for hit in ranked]


def vote(memory, passage, helpful, users=1, question="how deep to sow wheat"):
    for n in range(users):
        memory.vote(add(memory, user=f"u{n}", question=question, cited=[passage]), f"u{n}", helpful=helpful)


def test_votes_move_passages_a_little(memory):
    before = ranking(1.0, 0.95, 0.0)
    assert FeedbackPrior(memory).apply(before) is before
    vote(memory, "p2", True, users=5)
    after = FeedbackPrior(memory).apply(before)
    assert ids(after) == ["p2", "p1", "p3"]
    assert [hit.rank for hit in after] == [1, 2, 3]
    assert [hit.score for hit in after] == [0.95, 1.0, 0.0]
    assert ids(FeedbackPrior(memory, weight=0.0).apply(before)) == ids(before)


def test_no_number_of_votes_moves_a_passage_further_than_the_bound(memory):
    vote(memory, "p2", True, users=60)
    vote(memory, "p1", False, users=60)
    assert ids(FeedbackPrior(memory, weight=0.1).apply(ranking(1.0, 0.79, 0.0))) == ["p1", "p2", "p3"]
    assert ids(FeedbackPrior(memory, weight=0.1).apply(ranking(1.0, 0.82, 0.0))) == ["p2", "p1", "p3"]
    assert all(-1 < value < 1 for value in FeedbackPrior(memory).of("how deep to sow wheat").values())


def test_one_user_counts_once_however_often_they_vote(memory):
    vote(memory, "p2", True)
    once = FeedbackPrior(memory).of("how deep to sow wheat")["p2"]
    for _ in range(20):
        vote(memory, "p2", True)
    vote(memory, "p2", True, question="how deep is wheat to be sown")
    assert FeedbackPrior(memory).of("how deep to sow wheat")["p2"] == pytest.approx(once, rel=1e-3)


def test_votes_fade_and_count_for_questions_alike_only(memory):
    vote(memory, "p2", True, users=3)
    prior = FeedbackPrior(memory, half_life_days=10)
    (cast, *_) = memory.votes()
    now = prior.of("how deep to sow wheat", now=cast.time)["p2"]
    assert now == pytest.approx(0.5, abs=0.01)
    assert prior.of("how deep to sow wheat", now=cast.time + 10 * DAY)["p2"] == pytest.approx(1.5 / 4.5, abs=0.01)
    assert 0 < prior.of("when to sow barley", now=cast.time)["p2"] < now
    assert prior.of("my sheep are limping", now=cast.time) == {}


@pytest.mark.parametrize("wrong", [{"weight": -0.1}, {"weight": float("nan")}, {"half_life_days": 0}])
def test_a_prior_out_of_range_is_refused(memory, wrong):
    with pytest.raises(InputError):
        FeedbackPrior(memory, **wrong)


def test_feedback_is_exported_as_training_lists_and_as_events(memory, tmp_path):
    memory.vote(
        add(memory, shown=["a", "b", "c"], cited=["a"]), "ann", helpful=False, correction="5 cm", passages=["b"]
    )
    memory.vote(add(memory, question="why", shown=["a"], cited=["a"]), "ann", helpful=True)
    assert export_feedback(memory, tmp_path / "lists.jsonl") == 2
    first, second = map(json.loads, (tmp_path / "lists.jsonl").read_text().splitlines())
    assert first == {
        "query": "how deep to sow wheat", "shown": ["a", "b", "c"], "grades": {"a": 0, "b": 1}, "answer": "5 cm",
    }  # fmt: skip
    assert second["grades"] == {"a": 1}
    assert export_feedback(memory, tmp_path / "events.jsonl", form="events") == 3
    assert [event["helpful"] for event in read_feedback(tmp_path / "events.jsonl")] == [False, True, True]
    with pytest.raises(InputError, match="lists or events"):
        export_feedback(memory, tmp_path / "x", form="csv")


def test_odd_text_is_exported(memory, tmp_path):
    memory.vote(add(memory, cited=["\ud800", "\u2028\0é"]), "ann", helpful=True)
    export_feedback(memory, tmp_path / "lists.jsonl")
    (line,) = (tmp_path / "lists.jsonl").read_text("utf-8").split("\n")[:-1]
    assert json.loads(line)["grades"] == {"\ud800": 1, "\u2028\0é": 1}


def test_an_export_that_fails_leaves_the_old_one(memory, tmp_path):
    """The limit on file size stands for a disk that is full."""
    resource = pytest.importorskip("resource")
    target = tmp_path / "lists.jsonl"
    target.write_text("the old export\n")
    memory.vote(add(memory), "ann", correction="x" * 20_000)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(OSError, match="large"):
            export_feedback(memory, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_text() == "the old export\n"
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["lists.jsonl"]


def test_an_export_that_fails_names_the_file_that_was_asked_for(memory, tmp_path):
    (tmp_path / "file").touch()
    for target in (tmp_path / "no folder" / "lists.jsonl", tmp_path / "file" / "lists.jsonl"):
        with pytest.raises(OSError, match="directory") as failed:
            export_feedback(memory, target)
        assert failed.value.filename == str(target)
