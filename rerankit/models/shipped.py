"""The small models that come with rerankit itself: trained by its own commands, checked by sha256 before use."""

from __future__ import annotations

import json
from pathlib import Path

from rerankit.errors import ModelError
from rerankit.models.files import sha256_of
from rerankit.models.tokens import read_object

__all__ = ["folder", "seal"]

WEIGHTS = Path(__file__).parents[1] / "weights"
"""One folder per model, and ``hashes.json``: ``{model: {file: sha256}}``."""

REINSTALL = "pip install --force-reinstall --no-deps rerankit"


def folder(name: str) -> Path:
    """The folder of a shipped model, each of its files checked against the published digest.

    Args:
        name: ``compressed``, ``cross-encoder``, ``reader``.

    Raises:
        ModelError: this rerankit ships no such model, or a file of it is missing or not the published one.
    """
    published = _published()
    if not (digests := published.get(name)):
        known = f"it ships {', '.join(sorted(published))}" if published else "it ships none"
        raise ModelError(
            f"This rerankit has no weights {name!r} of its own ({known}). Install a release that has them, or train "
            f"your own with 'rerankit train {name}' and name its folder."
        )
    for file, expected in digests.items():
        _verify(WEIGHTS / name / file, str(expected))
    return WEIGHTS / name


def seal(name: str) -> None:
    """Publish the files of ``name`` as they now are: enter their digests in ``hashes.json``. For those who release.

    Raises:
        ModelError: there is no such folder.
    """
    files = sorted(path for path in (WEIGHTS / name).rglob("*") if path.is_file())
    if not files:
        raise ModelError(f"There is nothing to publish in {WEIGHTS / name}; put the trained model there first")
    digests = {path.relative_to(WEIGHTS / name).as_posix(): sha256_of(path) for path in files}
    text = json.dumps({**_published(), name: digests}, indent=2, sort_keys=True)
    (WEIGHTS / "hashes.json").write_text(text + "\n", "utf-8")


def _published() -> dict[str, dict[str, str]]:
    return read_object(WEIGHTS / "hashes.json")


def _verify(file: Path, expected: str) -> None:
    if not file.is_file():
        raise ModelError(f"The shipped file {file} is missing. Reinstall it: {REINSTALL}")
    if (found := sha256_of(file)) != expected:
        raise ModelError(
            f"The shipped file {file} is not the published one: expected sha256 {expected}, found {found}. "
            f"Reinstall it: {REINSTALL}"
        )
