"""The page about the server is true: its curl commands run, its table of limits is the program's."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import Process

from rerankit.rag.chroma import ChromaRetriever
from rerankit.server import scores
from rerankit.server.settings import Limits
from rerankit.types import Passage

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text("utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [
    command
    for block in BLOCKS
    for command in re.split(r"^\$ ", block, flags=re.MULTILINE)
    if command.startswith("curl ")
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with ChromaRetriever(store) as retriever:
        retriever.index([Passage("maize", "Maize is sown 5 cm deep."), Passage("sheep", "Sheep are shorn in spring.")])
    with Process("--model", "best=default", "--model", "fast=lexical", "--store", store) as process:
        yield process


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_curl_commands_run(server, command):
    arguments = shlex.split(command.replace("\\\n", " ").replace("http://localhost:8787", server.url))
    done = subprocess.run(
        [*arguments, "--fail-with-body", "--noproxy", "*"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "maize" in done.stdout.lower() or "/v1/ask" not in command
    if "/v1/rerank" in command:
        assert json.loads(done.stdout)["results"][0]["document"]["text"] == "Maize is sown 5 cm deep."
    elif "/rerank" in command:
        assert json.loads(done.stdout)[0]["index"] == 1


def test_the_commands_were_found():
    assert len(COMMANDS) == 7


def test_the_limits_are_the_programs():
    limits = Limits()
    told = {name.strip(): value.strip() for name, value in re.findall(r"^\| ([\w ']+) \| ([\d,]+)", PAGE, re.MULTILINE)}
    assert told == {
        "requests waiting per model": str(limits.queue),
        "time for a request": f"{limits.seconds:g}",
        "passages or texts": str(limits.passages),
        "body": str(limits.body_bytes // 2**20),
        "characters": f"{limits.characters:,}",
        "time for the body": f"{limits.body_seconds:g}",
        "nesting of the JSON": str(limits.depth),
        "open connections": str(limits.connections),
    }
    assert f"`--wait-ms` ({limits.wait_ms:g} by default)" in PAGE
    assert f"at most {limits.batch_passages} passages or {limits.batch_characters:,} characters" in PAGE


def test_the_maps_are_the_programs():
    rows = re.findall(r"^\| .* \| (`.*`|the probability) \|$", scores.__doc__.replace("``", "`"), re.MULTILINE)
    assert len(rows) == 5
    assert all(f"| {row} |" in PAGE for row in rows)
