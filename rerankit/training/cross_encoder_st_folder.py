"""The folder of a run by the trainer of sentence-transformers: whose model and whose checkpoints does it hold?

Neither a plain checkpoint nor the trainer's own checkpoints tell; ``run.json`` beside them does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.models.files import write_atomically, writing
from rerankit.models.tokens import read_object
from rerankit.training.checkpoint import check_same_run
from rerankit.training.folder import check_place

__all__ = ["begin_run", "goes_on"]

_RUN = "run.json"


def goes_on(folder: Path, facts: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether the run goes on from checkpoints of the folder.

    Args:
        folder: to train into.
        facts: what makes a run the same run, as far as it is known by now, in JSON's types.
        resume: whether it may.

    Raises:
        InputError: ``folder`` is a file, or holds another model or checkpoints of another run.
        ModelError: its ``config.json`` or ``run.json`` is damaged.
    """
    check_place(folder)
    config, known = read_object(folder / "config.json"), read_object(folder / _RUN)
    if "format" in config or (config and not known):
        raise InputError(f"{folder} holds another model; name another folder")
    checkpoints = _checkpoints(folder)
    if not resume or not checkpoints:
        return False
    check_same_run({name: known.get(name) for name in facts}, facts, checkpoints[-1])
    return True


def begin_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Remove the checkpoints of an earlier run and say which run the next ones are of.

    Raises:
        StoreError: the folder cannot be written.
    """
    for checkpoint in _checkpoints(folder):
        with writing(checkpoint):
            shutil.rmtree(checkpoint)
    write_atomically(folder / _RUN, json.dumps(facts, indent=2) + "\n")


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoint").glob("checkpoint-*"))
