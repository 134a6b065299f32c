from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.models.files import content_key
from rerankit.models.vector_cache import VectorCache, open_cache, shared_cache

ENTRY = (
    np.arange(12, dtype=np.float16).reshape(3, 4),
    np.array([0.5, 1.0, 2.0], np.float32),
    np.array([[0, 0], [1, 4], [5, 9]], np.int32),
)
parts = st.lists(st.text(max_size=3), min_size=1, max_size=3)


def same(found, expected):
    return [a.dtype for a in found] == [a.dtype for a in expected] and all(
        np.array_equal(a, b) for a, b in zip(found, expected, strict=True)
    )


@given(parts, parts)
def test_two_keys_are_equal_only_if_every_part_is(one, two):
    assert (content_key(*one) == content_key(*two)) == (one == two)


@pytest.mark.parametrize("on_disk", [False, True])
def test_entries_come_back_as_they_were(tmp_path, on_disk):
    cache = VectorCache(tmp_path / "deep" / "v.sqlite" if on_disk else None)
    entries = {content_key(str(i)): tuple(array * np.array(i % 3, array.dtype) for array in ENTRY) for i in range(700)}
    cache.put_many(entries)
    if on_disk:
        cache.close()
        cache = VectorCache(tmp_path / "deep" / "v.sqlite")
    found = cache.get_many([*entries, content_key("unknown")])
    assert found.keys() == entries.keys()
    assert all(same(found[key], entries[key]) for key in entries)
    assert not next(iter(found.values()))[0].flags.writeable


def test_int8_and_empty_arrays_survive(tmp_path):
    entry = np.array([[-127, 3]], np.int8), np.zeros((0, 2), np.float32)
    VectorCache(tmp_path / "v").put_many({b"k": entry})
    assert same(VectorCache(tmp_path / "v").get_many([b"k"])[b"k"], entry)


def test_memory_is_bounded_and_the_least_recently_used_go_first():
    cache = VectorCache(memory_bytes=40_000)
    for i in range(20):
        cache.put_many({bytes([i]): (np.zeros(1000, np.float32),)})
        cache.get_many([bytes([0])])
    assert cache.held_bytes <= 40_000
    assert list(cache.get_many([bytes([i]) for i in range(20)])) == [b"\x00", *(bytes([i]) for i in range(12, 20))]


def test_the_file_is_bounded_and_the_oldest_go_first(tmp_path):
    cache = VectorCache(tmp_path / "v", memory_bytes=0, disk_bytes=500_000)
    for i in range(60):
        cache.put_many({bytes([i]): (np.full(5000, i, np.float32),)})
    found = cache.get_many([bytes([i]) for i in range(60)])
    assert b"\x3b" in found
    assert b"\x00" not in found
    assert 10 <= len(found) <= 25
    cache.close()
    assert (tmp_path / "v").stat().st_size < 800_000


def test_entries_are_counted_only_where_some_must_go(tmp_path):
    said = []
    cache = VectorCache(tmp_path / "v", disk_bytes=300_000)
    cache.put_many({b"first": ENTRY})
    cache._file._connection.set_trace_callback(said.append)
    cache.put_many({b"second": ENTRY})
    assert any("INSERT" in statement for statement in said)
    assert not any("count(" in statement for statement in said)
    cache.put_many({bytes([i]): (np.full(5000, i, np.float32),) for i in range(30)})
    assert any("count(" in statement for statement in said)


def test_a_damaged_file_is_put_aside(tmp_path, caplog):
    path = tmp_path / "v.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    VectorCache(path).put_many({b"k": ENTRY})
    assert same(VectorCache(path).get_many([b"k"])[b"k"], ENTRY)
    assert len(list(tmp_path.glob("v.sqlite.corrupt-*"))) == 1
    assert "damaged" in caplog.text


@pytest.mark.parametrize("content", [b"x", b"a thesis" * 9, b"SQLite format 2\x00" + b"\xff" * 5000])
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "thesis.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"thesis\.txt is no sqlite file"):
        VectorCache(path)
    path.unlink()
    cache = VectorCache(path)
    path.write_bytes(content)  # it came later
    with pytest.raises(InputError, match=r"thesis\.txt is no sqlite file"):
        cache.put_many({b"k": ENTRY})
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [content]


def test_an_empty_file_becomes_a_cache(tmp_path):
    (tmp_path / "v.sqlite").touch()
    VectorCache(tmp_path / "v.sqlite").put_many({b"k": ENTRY})
    assert same(VectorCache(tmp_path / "v.sqlite").get_many([b"k"])[b"k"], ENTRY)


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_damaged_entry_is_forgotten_not_returned(tmp_path, caplog, position):
    path = tmp_path / "v.sqlite"
    cache = VectorCache(path)
    cache.put_many({b"good": ENTRY, b"bad": ENTRY})
    cache.close()
    with sqlite3.connect(path) as file:
        data = bytearray(file.execute("SELECT data FROM vectors WHERE key = ?", (b"bad",)).fetchone()[0])
        data[position] ^= 1
        file.execute("UPDATE vectors SET data = ? WHERE key = ?", (bytes(data), b"bad"))
    file.close()
    cache = VectorCache(path)
    assert list(cache.get_many([b"bad", b"good"])) == [b"good"]
    assert "damaged" in caplog.text
    cache.put_many({b"bad": ENTRY})
    assert b"bad" in VectorCache(path).get_many([b"bad"])


def test_a_place_that_cannot_be_written_leaves_the_memory(tmp_path, caplog):
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    cache = VectorCache(blocker / "v.sqlite")
    with caplog.at_level(logging.WARNING):
        cache.put_many({b"k": ENTRY})
    assert same(cache.get_many([b"k"])[b"k"], ENTRY)
    assert "in memory" in caplog.text
    cache.clear_memory()
    assert cache.get_many([b"k"]) == {}


def test_two_processes_write_at_once(tmp_path):
    path = tmp_path / "v.sqlite"
    program = (
        "import sys, numpy as np\n"
        "from rerankit.models.vector_cache import VectorCache\n"
        "cache = VectorCache(sys.argv[1])\n"
        "for i in range(150): cache.put_many({f'{sys.argv[2]}{i}'.encode(): (np.full(50, i, np.float32),)})\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [process.wait(60) for process in running] == [0, 0]
    keys = [f"{name}{i}".encode() for name in "ab" for i in range(150)]
    found = VectorCache(path).get_many(keys)
    assert [int(found[key][0][0]) for key in keys] == [*range(150), *range(150)]


def test_what_a_cache_may_be_opened_from(tmp_path, monkeypatch):
    mine = VectorCache()
    assert open_cache(mine) is mine
    assert open_cache(None) is open_cache(False) is shared_cache()
    open_cache(str(tmp_path / "v")).put_many({b"k": ENTRY})
    assert (tmp_path / "v").is_file()
    monkeypatch.setenv("RERANKIT_CACHE", str(tmp_path / "home"))
    open_cache(True).put_many({b"k": ENTRY})
    assert (tmp_path / "home" / "vectors" / "vectors.sqlite").is_file()
    with pytest.raises(InputError, match="positive"):
        VectorCache(memory_bytes=-1)
