"""Token vectors to one text vector, as the checkpoint's sentence-transformers files say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError
from rerankit.models.catalog import Facts, Pooling
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.tokens import read_json

_NAMES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
}
_HARMLESS = {"Transformer", "Pooling", "Normalize"}


def pooling_of(checkpoint: Checkpoint, known: Facts) -> Pooling:
    """How the checkpoint pools: its own files, else the catalogue, else the mean.

    Raises:
        ModelError: the checkpoint uses a pooling or an extra layer that would silently be left out.
    """
    modules = read_json(checkpoint.folder / "modules.json") or []
    kinds = {module["type"].rpartition(".")[2]: module.get("path", "") for module in modules}
    if extra := sorted(set(kinds) - _HARMLESS):
        raise ModelError(f"{checkpoint.folder / 'modules.json'} asks for the layers {extra}, which are not supported")
    settings = checkpoint.json(kinds["Pooling"], "config.json") if "Pooling" in kinds else {}
    if not settings:
        return known.pooling or "mean"
    wanted = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True]
    if isinstance(mode := settings.get("pooling_mode"), str):
        wanted = [mode]
    found = [_NAMES[name] for name in wanted if name in _NAMES]
    if len(found) != 1 or len(wanted) != 1:
        raise ModelError(f"{checkpoint.name!r} pools by {wanted}; supported is one of mean, cls, lasttoken")
    return found[0]


def pool(states: NDArray[np.float32], how: Pooling) -> NDArray[np.float32]:
    """One L2-normalised vector ``[dim]`` from the token vectors ``[t, dim]`` of one text, padding excluded."""
    vector = states.mean(axis=0, dtype=np.float32) if how == "mean" else states[0 if how == "cls" else -1]
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
