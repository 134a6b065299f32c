from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.rerankers.cache import ScoreCache, score_key

parts = st.tuples(*[st.text(max_size=4)] * 5)


@given(parts, parts)
def test_two_keys_are_equal_only_if_every_part_is(one, two):
    assert (score_key(*one) == score_key(*two)) == (one == two)


def test_scores_are_found_again(tmp_path):
    cache = ScoreCache(tmp_path / "deep" / "c.sqlite")
    keys = [score_key("m", "q", "", str(i)) for i in range(1200)]
    cache.put_many({key: i / 7 for i, key in enumerate(keys)})
    cache.close()
    found = ScoreCache(tmp_path / "deep" / "c.sqlite").get_many([*keys, b"unknown"])
    assert found == {key: i / 7 for i, key in enumerate(keys)}


def test_a_useless_entry_is_replaced(tmp_path):
    cache = ScoreCache(tmp_path / "c.sqlite")
    cache.put_many({b"a": float("inf"), b"b": 1.0})
    assert cache.get_many([b"a", b"b"]) == {b"b": 1.0}
    cache.put_many({b"a": 2.0})
    assert cache.get_many([b"a"]) == {b"a": 2.0}
    cache.put_many({b"a": float("nan"), b"c": 3.0})
    assert cache.get_many([b"a", b"b", b"c"]) == {b"a": 2.0, b"b": 1.0, b"c": 3.0}
    assert [file.name for file in tmp_path.iterdir() if "corrupt" in file.name] == []


def test_a_mistake_of_the_caller_is_no_damage(tmp_path):
    cache = ScoreCache(tmp_path / "c.sqlite")
    cache.put_many({b"a": 1.0})
    for wrong in ({b"b": None}, {b"b": object()}):
        with pytest.raises(sqlite3.Error):
            cache._file.run("INSERT INTO scores (key, score) VALUES (?, ?)", list(wrong.items()), many=True)
    assert cache.get_many([b"a", b"b"]) == {b"a": 1.0}
    assert not cache._file.in_memory
    assert not list(tmp_path.glob("*corrupt*"))


def test_a_damaged_file_that_cannot_be_moved_leaves_the_memory(tmp_path, caplog):
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    for second in range(120):  # every name that it could be moved to is taken
        (tmp_path / f"c.sqlite.corrupt-{int(time.time()) + second}").mkdir()
    cache = ScoreCache(path)
    cache.put_many({b"k": 1.0})
    assert cache.get_many([b"k"]) == {b"k": 1.0}
    assert "in memory" in caplog.text


def test_the_oldest_entries_go_first(tmp_path):
    cache = ScoreCache(tmp_path / "c.sqlite", max_entries=10)
    for i in range(25):
        cache.put_many({str(i).encode(): float(i)})
    assert len(cache) == 10
    assert set(cache.get_many([str(i).encode() for i in range(25)]).values()) == {float(i) for i in range(15, 25)}


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("this is no database")
    with pytest.raises(InputError, match=r"notes\.txt is no sqlite file"):
        ScoreCache(path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["this is no database"]


def test_a_damaged_file_is_put_aside(tmp_path, caplog):
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    cache = ScoreCache(path)
    cache.put_many({b"k": 1.0})
    assert cache.get_many([b"k"]) == {b"k": 1.0}
    assert len(list(tmp_path.glob("c.sqlite.corrupt-*"))) == 1
    assert "damaged" in caplog.text


def test_a_place_that_cannot_be_written_falls_back_to_memory(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    cache = ScoreCache(blocker / "c.sqlite")
    with caplog.at_level(logging.WARNING):
        cache.put_many({b"k": 1.0})
    assert cache.get_many([b"k"]) == {b"k": 1.0}
    assert "in memory" in caplog.text


WRITER = """
import sys
from rerankit.rerankers.cache import ScoreCache
cache = ScoreCache(sys.argv[1])
for i in range(200):
    cache.put_many({f"{sys.argv[2]}-{i}".encode(): float(i), f"shared-{i}".encode(): float(i)})
"""


def test_processes_share_one_file(tmp_path):
    path = tmp_path / "c.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    cache = ScoreCache(path)
    assert len(cache) == 800
    assert cache.get_many([b"2-199", b"shared-7"]) == {b"2-199": 199.0, b"shared-7": 7.0}


def test_the_default_place_is_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKIT_CACHE", str(tmp_path))
    assert ScoreCache().path.parent == tmp_path / "scores"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # forking a process with threads, which is the point
def test_a_forked_child_opens_its_own_connection(tmp_path):
    cache = ScoreCache(tmp_path / "c.sqlite")
    cache.put_many({b"parent": 1.0})
    child = os.fork()
    if child == 0:
        cache.put_many({b"child": 2.0})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get_many([b"parent", b"child"]) == {b"parent": 1.0, b"child": 2.0}
