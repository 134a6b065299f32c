"""Run the application with uvicorn until it is told to stop, and then finish what it took."""

from __future__ import annotations

import dataclasses
import logging
import signal
import socket
import sys
from typing import Any

from rerankit.errors import InputError, require
from rerankit.server.logs import log_as_json
from rerankit.server.settings import Settings
from rerankit.server.waiting import GRACE_S

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def run(settings: Settings, *, host: str, port: int) -> None:
    """Serve on ``host:port``; port 0 takes a free one, which the log tells.

    A server for this machine alone, without keys, answers to this machine's names and ``settings.hosts`` only, so
    that a web page cannot reach it through a browser under a name of its own (DNS rebinding).

    SIGTERM and SIGINT close the door, let the requests inside end, and return.

    Raises:
        RerankitError: a model cannot be had, or the address is taken.
    """
    uvicorn = require("uvicorn", extra="server", purpose="Serving")
    from rerankit.server.app import create_app

    listener = _listen(host, port)
    is_loopback = _is_loopback(host)
    is_checked = not settings.api_keys and (is_loopback or settings.hosts)
    settings = dataclasses.replace(settings, hosts=(*_LOOPBACK, host, *settings.hosts) if is_checked else ())
    app = create_app(settings)
    listener.listen(_BACKLOG)  # from here on a caller waits and is not turned away
    log_as_json(log_text=settings.log_text)
    if not settings.api_keys and not is_loopback:
        logger.warning("open to the network without an API key; set RERANKIT_API_KEYS or --api-keys")
    logger.info("serving %s at http://%s:%d", ", ".join(settings.models), *listener.getsockname()[:2])
    # uvicorn raises the signal again when all is done; by then it means nothing but the end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listener:
        uvicorn.Server(_config(uvicorn, app, settings)).run(sockets=[listener])


def _config(uvicorn: Any, app: Any, settings: Settings) -> Any:
    return uvicorn.Config(
        app,
        http="h11",  # bounds the size of headers
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=settings.limits.connections,
        timeout_graceful_shutdown=int(settings.limits.seconds + settings.limits.body_seconds + GRACE_S),
    )


def _listen(host: str, port: int) -> socket.socket:
    """Taken before the models are loaded, so that an address in use is noticed at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"Cannot serve at {host}:{port}: {error}") from error
    return listener


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
