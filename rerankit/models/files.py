"""Where rerankit keeps what it may recompute: one cache folder, made on demand, never required to be writable."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from rerankit.errors import ModelError, StoreError

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


def check_weights_digest(weights: Path, settings: Mapping[str, Any], again: str) -> None:
    """See that weights are those that the run wrote; settings that name no ``weights_sha256`` say nothing of it.

    Args:
        weights: the file.
        settings: of the model's ``config.json``.
        again: how to get a whole model, for the message.

    Raises:
        ModelError: the file is another one.
    """
    expected = settings.get("weights_sha256")
    if expected is not None and (found := sha256_of(weights)) != expected:
        raise ModelError(
            f"{weights} is not the file that the training wrote: its config.json expects sha256 {expected!r:.80}, "
            f"found {found}. {again}"
        )


def share_weights(folder: Path) -> None:
    """Let weights that safetensors wrote, for their owner alone, be read by whom the umask lets read."""
    for weights in folder.glob("*.safetensors"):
        shutil.copymode(folder / "config.json", weights)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell what could not be written, and what to do.

    Raises:
        StoreError: the body met a full disk, a folder without permission, or the like.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"Cannot write {path}: {error.strerror or error}. Make room, or see that the folder may be written, and "
            "run the same again: what was written before is whole"
        ) from error


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, on the disk and whole.

    Raises:
        StoreError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Have the folder's entries on the disk too, where the system can (Windows cannot)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def content_key(*parts: str) -> bytes:
    """The identity of a computation: sha256 over all it depends on, each part length-prefixed so that none mixes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()
