"""The HTTP application over a real socket: dialects, limits, keys, callers who go away, metrics, logs."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import logging
import threading
import time

import httpx
import numpy as np
import pytest
from families import Broken, WordOverlap
from harness import CLIENT, exchange, post, serving, until
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import BackendError, ModelError
from rerankit.server.logs import JsonFormatter
from rerankit.server.settings import Limits, Settings

KEY = "a-key-of-the-tests"
TEXTS = ["Sheep are shorn in spring", "leaf rust on wheat", "wheat is sown in autumn"]
QUERY = "rust on wheat"
ORDER = [1, 2, 0]  # by words shared with the query


class Gated(WordOverlap):
    """Works only while its gate is open; a passage may poison it."""

    def __init__(self):
        super().__init__()
        self.gate, self.queries = threading.Event(), []
        self.gate.set()

    def score_lists(self, requests, call):
        self.gate.wait(20)
        self.queries += [request.query for request in requests]
        if any("poison" in passage.text for request in requests for passage in request.passages):
            raise ModelError("poison: the secret of the server")
        return super().score_lists(requests, call)


def failing(error):
    return Broken(lambda request, call: error)


@pytest.fixture(scope="module")
def gated():
    return Gated()


@pytest.fixture(scope="module")
def server(gated):
    models = {
        "overlap": gated,
        "slow": WordOverlap(delay=0.02),
        "broken": failing(ModelError("the secret of the server")),
        "away": failing(BackendError("the secret of the server", endpoint="http://secret")),
    }
    limits = Limits(body_bytes=100_000, passages=100, characters=50_000, queue=8, seconds=10.0, body_seconds=1.0)
    with serving(Settings(models=models, limits=limits)) as (url, _):
        yield url


@pytest.fixture(scope="module")
def locked():
    with serving(Settings(models={"m": Gated()}, api_keys=("another-key", KEY))) as (url, app):
        yield url, app


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking"])
def test_every_path_speaks_every_dialect(server, path):
    reply = post(server, {"model": "overlap", "query": QUERY, "documents": TEXTS}, path)
    assert reply.status_code == 200
    body = reply.json()
    assert [result["index"] for result in body["results"]] == ORDER
    assert body["data"] == body["results"]
    assert body["object"] == "rerank"
    assert body["model"] == "overlap"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > 0
    assert body["meta"]["api_version"] == {"version": "2"}
    assert body["id"] == reply.headers["X-Request-ID"]
    bare = post(server, {"query": QUERY, "texts": TEXTS}, path).json()
    assert [hit["index"] for hit in bare] == ORDER
    assert bare[0].keys() == {"index", "score"}


def test_texts_with_a_model_get_the_object():
    """Dify can be told to send its documents as texts."""
    with serving(Settings(models={"m": WordOverlap()})) as (url, _):
        assert post(url, {"model": "m", "query": QUERY, "texts": TEXTS}).json()["results"][0]["index"] == 1


@pytest.mark.parametrize("field", ["top_n", "top_k"])
@pytest.mark.parametrize(("asked", "count"), [(0, 3), (None, 3), (1, 1), (2, 2), (99, 3)])
def test_how_many(server, field, asked, count):
    assert len(post(server, {"query": QUERY, "documents": TEXTS, field: asked}).json()["results"]) == count
    assert len(post(server, {"query": QUERY, "texts": TEXTS, field: asked}).json()) == count


def test_documents_come_back_as_they_were_given(server):
    documents = ["wheat", {"text": "rust", "title": "Leaf", "year": 2020}]
    results = post(server, {"query": "rust leaf", "documents": documents, "return_documents": True}).json()["results"]
    assert [result["document"] for result in results] == [documents[1], {"text": "wheat"}]
    assert post(server, {"query": QUERY, "texts": TEXTS, "return_text": True}).json()[0]["text"] == TEXTS[1]


def test_rank_fields_choose_what_is_read(server):
    documents = [{"text": "rust", "crop": "barley"}, {"text": "mould", "crop": "wheat"}]
    by = {
        fields: post(server, {"query": "wheat rust", "documents": documents, "rank_fields": [fields]}).json()
        for fields in ("text", "crop")
    }
    assert [by[name]["results"][0]["index"] for name in ("text", "crop")] == [0, 1]


def test_a_field_that_is_named_often_is_read_once(server):
    document = {"text": "wheat " * 1000}
    body = {"query": "wheat", "documents": [document], "rank_fields": ["text"] * 100, "raw_scores": True}
    assert post(server, body).json()["results"][0]["relevance_score"] == 1000


def test_raw_scores_are_the_rerankers_own(server):
    raw = post(server, {"query": QUERY, "texts": TEXTS, "raw_scores": True}).json()
    assert [hit["score"] for hit in raw] == [3.0, 1.0, 0.0]
    squashed = post(server, {"query": QUERY, "texts": TEXTS}).json()
    assert all(0 <= hit["score"] <= 1 for hit in squashed)


@given(st.lists(st.sampled_from(["", "  ", "wheat", "rust rust", "sheep", "\ud800", "é\u0000"]), max_size=12))
@settings(max_examples=30)
def test_the_answer_is_the_offline_ranking(server, texts):
    body = json.dumps({"query": QUERY, "documents": texts, "raw_scores": True})
    headers = {"Content-Type": "application/json"}
    results = CLIENT.post(f"{server}/rerank", content=body, headers=headers).json()["results"]
    offline = WordOverlap().rank(QUERY, [text.replace("\ud800", "\ufffd") for text in texts])
    assert [result["index"] for result in results] == [hit.prior_rank - 1 for hit in offline]
    assert [result["relevance_score"] for result in results] == [hit.score or 0.0 for hit in offline]
    assert [result.get("status") == "unscored" for result in results] == [hit.status == "unscored" for hit in offline]


WRONG = [
    (422, b"", "body: Field required"),
    (400, b"{", "not JSON"),
    (400, b'{"query": "\xff"}', "UTF-8"),
    (400, b'{"query": "a", "documents": ["a"], "top_n": NaN}', "NaN"),
    (400, b'{"query": "a", "documents": ["a"], "top_n": ' + b"9" * 6000 + b"}", "not JSON"),
    (400, b"[" * 200 + b"]" * 200, "nested"),
    (400, b"[" * 40_000, "nested"),
    (400, b'{"a":' * 15_000, "nested"),
    (422, b"[]", "object"),
    (422, b'"text"', "object"),
    (422, b"{}", "query"),
    (422, b'{"query": "a"}', "documents"),
    (422, b'{"query": "a", "documents": ["a"], "texts": ["a"]}', "documents"),
    (422, b'{"query": " \\n", "documents": ["a"]}', "empty"),
    (422, b'{"query": 1, "documents": ["a"]}', "query"),
    (422, b'{"query": "a", "documents": "abc"}', "documents"),
    (422, b'{"query": "a", "documents": [null]}', "documents.0"),
    (422, b'{"query": "a", "documents": ["b", {"image": "http://x"}]}', "documents.1"),
    (422, b'{"query": "a", "texts": [' + b"1," * 20_000 + b"1]}", "texts.0"),
    (422, b'{"query": "a", "documents": ["a"], "top_n": -1}', "top_n"),
    (422, b'{"query": "a", "documents": ["a"], "top_n": "3"}', "top_n"),
    (400, b'{"query": "a", "documents": ["a"], "top_n": 1e999}', "1e999"),
    (400, b'{"query": "a", "documents": [{"text": "a", "n": [-1e999]}]}', "-1e999"),
    (422, b'{"query": "a", "documents": ["a"], "deadline_s": ' + b"9" * 400 + b"}", "deadline_s"),
    (422, b'{"query": "a", "documents": ["a"], "rank_fields": [' + b'"a",' * 100 + b'"a"]}', "rank_fields"),
    (413, b'{"query": "a", "documents": [{"a": "' + b"a" * 50_001 + b'"}], "rank_fields": ["a"]}', "characters"),
    (422, b'{"query": "a", "documents": ["a"], "deadline_s": 0}', "deadline_s"),
    (404, b'{"query": "a", "documents": ["a"], "model": "other"}', "'overlap'"),
    (413, b'{"query": "a", "documents": [' + b'"a",' * 100 + b'"a"]}', "101 documents"),
    (413, b'{"query": "a", "documents": ["' + b"a" * 60_000 + b'"]}', "characters"),
    (413, b'{"query": "a", "documents": ["' + b"a" * 200_000 + b'"]}', "bytes"),
]


@pytest.mark.parametrize(("status", "body", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said(server, status, body, said):
    reply = CLIENT.post(f"{server}/v2/rerank", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status, reply.text
    error = reply.json()
    assert said in error["message"]
    assert error["message"] == error["detail"] == error["error"]
    assert error["error_type"]
    assert len(reply.content) < 2000


def test_other_content_types_are_refused(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        reply = CLIENT.post(f"{server}/rerank", content=b"{}", headers={"Content-Type": kind})
        assert reply.status_code == 415


def test_unknown_places(server):
    reply = CLIENT.get(f"{server}/v1/nothing")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, 404)
    assert CLIENT.get(f"{server}/v1/rerank").status_code == 405
    assert CLIENT.post(f"{server}/v1/ask", json={"question": "x"}).status_code == 404


@pytest.mark.parametrize(("model", "status"), [("broken", 500), ("away", 502)])
def test_a_failing_model_keeps_the_servers_secrets(server, model, status):
    reply = post(server, {"model": model, "query": QUERY, "documents": TEXTS})
    assert reply.status_code == status
    assert "secret" not in reply.text
    assert reply.json()["id"] == reply.headers["X-Request-ID"]


def test_a_deadline_gives_what_is_scored_and_marks_the_rest(server):
    texts = [f"wheat {i}" for i in range(100)]
    body = {"model": "slow", "query": "wheat", "documents": texts, "deadline_s": 0.4}
    reply = post(server, body)
    found = reply.json()
    assert reply.headers["X-Rerankit-Status"] == found["status"] == "partial"
    assert found["reason"]
    marks = [result.get("status") for result in found["results"]]
    assert len(marks) == 100
    assert 0 < marks.count(None) < 100
    assert marks == sorted(marks, key=lambda mark: mark is not None)
    assert found["results"][-1]["relevance_score"] == 0.0


def test_concurrent_callers_get_their_own(server):
    def ask(number):
        body = {"query": f"word{number}", "documents": [f"word{i}" for i in range(20)], "raw_scores": True}
        while (reply := post(server, body)).status_code == 429:
            time.sleep(0.02)
        return reply.json()["results"][0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for number, best in enumerate(pool.map(ask, range(20))):
            assert best == {"index": number, "relevance_score": 1.0}


def test_a_full_queue_answers_429_and_recovers(server, gated):
    gated.gate.clear()
    try:
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            futures = [pool.submit(post, server, {"query": QUERY, "documents": TEXTS}) for _ in range(24)]
            until(lambda: sum(future.done() for future in futures) >= 24 - 8 - 8)
            assert CLIENT.get(f"{server}/readyz").status_code == 503
            assert CLIENT.get(f"{server}/healthz").status_code == 200
            gated.gate.set()
            replies = [future.result() for future in futures]
    finally:
        gated.gate.set()
    assert {reply.status_code for reply in replies} == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert int(reply.headers["Retry-After"]) >= 1
            assert reply.json()["error_type"] == "overloaded"
        else:
            assert [result["index"] for result in reply.json()["results"]] == ORDER
    assert post(server, {"query": QUERY, "documents": TEXTS}).status_code == 200
    assert CLIENT.get(f"{server}/readyz").status_code == 200


def test_poison_and_broken_connections_do_not_disturb_neighbours(server, gated):
    gated.gate.clear()
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            first = pool.submit(post, server, {"query": "first", "documents": ["first"]})
            until(lambda: b'queue_requests{model="overlap"} 0' in CLIENT.get(f"{server}/metrics").content)
            poison = pool.submit(post, server, {"query": "poisoned", "documents": ["poison"]})
            good = [pool.submit(post, server, {"query": QUERY, "documents": TEXTS}) for _ in range(3)]
            body = {"query": "nobody waits", "documents": ["a"]}
            with pytest.raises(httpx.TimeoutException):
                CLIENT.post(f"{server}/rerank", json=body, timeout=0.3)
            until(lambda: b"disconnects_total 1" in CLIENT.get(f"{server}/metrics").content)
            gated.gate.set()
            assert first.result().status_code == 200
            assert poison.result().status_code == 500
            assert "secret" not in poison.result().text
            for reply in [future.result() for future in good]:
                assert [result["index"] for result in reply.json()["results"]] == ORDER
    finally:
        gated.gate.set()
    assert "nobody waits" not in gated.queries


def test_slow_and_broken_bodies(server):
    head = b"POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    slow = exchange(server, head + b"Content-Length: 50\r\n\r\n{", close=False)
    assert slow.startswith(b"HTTP/1.1 408")
    exchange(server, head + b"Content-Length: 50\r\n\r\n{")
    chunked = exchange(
        server, head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"fff0\r\n" + b" " * 0xFFF0 + b"\r\n") * 3
    )
    assert chunked.startswith(b"HTTP/1.1 413")
    declared = exchange(server, head + b"Content-Length: 99999999999\r\n\r\n", close=False)
    assert declared.startswith(b"HTTP/1.1 413")
    assert exchange(server, b"\x16\x03\x01nonsense\r\n\r\n").startswith((b"HTTP/1.1 400", b""))
    assert exchange(server, b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000).startswith((b"HTTP/1.1 4", b""))
    assert post(server, {"query": QUERY, "documents": TEXTS}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong-key"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"X-API-Key": KEY[:-1]},
    ],
)
def test_a_wrong_key_never_reaches_a_model(locked, headers):
    url, app = locked
    for path in ("/v1/rerank", "/v1/models", "/metrics", "/v1/embeddings", "/nowhere"):
        reply = CLIENT.post(url + path, json={"query": QUERY, "documents": TEXTS}, headers=headers)
        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    huge = exchange(
        url, b"POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n", close=False
    )
    assert huge.startswith(b"HTTP/1.1 401")  # not a byte of the body was waited for
    assert app.state.batchers["m"].reranker.queries == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": KEY},
        {"X-API-Key": KEY},
        {"X-API-Key": KEY, "Authorization": "Basic of-a-proxy"},
        {"X-API-Key": "of-a-proxy", "Authorization": f"Bearer {KEY}"},
    ],
)
def test_a_right_key_does(headers):
    with serving(Settings(models={"m": WordOverlap()}, api_keys=("another-key", KEY))) as (url, _):
        assert post(url, {"query": QUERY, "documents": TEXTS}, headers=headers).status_code == 200
        assert CLIENT.get(f"{url}/healthz").status_code == 200


def test_only_the_servers_own_names_when_it_has_names():
    own = ("localhost", "127.0.0.1", "[::1]", "rank.example")
    with serving(Settings(models={"m": WordOverlap()}, hosts=own)) as (url, _):
        body = {"query": QUERY, "documents": TEXTS}
        for host in (*own, "localhost:99", "[::1]:8787", "RANK.example:1"):
            assert post(url, body, headers={"Host": host}).status_code == 200
        for host in ("attacker.example", "localhost.attacker.example:8787", "127.0.0.1@x", ""):
            reply = post(url, body, headers={"Host": host})
            assert reply.status_code == 421
            assert reply.json()["error_type"] == "misdirected"


class SlowEncoder:
    """Stands in for the embedder: a slice ends when the gate is open."""

    model_id, dim = "slow", 2

    def __init__(self):
        self.texts, self.gate = [], threading.Event()

    def encode(self, texts, *, kind, meter):
        self.texts += texts
        assert self.gate.wait(20)
        return np.zeros((len(texts), 2), np.float32)


def test_embeddings_that_nobody_waits_for_stop_and_callers_take_turns(monkeypatch):
    slow = SlowEncoder()
    monkeypatch.setattr("rerankit.models.embedded.embedder", lambda: slow)
    with (
        serving(Settings(models={"m": WordOverlap()})) as (url, _),
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        with pytest.raises(httpx.TimeoutException):
            CLIENT.post(f"{url}/v1/embeddings", json={"input": ["lost"] * 1000}, timeout=0.5)
        until(lambda: b"disconnects_total 1" in CLIENT.get(f"{url}/metrics").content)
        long = pool.submit(post, url, {"input": ["long"] * 100}, "/v1/embeddings")
        time.sleep(0.1)
        short = pool.submit(post, url, {"input": "short"}, "/v1/embeddings")
        time.sleep(0.1)
        slow.gate.set()
        assert (len(long.result().json()["data"]), len(short.result().json()["data"])) == (100, 1)
    assert slow.texts.count("lost") == 16
    assert slow.texts.index("short") < len(slow.texts) - 1


def test_what_an_operator_sees(server):
    models = CLIENT.get(f"{server}/v1/models").json()["data"]
    assert [row["id"] for row in models] == ["overlap", "slow", "broken", "away"]
    info = CLIENT.get(f"{server}/info").json()
    assert (info["model_id"], info["max_client_batch_size"]) == ("overlap", 100)
    post(server, {"query": QUERY, "documents": TEXTS})
    metrics = CLIENT.get(f"{server}/metrics").text
    for name in ("rerankit_requests_total{", "rerankit_batch_requests_bucket{", "rerankit_passages_total{model="):
        assert name in metrics
    CLIENT.get(f"{server}/made/up/{'x' * 50}")
    assert "made/up" not in CLIENT.get(f"{server}/metrics").text


def test_the_docs_page_needs_nothing_from_elsewhere(server):
    page = CLIENT.get(f"{server}/docs")
    assert "/v1/rerank" in page.text
    assert "http" not in page.text.replace("openapi.json", "").lower().split("<h1>")[0]
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert CLIENT.get(f"{server}/openapi.json").json()["openapi"].startswith("3.")


def test_logs_hold_no_text_unless_asked():
    record = logging.makeLogRecord(
        {"name": "rerankit.rerankers.base", "msg": "%s failed: %s", "args": ("m", "query 'private'"), "levelname": "X"}
    )
    try:
        raise ModelError("query 'private'")
    except ModelError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    quiet, full = (JsonFormatter(log_text=wanted).format(record) for wanted in (False, True))
    assert "private" not in quiet
    assert json.loads(quiet)["error"]["type"] == "ModelError"
    assert json.loads(full)["event"] == "m failed: query 'private'"


def test_embeddings_in_openais_shape(server):
    from rerankit.models.embedded import embedder

    texts = ["wheat rust", "sheep"]
    expected = embedder().encode(texts)
    plain, packed = (
        post(server, {"input": texts, "encoding_format": form}, "/v1/embeddings").json() for form in ("float", "base64")
    )
    rows = np.array([row["embedding"] for row in plain["data"]], np.float32)
    assert plain["model"] == embedder().model_id
    assert np.allclose(rows, expected, atol=1e-5)
    decoded = [np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed["data"]]
    assert np.allclose(decoded, rows, atol=1e-6)
    assert [row["index"] for row in plain["data"]] == [0, 1]
    assert plain["usage"]["prompt_tokens"] > 0
    assert len(post(server, {"input": "one"}, "/v1/embeddings").json()["data"]) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input": []}, 422),
        ({"input": [[1, 2, 3]]}, 422),
        ({"input": [1] * 30_000}, 422),
        ({"input": "a", "model": "other"}, 404),
        ({"input": "a", "dimensions": 7}, 422),
        ({"input": ["a"] * 101}, 413),
        ({"input": "a" * 60_000}, 413),
    ],
)
def test_wrong_embedding_requests(server, body, status):
    reply = post(server, body, "/v1/embeddings")
    assert reply.status_code == status
    assert reply.json()["error"]["message"]
    assert len(reply.content) < 1000
