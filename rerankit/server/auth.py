"""API keys: read once, kept as digests, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Iterable
from pathlib import Path

from rerankit.errors import InputError

VARIABLE = "RERANKIT_API_KEYS"
SHORTEST = 8
OPEN_PATHS = frozenset({"/healthz", "/health", "/readyz", "/docs", "/openapi.json"})
"""Answered without a key: they tell nothing about models or callers."""


class Keys:
    """The keys that open a server; without any it is open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def allow(self, key: str | None) -> bool:
        """Whether ``key`` is one of them. Every one is compared, so the time says nothing about which, or how near."""
        if not self._digests:
            return True
        given = _digest(key or "")
        matches = [hmac.compare_digest(given, known) for known in self._digests]
        return any(matches) and key is not None

    def given(self, authorization: str | None, api_key: str | None) -> str | None:
        """The one that a request holds: ``Authorization: Bearer KEY`` (or the bare key), or ``X-API-Key: KEY``.

        A proxy may use the other header for its own ends, so each is tried.
        """
        bare = (authorization or "").strip()
        scheme, _, rest = bare.partition(" ")
        keys = (rest.strip() if scheme.lower() == "bearer" else bare, (api_key or "").strip())
        return next((key for key in keys if self and self.allow(key)), None)

    def open_for(self, authorization: str | None, api_key: str | None) -> bool:
        """Whether a request may come in."""
        return not self or self.given(authorization, api_key) is not None


def read_keys(file: Path | None) -> tuple[str, ...]:
    """Keys from a file (one per line; lines that begin with ``#`` are comments), else from ``RERANKIT_API_KEYS``.

    Raises:
        InputError: the file cannot be read, file or variable are there and hold no key, or a key is too short to be
            one.
    """
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The file of API keys {file} cannot be read: {error}") from error
        keys = [line.strip() for line in lines if not line.lstrip().startswith("#")]
    else:
        keys = re.split(r"[,\s]+", os.environ.get(VARIABLE, ""))
    found = tuple(dict.fromkeys(key for key in keys if key))
    if file is not None and not found:
        raise InputError(f"The file of API keys {file} holds none; write one per line")
    if file is None and VARIABLE in os.environ and not found:  # a secret that went missing must not open the door
        raise InputError(f"The variable {VARIABLE} is set and holds no key; unset it to serve without keys")
    if any(len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key for key in found):
        raise InputError(f"An API key has at least {SHORTEST} printable ASCII characters without spaces")
    return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
