"""Where rerankit keeps what it may recompute: one cache folder, made on demand, never required to be writable."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
from pathlib import Path

import platformdirs

logger = logging.getLogger(__name__)


def cache_folder(name: str) -> Path:
    """The folder ``name`` inside the cache, created.

    The cache is ``$RERANKIT_CACHE``, else the user's cache folder. If it cannot be written, a temporary folder that
    lives as long as the process takes its place, and a warning says so once.
    """
    folder = _writable(_root()) / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def readable_cache_folder(name: str) -> Path:
    """The folder ``name`` inside the configured cache, which may be missing or read-only (a baked container image)."""
    return _root() / name


def _root() -> Path:
    configured = os.environ.get("RERANKIT_CACHE", "")
    return Path(configured).expanduser() if configured else Path(platformdirs.user_cache_dir("rerankit"))


@functools.cache
def _writable(root: Path) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return root
    except OSError as error:
        fallback = tempfile.TemporaryDirectory(prefix="rerankit-")
        _keep_alive.append(fallback)
        logger.warning(
            "The cache folder %s cannot be written (%s); caching in %s for this process only. "
            "Set RERANKIT_CACHE to a writable folder to keep it.",
            root,
            error,
            fallback.name,
        )
        return Path(fallback.name)


_keep_alive: list[tempfile.TemporaryDirectory[str]] = []


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(*parts: str) -> bytes:
    """The identity of a computation: sha256 over all it depends on, each part length-prefixed so that none mixes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
