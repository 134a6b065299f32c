"""The folder of a run, looked at before anything is read or encoded: may this run write there?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rerankit.errors import InputError
from rerankit.models.tokens import read_object
from rerankit.training.checkpoint import check_same_run
from rerankit.training.sources import Sources, source_name
from rerankit.training.state import setting_of
from rerankit.training.task import Settings

__all__ = ["check_folder", "check_place"]

_DATA = ("data", "dev")


def check_place(folder: Path) -> None:
    """See that ``folder`` is one, or can become one.

    Raises:
        InputError: it is a file, or lies in one.
    """
    known = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
    if known.exists() and not known.is_dir():
        raise InputError(f"{known} is a file; name a folder for the trained model (--out)")


def check_folder(folder: Path, form: str, run: Sources, settings: Settings, *, resume: bool) -> None:
    """See early what the loop would notice after all data are encoded, as far as files tell.

    Args:
        folder: to train into.
        form: ``format`` in the configuration of such a model.
        run: its data.
        settings: of the run.
        resume: whether it would go on from the folder's checkpoint.

    Raises:
        InputError: ``folder`` is a file, or holds another model or the checkpoint of another run.
        ModelError: its ``config.json`` is damaged.
    """
    check_place(folder)
    config = read_object(folder / "config.json")
    if config and config.get("format") != form:
        raise InputError(f"{folder} holds another model, of format {config.get('format')!r:.80}; name another folder")
    trained = config.get("trained")
    data = {name: trained[name] for name in _DATA if name in trained} if isinstance(trained, dict) else {}
    for place in (folder / "checkpoint", *folder.glob("stage-*/checkpoint")):
        file = place / "last.safetensors"
        if resume and (found := _setting(file)) is not None:
            names = {name: [source_name(one) for one in getattr(run, name)] for name in data}
            check_same_run({**data, "setting": found}, {**names, "setting": setting_of(settings)}, file)


def _setting(file: Path) -> dict[str, Any] | None:
    """The settings in a checkpoint's header; None where there is none, or none that is whole."""
    try:
        with safe_open(file, framework="pt") as opened:
            setting = json.loads((opened.metadata() or {}).get("facts", "{}"))["run"]["setting"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    return setting if isinstance(setting, dict) else None
