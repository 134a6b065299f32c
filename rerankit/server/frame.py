"""What is done around every request: an id, the key, the time, the count, the log line."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerankit.server.auth import OPEN_PATHS, Keys
from rerankit.server.metrics import Metrics
from rerankit.server.problems import error_body

logger = logging.getLogger(__name__)

_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_PORT = re.compile(r":\d*$")
_NO_KEY = "This server needs an API key, and the one given is not among its keys (Authorization: Bearer KEY)"
_OTHER_HOST = "This server does not go by that name; start it with --allow-host NAME, or with API keys"
_QUIET = frozenset({"/healthz", "/health", "/readyz", "/metrics"})
"""Asked every few seconds by machines: not worth a log line."""


class Frame:
    """ASGI middleware; a request with a wrong key ends here, before its body is read.

    Args:
        app: the application inside.
        keys: who may come in.
        metrics: where answers are counted.
        hosts: the only names, without ports, that a ``Host`` header may hold; none means any.
    """

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics, hosts: Collection[str] = ()) -> None:
        self.app, self.keys, self.metrics = app, keys, metrics
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        asked = headers.get("x-request-id", "")
        state["id"] = asked if _ID.fullmatch(asked) else uuid.uuid4().hex
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = state["id"]
            await send(message)

        try:
            if self.hosts and _PORT.sub("", headers.get("host", "")).lower() not in self.hosts:
                await _refuse(scope, answer, 421, _OTHER_HOST)
            elif scope["path"] in OPEN_PATHS or self.keys.open_for(
                headers.get("authorization"), headers.get("x-api-key")
            ):
                await self.app(scope, receive, answer)
            else:
                await _refuse(scope, answer, 401, _NO_KEY)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")  # the route's, so that callers cannot make up new labels
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        self.metrics.requests.labels(path, method, str(status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        if scope["path"] in _QUIET:
            return
        told: dict[str, Any] = {
            "request": scope["state"]["id"],
            "method": method,
            "path": scope["path"][:200],
            "status": status,
            "ms": round(seconds * 1000, 1),
            **scope["state"].get("log", {}),
        }
        logger.info("request", extra=told)


async def _refuse(scope: Scope, send: Send, status: int, message: str) -> None:
    body = json.dumps(error_body(scope["path"], status, message, scope["state"]["id"])).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *([(b"www-authenticate", b"Bearer")] if status == 401 else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
