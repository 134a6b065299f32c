"""Logs as JSON lines on stderr: one per request, one per event; no caller's text unless it is asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

_OWN = ("uvicorn", "rerankit.server")
"""Loggers whose messages are known to hold no query and no passage."""
_FIELDS = ("request", "method", "path", "status", "ms", "model", "passages", "result", "query", "texts")


class JsonFormatter(logging.Formatter):
    """One JSON object per record.

    Args:
        log_text: also format what may quote a caller: messages of the library's other parts, and exceptions. Without
            it, of these only the constant part is written: the message's template, the exception's type and place.
    """

    def __init__(self, *, log_text: bool) -> None:
        super().__init__()
        self.log_text = log_text

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        known = self.log_text or record.name.startswith(_OWN)
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage() if known else str(record.msg),
        }
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = self._error(record.exc_info[1])
        return json.dumps(line, default=str)

    def _error(self, error: BaseException) -> dict[str, Any]:
        frames = traceback.extract_tb(error.__traceback__)
        told: dict[str, Any] = {
            "type": type(error).__name__,
            "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-5:]],
        }
        return told | ({"message": str(error)} if self.log_text else {})


def log_as_json(*, log_text: bool) -> None:
    """Send what rerankit and uvicorn log, from INFO on, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(log_text=log_text))
    for name in ("rerankit", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        if logger.level == logging.NOTSET or logger.level > logging.INFO:
            logger.setLevel(logging.INFO)
