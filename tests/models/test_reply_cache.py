from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import chat_server as server
import numpy as np
import pytest
from chat_server import ChatServer
from judge_server import JudgeServer, prefers

from rerankit.models.chat import ChatLM
from rerankit.models.reply_cache import ReplyCache
from rerankit.models.work import Work

AB = ("A", "B")
PROMPTS = [f"worth={i} worth=3" for i in range(12)]


@pytest.fixture
def chat():
    with ChatServer() as running:
        yield running


@pytest.fixture
def judge():
    with JudgeServer(prefers(AB)) as running:
        yield running


@pytest.fixture
def file(tmp_path):
    return tmp_path / "replies.sqlite"


def test_a_known_reply_costs_nothing(chat, file):
    for number in range(2):
        work = Work()
        with ChatLM(chat.url, "m", reply_cache=file, price=(1, 1)) as lm:
            (reply,) = lm.generate_many(["hi"], work=work)
        assert (reply.text, reply.input_tokens, reply.cached) == ("hello", 7, number == 1)
        assert (work.meter.llm_calls, work.meter.cache_hits, work.meter.cache_misses) == [(1, 0, 1), (0, 1, 0)][number]
        assert (work.meter.input_tokens, work.meter.cost > 0) == [(7, True), (0, False)][number]
    assert len(chat.requests) == 1


@pytest.mark.parametrize("logprobs", [True, False])
def test_known_labels_cost_nothing_whatever_was_found_out_on_the_way(judge, file, logprobs):
    judge.logprobs = logprobs
    found = []
    for _ in range(2):
        work = Work()
        with ChatLM.from_spec(judge.url, reply_cache=file, concurrency=3) as lm:
            found.append(lm.label_logprobs(PROMPTS, AB, work=work))
    assert [score.source for score in found[1]] == ["logprobs" if logprobs else "text"] * 12
    for cold, warm in zip(*found, strict=True):
        np.testing.assert_array_equal(cold.logprobs, warm.logprobs)
    assert (work.meter.llm_calls, work.meter.cache_hits) == (0, 12)
    assert len(judge.bodies) == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "ho"},
        {"max_tokens": 9},
        {"stop": ["x"]},
        {"seed": 1},
        {"json_schema": {"type": "object"}},
        {"model": "other"},
        {"extra": {"top_k": 1}},
        {"base_url": "/v1/"},
    ],
)
def test_every_part_of_the_request_counts(chat, file, changes):
    def ask(base_url="/v1", model="m", extra=None, prompt="hi", **options):
        url = chat.url.replace("/v1", base_url.replace("/v1/", "/v2"))
        with ChatLM(url, model, extra=extra, reply_cache=file) as lm:
            lm.generate(prompt, **options)

    ask()
    ask(**changes)
    assert len(chat.requests) == 2


@pytest.mark.parametrize(
    ("options", "extra", "kept"),
    [
        ({}, {}, True),
        ({"temperature": 0.7}, {}, False),
        ({"temperature": None}, {}, False),
        ({"temperature": 0.7, "seed": 3}, {}, True),
        ({}, {"temperature": 0.7}, False),
        ({"temperature": 0.7}, {"seed": 0}, True),
    ],
)
def test_only_what_would_be_the_same_again_is_kept(chat, file, options, extra, kept):
    with ChatLM(chat.url, "m", extra=extra, reply_cache=file) as lm:
        lm.generate("hi", **options)
        assert lm.generate("hi", **options).cached is kept


def test_labels_and_replies_are_kept_apart(chat, file):
    with ChatLM(chat.url, "m", reply_cache=file) as lm:
        lm.label_logprobs(["hi"], AB)
        lm.label_logprobs(["hi"], ("Yes", "No"))
        lm.generate("hi", max_tokens=16)
    assert len(chat.requests) == 3


def test_failures_are_not_kept(chat, file):
    chat.script = [server.fail(400), server.raw(b"{}"), server.say("at last")]
    with ChatLM(chat.url, "m", reply_cache=file) as lm:
        _, _, last = (lm.generate_many(["hi"])[0] for _ in range(3))
    assert last.text == "at last"


def test_true_means_the_cache_folder(chat, tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKIT_CACHE", str(tmp_path))
    with ChatLM(chat.url, "m", reply_cache=True) as lm:
        lm.generate("hi")
    assert (tmp_path / "replies" / "replies.sqlite").is_file()


def test_the_number_of_replies_is_bounded(file):
    cache = ReplyCache(file, max_entries=3, max_characters=50)
    for number in range(5):
        cache.put(bytes([number]), {"n": number})
    cache.put(b"long", {"text": "x" * 100})
    assert [cache.get(bytes([number])) for number in range(5)] == [None, None, {"n": 2}, {"n": 3}, {"n": 4}]
    assert len(cache) == 3
    assert cache.get(b"long") is None


def test_a_damaged_file_is_put_aside(chat, file):
    file.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with ChatLM(chat.url, "m", reply_cache=file) as lm:
        assert lm.generate("hi").text == "hello"
        assert lm.generate("hi").cached
    assert [path.name.partition("-")[0] for path in file.parent.glob("*corrupt*")] == ["replies.sqlite.corrupt"]


@pytest.mark.parametrize("stored", ["", "null", "[]", "{}", '{"choices": [{"message": {}}]}', "{" * 9999, b"\xff\x00"])
def test_an_entry_that_cannot_be_read_is_asked_for_again(chat, file, stored):
    with ChatLM(chat.url, "m", reply_cache=file) as lm:
        lm.generate("hi")
        lm.close()
        with sqlite3.connect(file) as connection:
            connection.execute("UPDATE replies SET reply = ?", (stored,))
        connection.close()
        assert lm.generate("hi").text == "hello"
        assert lm.generate("hi").cached
    assert len(chat.requests) == 2


def test_no_secrets_are_kept(chat, file):
    with ChatLM(chat.url.replace("//", "//user:pa55@"), "m", api_key="sk-secret", reply_cache=file) as lm:
        lm.generate("hi")
    kept = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert b"hello" in kept
    assert b"sk-secret" not in kept
    assert b"pa55" not in kept


PROGRAM = """
import json, sys
from rerankit.models.chat import ChatLM
from rerankit.models.work import Work
spec, file, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
work = Work()
with ChatLM.from_spec(spec, reply_cache=file) as lm:
    scores = lm.label_logprobs(prompts, ["A", "B"], work=work)
print(json.dumps([[list(score.logprobs) for score in scores], work.meter.cache_hits, work.meter.llm_calls]))
"""


def test_two_processes_share_one_file(judge, file):
    judge.delay_s = 0.02
    prompts = [f"worth={i} worth={j}" for i in range(6) for j in range(6)]
    command = [sys.executable, "-W", "error", "-c", PROGRAM, judge.url, str(file)]
    orders = [json.dumps(prompts), json.dumps(prompts[::-1])]
    started = [subprocess.Popen([*command, order], stdout=subprocess.PIPE, cwd=Path.cwd()) for order in orders]
    (forward, *_), (backward, *_) = (json.loads(process.communicate(timeout=60)[0]) for process in started)
    assert all(process.returncode == 0 for process in started)
    assert forward == backward[::-1]
    asked = len(judge.bodies)
    assert 36 <= asked <= 72
    third = subprocess.run([*command, orders[0]], stdout=subprocess.PIPE, check=True, timeout=60)
    assert json.loads(third.stdout) == [forward, 36, 0]
    assert len(judge.bodies) == asked
