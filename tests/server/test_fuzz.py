"""Whatever comes in, the server answers within its own description of itself, never with a 500, and lives on."""

from __future__ import annotations

import json
import random
import socket

import pytest
import schemathesis
from families import WordOverlap
from harness import CLIENT, exchange, post, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from rerankit.server.app import create_app
from rerankit.server.settings import Limits, Settings

LIMITS = Limits(body_bytes=200_000, passages=100, characters=100_000, body_seconds=2.0)


@pytest.fixture(scope="module")
def server():
    with serving(Settings(models={"m": WordOverlap()}, limits=LIMITS)) as (url, _):
        yield url
        reply = post(url, {"query": "b", "documents": ["a", "b"]})  # whatever was done to it
        assert [result["index"] for result in reply.json()["results"]] == [1, 0]


schema = schemathesis.openapi.from_dict(create_app(Settings(models={"m": "none"})).openapi())


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
def test_the_description_holds(server, case):
    reply = case.call(base_url=server)
    checks = [response_schema_conformance, content_type_conformance]
    if reply.status_code == 503:  # a deadline too near for the model to begin
        assert "retry-after" in reply.headers
    else:
        checks.append(not_a_server_error)
    case.validate_response(reply, checks=checks)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)
names = st.sampled_from(["query", "documents", "texts", "model", "top_n", "rank_fields", "deadline_s", "input", "text"])


@given(st.dictionaries(names, json_values), st.sampled_from(["/rerank", "/v2/rerank", "/v1/embeddings"]))
@settings(max_examples=100)
def test_any_json_is_answered(server, body, path):
    headers = {"Content-Type": "application/json"}
    content = json.dumps(body)
    reply = CLIENT.post(server + path, content=content, headers=headers)
    assert reply.status_code in (200, 400, 404, 413, 422)
    assert reply.json()


@given(st.binary(max_size=300))
@settings(max_examples=100)
def test_any_bytes_are_answered(server, body):
    reply = CLIENT.post(server + "/rerank", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (400, 422)


def test_mutilated_requests_do_not_bring_it_down(server):
    body = json.dumps({"query": "a", "documents": ["b", "c"]}).encode()
    head = b"POST /rerank HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    rng = random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        answer = exchange(server, bytes(data[: rng.randint(1, len(data))]))
        assert b"HTTP/1.1 500" not in answer
        assert b"Traceback" not in answer


def test_dropped_connections_do_not_bring_it_down(server):
    host, port = server.removeprefix("http://").split(":")
    body = json.dumps({"query": "a", "documents": ["b"] * 50}).encode()
    whole = b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    rng = random.Random(1)
    for _ in range(100):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall((whole + body)[: rng.randint(0, len(whole + body))])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not a farewell
    assert post(server, {"query": "b", "documents": ["a", "b"]}).json()["results"][0]["index"] == 1
