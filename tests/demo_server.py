"""The app as a process of its own that writes down every address it reaches for outside this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        log: what it printed.
    """

    url: str
    votes: Path
    reached: Path
    log: list[str]

    def outside(self) -> str:
        """Addresses outside this machine that the app reached for."""
        first, *others = self.reached.read_text().splitlines()
        assert first == "socket.getaddrinfo nobody.invalid"
        return "\n".join(others)


@contextlib.contextmanager
def served(folder: Path, options: Sequence[str] = ()) -> Iterator[Served]:
    """Start the app, and end it afterwards."""
    reached, votes = folder / "reached.txt", folder / "votes.jsonl"
    command = [sys.executable, "-c", _START, str(reached), "demo", "--port", "0", "--votes", str(votes), *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    log: list[str] = []
    try:
        yield Served(_address(process, log), votes, reached, log)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _address(process: subprocess.Popen[str], log: list[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        log.append(line)
        if line.startswith("rerankit demo at "):
            return line.split()[-1]
    raise AssertionError("the app did not start:\n" + "".join(log))
