"""What goes wrong with a request, and how each dialect hears of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException

from rerankit.errors import BackendError, InputError, MissingExtraError, RerankitError, StoreError

_KINDS = {
    400: "invalid_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    421: "misdirected",
    422: "validation",
    429: "overloaded",
    500: "internal",
    501: "not_installed",
    502: "backend",
    503: "unavailable",
    504: "timeout",
}


class Problem(HTTPException):
    """An answer that is an error: a status, a message for the caller, and when to come again."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        headers = None if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
        super().__init__(status, message, headers)


class Overloaded(Problem):
    """The queue is full."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(429, "The queue is full; try again later", retry_after_s=retry_after_s)


def problem_of(error: Exception) -> Problem:
    """What a caller may know about ``error``: all about his own input, little about the server's inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputError):
        return Problem(422, str(error))
    if isinstance(error, MissingExtraError):
        return Problem(501, str(error))
    if isinstance(error, BackendError):
        return Problem(502, "The endpoint behind this model failed; the server's log says why")
    if isinstance(error, StoreError):
        return Problem(503, "The store cannot be used; the server's log says why")
    what = "The model failed" if isinstance(error, RerankitError) else "The server failed"
    return Problem(500, f"{what}; the server's log says why")


def describe(errors: Sequence[Mapping[str, Any]]) -> str:
    """Validation errors as one line: where and what, without the caller's text."""
    said = []
    for error in errors[:3]:
        place = ".".join(str(part) for part in error["loc"] if part != "body")
        said.append(f"{place[:100] or 'body'}: {error['msg']}")
    return "; ".join(dict.fromkeys(said))


def error_body(path: str, status: int, message: str, request_id: str) -> dict[str, Any]:
    """The error as the callers of ``path`` expect it.

    Rerank paths: ``message`` (Cohere), ``detail`` (Jina, Voyage), ``error`` and ``error_type`` (TEI) side by side. All
    other paths: OpenAI's ``error`` object.
    """
    kind = _KINDS.get(status, "error")
    if "rerank" in path or path == "/info":
        return {"message": message, "detail": message, "error": message, "error_type": kind, "id": request_id}
    return {"error": {"message": message, "type": kind, "code": status, "param": None}, "id": request_id}
