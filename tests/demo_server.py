"""The app as a process of its own that writes down every address it reaches for outside this machine."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio_client

PATIENCE = 240
"""Seconds for one answer, on a machine that is busy with other things; none of them is spent where all goes well."""

_START = """
import sys

reached = sys.argv[1]

def watch(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host)
    if not host.startswith("127.") and host not in ("localhost", "::1", "None", "0.0.0.0", "::"):
        with open(reached, "a") as log:
            log.write(f"{event} {host}\\n")

sys.addaudithook(watch)
sys.audit("socket.getaddrinfo", "nobody.invalid")  # so that a watch that sees nothing is noticed
sys.argv = ["rerankit", *sys.argv[2:]]
from rerankit.cli import main
main()
"""


@dataclass
class Served:
    """A running app.

    Attributes:
        url: where it is.
        votes: its vote log.
        reached: the file of outside addresses.
    """

    url: str
    votes: Path
    reached: Path

    def outside(self) -> str:
        """Addresses outside this machine that the app reached for."""
        first, *others = self.reached.read_text().splitlines()
        assert first == "socket.getaddrinfo nobody.invalid"
        return "\n".join(others)


@contextlib.contextmanager
def served(folder: Path, options: Sequence[str] = ()) -> Iterator[Served]:
    """Start the app, and end it afterwards."""
    reached, votes, log = (folder / name for name in ("reached.txt", "votes.jsonl", "log.txt"))
    command = [sys.executable, "-c", _START, str(reached), "demo", "--port", "0", "--votes", str(votes), *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    with log.open("wb") as printed:  # a pipe that nobody reads would hold the app up once it is full
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT)
    try:
        yield Served(_address(process, log), votes, reached)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def client(url: str) -> Iterator[gradio_client.Client]:
    """A program that uses the app."""
    made = gradio_client.Client(url, verbose=False, httpx_kwargs={"timeout": PATIENCE})
    try:
        yield made
    finally:
        made.close()


def write_dataset(folder: Path, *, judged: bool = True) -> Path:
    """Four paddocks and a question to each, as a test collection."""
    folder.mkdir()
    crops = ["wheat", "barley", "oats", "canola"]
    passages = [{"id": f"p-{crop}", "text": f"The north paddock grows {crop}, sown in May."} for crop in crops]
    questions = [{"id": f"q-{crop}", "text": f"Where does {crop} grow?", "answers": [crop]} for crop in crops]
    for name, rows in (("corpus", passages), ("queries", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if judged:
        (folder / "qrels.tsv").write_text("".join(f"q-{crop}\tp-{crop}\t1\n" for crop in crops))
    return folder


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    while process.poll() is None:
        if found := re.search(r"^rerankit demo at (\S+)\n", log.read_text(), re.MULTILINE):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"the app did not start:\n{log.read_text()}")
