"""Make a graph file from a checkpoint once, keep it in the cache, never trust a damaged one.

A finished conversion is a folder ``<key>/`` with the graph and ``manifest.json`` (sha256 of every file), put in place
by one rename under a lock, so that two processes starting at once are safe and a reader never sees half a model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from rerankit.errors import ModelError
from rerankit.models.backends import Backend, ConversionError, Task
from rerankit.models.batching import Batch
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.files import cache_folder, readable_cache_folder, sha256_of, writing

logger = logging.getLogger(__name__)

VERSION = 4
"""Raised whenever conversion changes what it writes."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Names of the graph's inputs, in the order of :class:`~rerankit.models.batching.Batch`; a graph may lack some."""

TOLERANCE = 1e-4
"""How far a converted graph may be from its source, relative to the largest output."""


def converted(checkpoint: Checkpoint, task: Task, form: str, build: Callable[[Path], None]) -> Path:
    """The folder of a converted model, built now if it is missing or damaged.

    Args:
        checkpoint: the source.
        task: what the graph returns.
        form: names the kind of graph (``openvino``, ``onnx-int8``, ...).
        build: writes the graph's files into the folder it is given.

    Raises:
        StoreError: the files cannot be written.
    """
    key = _key(checkpoint, task, form)
    ready = readable_cache_folder("converted") / key
    if _intact(ready):
        return ready
    root = cache_folder("converted")
    target = root / key
    if _intact(target):
        return target
    with FileLock(root / f"{target.name}.lock"):
        if _intact(target):  # another process was faster
            return target
        if target.exists():
            logger.warning("The converted model %s is damaged; making it again", target)
        with writing(target):
            scratch = Path(tempfile.mkdtemp(prefix="building-", dir=root))
            try:
                build(scratch)
                _write_manifest(scratch)
                shutil.copymode(root, scratch)  # mkdtemp's are for their owner alone
                shutil.rmtree(target, ignore_errors=True)
                os.replace(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


def _key(checkpoint: Checkpoint, task: Task, form: str) -> str:
    identity = json.dumps([VERSION, checkpoint.digest, checkpoint.config, task, form], sort_keys=True)
    readable = "".join(c if c.isalnum() or c in "-_." else "-" for c in checkpoint.name)[-60:]
    return f"{readable}-{task}-{form}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _write_manifest(folder: Path) -> None:
    digests = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    (folder / "manifest.json").write_text(json.dumps(digests, indent=1), "utf-8")


def _intact(folder: Path) -> bool:
    try:
        digests = json.loads((folder / "manifest.json").read_text("utf-8"))
        return bool(digests) and all(sha256_of(folder / name) == digest for name, digest in digests.items())
    except (OSError, ValueError, AttributeError):
        return False


def example(rows: int, width: int) -> Batch:
    """A small batch with padding, for tracing and checking."""
    ids = np.arange(5, 5 + rows * width, dtype=np.int64).reshape(rows, width) % 30
    mask = np.ones_like(ids)
    for row in range(1, rows):
        mask[row, width - row :] = 0
    return Batch(ids, mask, np.zeros_like(ids))


def check_same(checkpoint: Checkpoint, module: Any, backend: Backend) -> None:
    """Compare a converted graph with its source on shapes it was not traced with.

    Raises:
        ModelError: the source itself gives no numbers.
        ConversionError: tracing froze something that depends on the input.
    """
    import torch

    for rows, width in ((1, 5), (3, 19)):
        batch = example(rows, width)
        with torch.inference_mode():
            expected = module(*map(torch.from_numpy, batch)).float().numpy()
        if not np.isfinite(expected).all():
            raise ModelError(f"{checkpoint.name!r} gives NaN or infinity: {checkpoint.weights[0]} holds broken numbers")
        found = backend(batch)
        read = batch.mask.astype(bool) if found.ndim == 3 else slice(None)
        gap = float(np.abs(found - expected)[read].max()) if found.shape == expected.shape else float("inf")
        if not gap <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ConversionError(
                f"{checkpoint.name!r} gives other numbers after conversion (off by {gap:.2g} at shape {(rows, width)})"
            )
