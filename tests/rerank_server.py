"""A rerank endpoint on loopback that speaks the four dialects, and misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def overlap(query, text):
    """The score: words of the text that are in the query, earlier ones counting a little more."""
    words = text.lower().split()
    return sum(1.0 + 1 / (100 + place) for place, word in enumerate(words) if word in query.lower().split())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RerankServer

    def do_GET(self):
        self.server.gets.append(self.path)
        if self.path == "/info" and self.server.info is not None:
            self.reply(self.server.info)
        else:
            self.reply({"error": "no such page"}, status=404)

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), json.loads(raw)))
            self.server.active += 1
            self.server.most_active = max(self.server.most_active, self.server.active)
            behave = self.server.script.pop(0) if self.server.script else answer
        try:
            time.sleep(self.server.delay(json.loads(raw)))
            behave(self, json.loads(raw), len(raw))
        except OSError:
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.active -= 1

    def reply(self, data, status=200, headers=(), content_type="application/json"):
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in (("Content-Type", content_type), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def results(handler, body):
    """Honest scores in the dialect's own shape, best first, as real servers send them."""
    texts = body.get("documents", body.get("texts"))
    name = "score" if handler.path == "/rerank" else "relevance_score"
    found = [{"index": i, name: overlap(body["query"], text)} for i, text in enumerate(texts)]
    return sorted(found, key=lambda item: -item[name])[: body.get("top_n", body.get("top_k"))]


def shaped(handler, body, found):
    tokens = sum(len(text.split()) for text in body.get("documents", body.get("texts")))
    if handler.path == "/rerank":
        return found
    if "top_k" in body:
        return {"object": "list", "data": found, "model": body["model"], "usage": {"total_tokens": tokens}}
    if handler.path == "/v2/rerank":
        return {"id": "1", "results": found, "meta": {"billed_units": {"search_units": 1}}}
    usage = {"total_tokens": tokens, "prompt_tokens": tokens, "cost": 0.5}
    return {"results": found, "model": body["model"], "usage": usage}


def answer(handler, body, size):
    texts, server = body.get("documents", body.get("texts")), handler.server
    if len(texts) > server.most_passages or size > server.most_bytes:
        handler.reply({"error": f"batch size {len(texts)} > maximum", "error_type": "Validation"}, status=413)
    else:
        handler.reply(shaped(handler, body, server.bend(results(handler, body))))


def refuse(status, message="busy", headers=()):
    return lambda handler, *_: handler.reply({"message": message}, status=status, headers=headers)


def send(body, content_type="application/json"):
    return lambda handler, *_: handler.reply(body, content_type=content_type)


def die(handler, *_):
    """Half an answer, then silence."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"results": [')
    handler.close_connection = True


class RerankServer(ThreadingHTTPServer):
    """Plays a script: one behaviour per request; honest answers once it is empty."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.gets = [], [], []
        self.info = {"model_id": "tiny/model", "max_client_batch_size": 32}
        self.most_passages, self.most_bytes = 10**6, 10**9
        self.bend, self.delay = (lambda found: found), (lambda body: 0.0)
        self.lock, self.active, self.most_active = threading.Lock(), 0, 0
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def handle_error(self, *_):
        pass  # broken connections are the point

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def bodies(self):
        return [body for _, _, body in self.requests]

    @property
    def sizes(self):
        return [len(body.get("documents", body.get("texts"))) for body in self.bodies]
