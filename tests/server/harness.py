"""A real server for tests: uvicorn in a thread for rerankers of the test's own, or the command in a process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import uvicorn

from rerankit.server.app import create_app

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def serving(settings):
    """The address of an application that runs in this process."""
    app = create_app(settings)
    config = uvicorn.Config(
        app, http="h11", ws="none", log_config=None, access_log=False, limit_concurrency=settings.limits.connections
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


class Process:
    """``rerankit serve`` as a user starts it."""

    def __init__(self, *arguments, env=None):
        command = [sys.executable, "-m", "rerankit.cli", "serve", "--port", "0", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self.log, self.url = [], None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._ready = threading.Event()
        self._reader.start()
        if not self._ready.wait(120) or not self.url:
            self.process.kill()
            raise AssertionError("".join(self.log))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"serving .* at (http://[^\"]+)", line):
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    @property
    def events(self):
        return [json.loads(line) for line in self.log]

    def stop(self, how=signal.SIGTERM):
        """Ask it to end; its exit status."""
        self.process.send_signal(how)
        status = self.process.wait(30)
        self._reader.join(10)
        self.process.stderr.close()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()


CLIENT = httpx.Client(timeout=30, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
"""Shared, since making one takes longer than most requests; each request has a connection of its own."""


def post(url, body, path="/v1/rerank", **options):
    return CLIENT.post(url + path, json=body, **options)


def until(condition, seconds=10.0):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def exchange(url, data, *, timeout=10.0, close=True):
    """Send bytes as they are; everything that comes back."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
            if close:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(65536):
                received += block
        return received
