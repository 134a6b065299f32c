"""A Chroma on disk and a ``chroma run`` on loopback, for every framework's whole pipeline."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chromadb
import pytest

from rerankit import Ranking
from rerankit.samples import farm


@dataclass(frozen=True)
class Place:
    """Where a Chroma is."""

    path: Path | None = None
    port: int | None = None

    def client(self) -> Any:
        if self.path is not None:
            return chromadb.PersistentClient(self.path)
        return chromadb.HttpClient("127.0.0.1", self.port)


@pytest.fixture(scope="session")
def server_port(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("chroma")
    folder = tmp_path_factory.mktemp("server")
    command = [program, "run", "--path", folder, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/api/v2/heartbeat", process)
            yield port
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"chroma run does not answer at {url} (exit code {process.poll()})")


@pytest.fixture(scope="module", params=["disk", "server"])
def place(request, tmp_path_factory):
    if request.param == "disk":
        return Place(path=tmp_path_factory.mktemp("disk"))
    return Place(port=request.getfixturevalue("server_port"))


@pytest.fixture(scope="session")
def passages(relevant):
    """Some of the sample corpus: what answers the question, among others."""
    return [item for number, item in enumerate(farm.passages()) if number % 6 == 0 or item.id in relevant]


_QUESTION_ID = "roots-stop"


@pytest.fixture(scope="session")
def question():
    """One of the sample corpus's questions."""
    return next(item.text for item in farm.questions() if item.id == _QUESTION_ID)


@pytest.fixture(scope="session")
def relevant():
    """Ids of the passages that answer it."""
    return {key for key, grade in farm.qrels()[_QUESTION_ID].items() if grade > 0}


@pytest.fixture(scope="module")
def collection(request):
    """A name of its own for every framework: all share the server."""
    return request.module.__name__


@pytest.fixture(scope="session")
def check_records() -> Callable[[list[dict[str, Any]], Ranking], None]:
    """Whether the records in a framework's results are those of ``ranking``."""

    def check(records: list[dict[str, Any]], ranking: Ranking) -> None:
        assert [record["rank"] for record in records] == [hit.rank for hit in ranking]
        assert [record["prior_rank"] for record in records] == [hit.prior_rank for hit in ranking]
        assert [record["score"] for record in records] == pytest.approx([hit.score for hit in ranking], abs=1e-5)
        priors = [hit.prior_score for hit in ranking]
        assert [record["prior_score"] for record in records] == pytest.approx(priors, abs=1e-5)

    return check
