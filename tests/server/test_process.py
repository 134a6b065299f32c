"""``rerankit serve`` as a process: asking a store, ending well, refusing what is wrong."""

from __future__ import annotations

import json
import math
import signal
import threading

import click
import httpx
import pytest
from chat_server import ChatServer, fail, say
from families import WordOverlap
from harness import Process, exchange, post, serving, until
from typer.testing import CliRunner

from rerankit.cli.app import app
from rerankit.errors import InputError
from rerankit.rag.chroma import ChromaRetriever
from rerankit.server.auth import Keys, read_keys
from rerankit.server.settings import AskSettings, Limits, Settings, named_models
from rerankit.types import Passage

KEY = "a-key-of-the-tests"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    with ChromaRetriever(folder, collection="notes") as retriever:
        retriever.index([
            Passage("rust", "Leaf rust shows as orange pustules on wheat leaves.", metadata={"crop": "wheat"}),
            Passage("sheep", "Sheep are shorn once a year, in spring, before the heat.", metadata={"crop": "none"}),
        ])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"# one per line\n{KEY}\n")
    arguments = ["--model", "best=default", "--model", "lex=lexical", "--store", store, "--collection", "notes"]
    with Process(*arguments, "--api-keys", keys) as process:
        yield process


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        yield client


def test_a_question_is_answered_with_citations(client):
    found = client.post("/v1/ask", json={"question": "What are the orange spots on wheat leaves?"}).json()
    assert "orange pustules" in found["answer"]["text"]
    assert found["answer"]["citations"][0]["passage_id"] == "rust"
    assert [hit["passage"]["id"] for hit in found["ranking"]["hits"]] == ["rust", "sheep"]


@pytest.mark.parametrize("way", [{"stream": True}, {}])
def test_a_question_is_answered_as_events(client, way):
    headers = {} if way else {"Accept": "text/event-stream"}
    body = {"question": "When are sheep shorn?", "model": "lex", **way}
    with client.stream("POST", "/v1/ask", json=body, headers=headers) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = list(reply.iter_lines())
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert names[:3] == ["retrieved", "reranked", "packed"]
    assert names[-1] == "done"
    assert set(names[3:-1]) == {"delta"}
    assert data[0] == {"candidates": 2}
    assert "in spring" in data[-1]["answer"]["text"]


def test_filters_and_wrong_questions(client):
    body = {"question": "orange spots on wheat", "where": {"crop": "none"}}
    assert [hit["passage"]["id"] for hit in client.post("/v1/ask", json=body).json()["ranking"]["hits"]] == ["sheep"]
    for wrong, status in [
        ({"question": " "}, 422),
        ({"question": "a", "where": {"$nonsense": [1]}}, 422),
        ({"question": "a", "where": {"$or": [{"a": i} for i in range(12_000)]}}, 422),
        ({"question": "a", "where": {"$or": [{"a": i} for i in range(1_000)]}}, 422),
        ({"question": "a", "where": {"a": {"$in": list(range(40_000))}}}, 422),
        ({"question": "a", "model": "other"}, 404),
        ({"question": "a", "unknown": 1}, 422),
    ]:
        reply = client.post("/v1/ask", json=wrong)
        assert reply.status_code == status, reply.text
        assert reply.json()["error"]["message"]


class Gated(WordOverlap):
    """Works only while its gate is open."""

    def __init__(self):
        super().__init__()
        self.gate, self.begun = threading.Event(), threading.Event()

    def score_lists(self, requests, call):
        self.begun.set()
        assert self.gate.wait(20)
        return super().score_lists(requests, call)


def test_a_question_to_a_busy_model_is_answered_in_time(store):
    gated = Gated()
    gated.gate.set()
    with serving(Settings(models={"m": gated}, ask=AskSettings(str(store), "notes"))) as (url, _):
        body = {"question": "When are sheep shorn?"}
        assert post(url, body, "/v1/ask").json()["ranking"]["status"] == "scored"
        gated.gate.clear()
        try:
            begun = post(url, {**body, "deadline_s": 0.5}, "/v1/ask")
            assert begun.json()["ranking"]["status"] == "partial"
            assert len(begun.json()["ranking"]["hits"]) == 2
            gated.begun.clear()
            busy = threading.Thread(target=post, args=(url, {"query": "a", "documents": ["a"]}))
            gated.gate.set()
            until(lambda: post(url, {"query": "a", "documents": ["a"]}).status_code == 200)
            gated.gate.clear()
            gated.begun.clear()
            busy.start()
            assert gated.begun.wait(20)
            late = post(url, {**body, "deadline_s": 0.5}, "/v1/ask")
            assert late.status_code == 503
            assert "Retry-After" in late.headers
            lines = post(url, {**body, "deadline_s": 0.5, "stream": True}, "/v1/ask").text.splitlines()
            assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == 503
        finally:
            gated.gate.set()
            busy.join()


def test_callers_are_not_told_where_the_model_runs(store, caplog):
    with ChatServer() as chat:
        asked = AskSettings(str(store), "notes", llm=f"{chat.url}#writer")
        with serving(Settings(models={"m": WordOverlap()}, ask=asked)) as (url, _):
            body = {"question": "When are sheep shorn?"}
            chat.script = [say("In spring [1].")]
            answer = post(url, body, "/v1/ask").json()["answer"]
            assert (answer["text"], answer["model"]) == ("In spring [1].", "chat:writer")
            chat.script = [fail(400, "wrong key sk-1")]
            lines = post(url, {**body, "stream": True}, "/v1/ask").text
            assert "The generator failed (BackendError)" in lines
            assert "sk-1" not in lines
            assert chat.url not in lines
            assert "sk-1" in caplog.text


def test_a_failure_in_mid_stream_is_an_event(client):
    body = {"question": "a", "where": {"$nonsense": [1]}, "stream": True}
    lines = client.post("/v1/ask", json=body).text.splitlines()
    assert lines[0] == "event: error"
    assert json.loads(lines[1].removeprefix("data: "))["error"]["code"] == 422


def test_the_log_is_json_without_texts_and_keys(server, client):
    query = "a private query"
    reply = client.post("/v1/rerank", json={"query": query, "documents": ["a private passage"], "model": "lex"})
    assert reply.status_code == 200
    until(lambda: any(event.get("request") == reply.headers["X-Request-ID"] for event in server.events))
    (line,) = [event for event in server.events if event.get("request") == reply.headers["X-Request-ID"]]
    assert (line["status"], line["model"], line["passages"], line["result"]) == (200, "lex", 1, "scored")
    assert line["ms"] > 0
    assert not [event for event in server.log if "private" in event or KEY in event or "orange" in event]


def test_sigterm_finishes_what_was_taken_and_ends_well():
    with Process("--model", "m=lexical", "--wait-ms", "1500") as process:
        replies = []
        body = {"query": "rust", "documents": ["sheep", "rust"]}
        asking = threading.Thread(target=lambda: replies.append(post(process.url, body)))
        asking.start()
        head = b"POST /rerank HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 9\r\n"
        assert exchange(process.url, head + b"Content-Type: text/plain\r\n\r\n123456789").startswith(b"HTTP/1.1 415")
        while b'queue_requests{model="m"} 1' not in httpx.get(f"{process.url}/metrics").content:
            pass
        assert process.stop() == 0
        asking.join()
    assert replies[0].json()["results"][0]["index"] == 1
    assert process.events[-1]["event"].startswith("Finished")


def test_log_text_is_there_when_asked():
    with Process("--model", "m=lexical", "--log-text") as process:
        post(process.url, {"query": "a private query", "documents": ["a"]})
        assert process.stop(signal.SIGINT) == 130
    assert any(event.get("query") == "a private query" for event in process.events)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "m=nonsense"], "nonsense"),
        (["--model", "a=lexical", "--model", "a=dense"], "'a'"),
        (["--api-keys", "missing.txt"], "missing.txt"),
        (["--host", "256.0.0.1"], "256.0.0.1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(arguments, said, tmp_path):
    import subprocess
    import sys

    command = [sys.executable, "-m", "rerankit.cli", "serve", "--port", "0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr


@pytest.mark.parametrize("option", ["--body-mb", "--seconds", "--wait-ms"])
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_numbers_are_finite(option, value):
    result = CliRunner().invoke(app, ["serve", option, value])
    assert result.exit_code == 2
    assert option in click.unstyle(result.output)


def test_named_models():
    assert named_models(["fast=dense", "x = default[:5]"]) == {"fast": "dense", "x": "default[:5]"}
    spec = "cross-encoder:org/name[dtype=int8]"
    assert named_models([spec]) == {spec: spec}
    for wrong in (["a="], [""], ["a=dense", "a=lexical"]):
        with pytest.raises(InputError):
            named_models(wrong)


def test_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKIT_API_KEYS", "first-key, second-key first-key")
    assert read_keys(None) == ("first-key", "second-key")
    monkeypatch.delenv("RERANKIT_API_KEYS")
    assert read_keys(None) == ()
    for nothing in ("", ",", " , "):
        monkeypatch.setenv("RERANKIT_API_KEYS", nothing)
        with pytest.raises(InputError, match="RERANKIT_API_KEYS"):
            read_keys(None)
    file = tmp_path / "hash"
    file.write_text("# a comment\nfirst#key-1\n\n")
    assert read_keys(file) == ("first#key-1",)
    for text in ("", "# nothing\n", "short\n", "with space inside\n", "a-good-key # a remark\n"):
        file = tmp_path / "keys"
        file.write_text(text)
        with pytest.raises(InputError):
            read_keys(file)
    assert "first-key" not in repr(Settings(api_keys=("first-key",)))
    keys = Keys(("first-key", "second-key"))
    assert [keys.allow(key) for key in ("second-key", "second-ke", "", None)] == [True, False, False, False]
    assert Keys(()).allow(None)


def test_limits_are_checked():
    for wrong in ({"queue": 0}, {"seconds": math.inf}, {"wait_ms": math.nan}, {"wait_ms": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Limits(**wrong)
