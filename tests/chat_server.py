"""A chat endpoint on loopback that behaves as badly as it is told to."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self):
        self.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), self.body))
            self.server.times.append(time.monotonic())
            script = self.server.script
            behaviour = script.pop(0) if len(script) > 1 else script[0]
            self.server.active += 1
            self.server.most_active = max(self.server.most_active, self.server.active)
        try:
            behaviour(self)
        except OSError:
            self.server.disconnected.set()
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.active -= 1

    def reply(self, status=200, body=b"", content_type="application/json", headers=()):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class ChatServer(ThreadingHTTPServer):
    """Plays a script: one behaviour per request, the last one for ever."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Behaviour] = [say("hello")]
        self.requests, self.times = [], []
        self.lock, self.disconnected = threading.Lock(), threading.Event()
        self.active = self.most_active = 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_):
        pass  # broken connections are the point


def completion(text, *, usage=(7, 3), finish_reason="stop"):
    return json.dumps(
        {
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
            ],
            "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]},
        }
    ).encode()


def say(text, *, delay=0.0, **options) -> Behaviour:
    """Answers ``text``, streamed word by word if the request asks for a stream."""

    def behave(handler):
        time.sleep(delay)
        if handler.body.get("stream"):
            stream(*[event(piece) for piece in _pieces(text)], event(None, finish_reason="stop"), "data: [DONE]\n\n")(
                handler
            )
        else:
            handler.reply(body=completion(text, **options))

    return behave


def _pieces(text):
    return [text[i : i + 5] for i in range(0, len(text), 5)]


def event(text, finish_reason=None, **more):
    delta = {} if text is None else {"content": text}
    return f"data: {json.dumps({'choices': [{'delta': delta, 'finish_reason': finish_reason}], **more})}\n\n"


def stream(*chunks, pause=0.0, content_type="text/event-stream") -> Behaviour:
    """Sends raw chunks and closes the connection."""

    def behave(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(chunk.encode() if isinstance(chunk, str) else chunk)
            handler.wfile.flush()
            time.sleep(pause)
        handler.close_connection = True

    return behave


def raw(body, *, status=200, content_type="application/json", headers=()) -> Behaviour:
    return lambda handler: handler.reply(status, body, content_type, headers)


def fail(status, message="no", **headers) -> Behaviour:
    body = json.dumps({"error": {"message": message}}).encode()
    return lambda handler: handler.reply(status, body, headers=[(k.replace("_", "-"), v) for k, v in headers.items()])


def hang(seconds=3.0) -> Behaviour:
    """Says nothing, until the client gives up or time is over."""

    def behave(handler):
        handler.connection.settimeout(seconds)
        try:
            if handler.connection.recv(1) == b"":
                handler.server.disconnected.set()
        except TimeoutError:
            pass
        handler.close_connection = True

    return behave


def reset(handler) -> None:
    """Drops the connection with a TCP reset."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def cut_short(handler) -> None:
    """Promises a long body and stops in the middle."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.close_connection = True


def drip(handler) -> None:
    """Never silent for long, never done."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream" if handler.body.get("stream") else "application/json")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b": wait\n")
        handler.wfile.flush()
        time.sleep(0.03)


def flood(handler) -> None:
    """A body far over any bound."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream" if handler.body.get("stream") else "application/json")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" " * 2**16)
    handler.close_connection = True
