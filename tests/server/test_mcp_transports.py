"""``rerankit mcp`` as a program: an agent's own client over standard input and output, and over streamable HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys

import httpx
import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

import rerankit
from rerankit.types import Passage

KEY = "a-long-enough-key"
COMMAND = [sys.executable, "-m", "rerankit.cli", "mcp"]
LEXICAL = ("--rerank", "light=lexical", "--rerank", "none")
TEXTS = ["sheep are shorn", "leaf rust", "rust on wheat leaf", "wheat"]
BOTH = "application/json, text/event-stream"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if name != "RERANKIT_API_KEYS"}
    return {**clean, "HF_HUB_OFFLINE": "1", **more}


async def order(client, query="rust on wheat", texts=TEXTS):
    result = await client.call_tool("rerank", {"query": query, "passages": texts})
    assert not result.is_error, result.content[0].text
    return [hit["index"] for hit in result.structured_content["hits"]]


def expected(query="rust on wheat", texts=TEXTS):
    return [hit.prior_rank - 1 for hit in rerankit.load("lexical").rank(query, texts)]


async def test_stdio_with_a_store(tmp_path):
    with rerankit.ChromaRetriever(tmp_path) as retriever:
        retriever.index([Passage("rust", "Leaf rust shows as orange pustules."), Passage("wool", "Sheep are shorn.")])
    server = StdioServerParameters(
        command=COMMAND[0], args=[*COMMAND[1:], "--store", str(tmp_path), *LEXICAL], env=environment()
    )
    async with Client(server) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"rerank", "search", "ask", "compare"}
        assert await order(client) == expected()
        found = (await client.call_tool("search", {"question": "orange pustules"})).structured_content
        assert [hit["id"] for hit in found["hits"]] == ["rust", "wool"]
        answer = (await client.call_tool("ask", {"question": "What shows as orange pustules?"})).structured_content
        assert answer["citations"][0]["passage_id"] == "rust"
        assert (await client.call_tool("rerank", {"query": "", "passages": []})).is_error
        collections = json.loads((await client.read_resource("rerankit://collections")).contents[0].text)
        assert [item["count"] for item in collections["collections"]] == [2]


def test_stdout_carries_the_protocol_and_nothing_else():
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    lines = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
         "params": {"name": "rerank", "arguments": {"query": "wheat", "passages": TEXTS}}},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call",
         "params": {"name": "rerank", "arguments": {"query": "", "passages": ["a"]}}},
    ]  # fmt: skip
    process = subprocess.Popen(
        [*COMMAND, *LEXICAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    with process:
        process.stdin.write("not json\n" + "\n".join(map(json.dumps, lines)) + "\n")
        process.stdin.flush()
        replies = []
        while {0, 1, 2} - {reply.get("id") for reply in replies}:
            replies.append(json.loads(process.stdout.readline()))
        process.stdin.close()
        assert process.wait(20) == 0  # the agent has gone
        assert process.stdout.read() == ""
    by_id = {reply.get("id"): reply for reply in replies}
    assert by_id[1]["result"]["structuredContent"]["hits"]
    assert by_id[2]["result"]["isError"] is True


def test_an_interrupt_ends_it_at_once():
    process = subprocess.Popen([*COMMAND, *LEXICAL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment())
    with process:
        process.stdin.write(json.dumps(PING).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130  # though standard input is still open


@contextlib.contextmanager
def serving(*arguments, **env):
    process = subprocess.Popen(
        [*COMMAND, "--http", "--port", "0", *LEXICAL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(**env),
    )  # fmt: skip
    with process:
        try:
            line = process.stderr.readline()
            assert line.startswith("Serving MCP at http://127.0.0.1:"), line + process.stderr.read()
            yield line.split()[-1]
        finally:
            process.terminate()
            process.communicate(timeout=20)
    assert process.returncode == 0


def answered(url, **options):
    """The socket listens before the program reads from it, so a request simply waits its turn."""
    return httpx.post(url, json=PING, timeout=30, **options)


async def test_http_serves_two_clients_at_once():
    with serving() as url:
        async with Client(url) as one, Client(url) as two:
            words = ["wheat", "rust", "leaf", "sheep"]
            jobs = [order((one, two)[i % 2], word) for i, word in enumerate(words * 3)]
            assert await asyncio.gather(*jobs) == [expected(word) for word in words * 3]


def test_http_refuses_other_hosts_origins_and_huge_bodies():
    with serving() as url:
        accept = {"Accept": "application/json, text/event-stream"}
        assert answered(url, headers={**accept, "Host": "evil.example"}).status_code == 421
        assert answered(url, headers={**accept, "Origin": "http://evil.example"}).status_code == 403
        huge = httpx.post(url, content=b"[" * (5 * 2**20), headers={**accept, "Content-Type": "application/json"})
        assert huge.status_code == 413
        for body in (b"not json", b"[" * 10_000, b"\xff", b"{}", b"null"):
            reply = httpx.post(url, content=body, headers={**accept, "Content-Type": "application/json"})
            assert 400 <= reply.status_code < 500
        assert httpx.get(url.replace("/mcp", "/")).status_code == 404


async def test_http_with_a_key_opens_to_that_key_only():
    with serving(RERANKIT_API_KEYS=KEY) as url:
        for headers in (
            {},
            {"Authorization": "Bearer wrong-key"},
            {"Authorization": f"Bearer {KEY}x"},
            {"X-API-Key": ""},
        ):
            refused = answered(url, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        behind_proxy = {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": KEY, "Accept": BOTH}
        assert answered(url, headers=behind_proxy).status_code != 401
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert await order(client) == expected()


def test_a_session_belongs_to_the_key_that_began_it():
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
    accept = {"Accept": "application/json, text/event-stream"}
    with serving(RERANKIT_API_KEYS=f"{KEY},another-long-key") as url:
        mine = {**accept, "Authorization": f"Bearer {KEY}"}
        opened = httpx.post(url, json=opening, headers=mine, timeout=30)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        assert answered(url, headers={**mine, **session}).status_code == 200
        assert answered(url, headers={**accept, "X-API-Key": KEY, **session}).status_code == 200
        theirs = {**accept, "Authorization": "Bearer another-long-key", **session}
        assert answered(url, headers=theirs).status_code == 404


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--http", "--host", "0.0.0.0"], "can be reached from other machines"),
        (["--rerank", "lexicl"], "lexicl"),
        (["--rerank", "a=lexical", "--rerank", "a=none"], "Two models have the name 'a'"),
        (["--llm", "nonsense"], "base_url#model"),
        (["--store", __file__], "is a file"),
        (["--store", "/nonexistent/x"], "There is no Chroma store"),
        (["--rerank", "remote:http://h#m[dialect=tei,api_kee=k]"], "did you mean 'api_key'"),
    ],
)
def test_a_wrong_start_is_one_line(arguments, message):
    done = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=environment(), timeout=60, input=""
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
