"""A chat endpoint on loopback whose model is a Python function: the judge.

The judge sees the whole prompt as one text and answers with the reply's text, or with a dictionary of first tokens and
their log-probabilities. Its answers are deterministic; everything it was asked is kept.
"""

from __future__ import annotations

import json
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Judge = Callable[[str], "str | Mapping[str, float]"]

WORTH = re.compile(r"worth=(-?\d+(?:\.\d+)?)")


def worths(prompt: str) -> list[float]:
    """The values ``worth=...`` of the passages in a prompt, in order of appearance."""
    return [float(value) for value in WORTH.findall(prompt)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body go out at once, not 40 ms apart
    server: JudgeServer

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = "\n".join(message["content"] for message in body["messages"])
        with self.server.lock:
            number = len(self.server.prompts)
            self.server.prompts.append(prompt)
            self.server.bodies.append(body)
        time.sleep(self.server.delay_s)
        status = self.server.status(number, prompt)
        try:
            if status == 0:  # the server dies under the request
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)  # close() alone waits for the handler's own files
                return
            reply = _completion(self.server, body, prompt) if status == 200 else {"error": {"message": "no"}}
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


def _completion(server: JudgeServer, body, prompt: str):
    said = server.judge(prompt)
    text = said if isinstance(said, str) else max(said, key=lambda token: said[token])
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if body.get("logprobs") and server.logprobs and not isinstance(said, str):
        top = sorted(said.items(), key=lambda item: -item[1])[: body.get("top_logprobs") or 1]
        entries = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in top]
        choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    return {"id": "x", "object": "chat.completion", "model": "judge", "choices": [choice], "usage": usage}


class JudgeServer(ThreadingHTTPServer):
    """``with JudgeServer(judge) as server: ... server.url``.

    Attributes:
        prompts, bodies: what was asked, in order of arrival.
        logprobs: whether the endpoint reports them.
        delay_s: how long each answer takes.
        status: the HTTP status for the n-th request with this prompt; 0 drops the connection.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, judge: Judge, *, logprobs: bool = True, delay_s: float = 0.0):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.judge, self.logprobs, self.delay_s = judge, logprobs, delay_s
        self.status: Callable[[int, str], int] = lambda number, prompt: 200
        self.lock = threading.Lock()
        self.prompts: list[str] = []
        self.bodies: list[dict] = []

    @property
    def url(self) -> str:
        """Base URL with the model's name: what a spec takes."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1#judge"

    def handle_error(self, request, client_address):
        pass

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def prefers(labels: tuple[str, str], margin: float = 1.0) -> Judge:
    """A pairwise judge: the passage of more worth wins; log-probabilities say by how much."""

    def judge(prompt: str) -> Mapping[str, float]:
        first, second = worths(prompt)[:2]
        p = 1 / (1 + math.exp(-margin * max(-30.0, min(30.0, first - second))))
        return {labels[0]: math.log(max(p, 1e-12)), labels[1]: math.log(max(1 - p, 1e-12))}

    return judge
