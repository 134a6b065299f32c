"""The folder of one experiment: what was asked, what was found, line by line, so that a killed run can go on.

::

    experiment.json        the setup: data, candidates, depth, seed; and where it ran
    candidates.jsonl       per query the candidates' ids and scores, retrieved once
    candidates.npz         their vectors, where the store had some
    arms/names.json        the arms in their order; settings.json beside it: what they are made of
    arms/<name>.jsonl      per query what the arm did; appended and flushed query by query
    runs/<name>.run        the same orders as TREC runs
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rerankit import __version__
from rerankit.errors import InputError, StoreError
from rerankit.evaluation.formats import read_jsonl
from rerankit.evaluation.rowfile import whole_lines
from rerankit.redaction import public_spec

__all__ = ["FORMAT", "RunFolder"]

FORMAT = 1
"""Version of the layout; a folder of another version is refused."""


class RunFolder:
    """Reads and writes one experiment's folder.

    Args:
        path: the folder; made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def manifest_path(self) -> Path:
        """The setup's file."""
        return self.path / "experiment.json"

    def begin(self, setup: Mapping[str, Any]) -> None:
        """Start an experiment, or go on with the same one.

        Raises:
            InputError: the folder holds an experiment with another setup, or of another version.
            StoreError: the folder cannot be written.
        """
        setup = _public(setup)
        if self.manifest_path.is_file():
            known = self.setup()
            changed = sorted(name for name in {*known, *setup} if known.get(name) != setup.get(name))
            if changed:
                was = {name: known.get(name) for name in changed}
                raise InputError(
                    f"{self.path} holds another experiment: {changed} differ (there: {was}). Use a new folder, or the "
                    "same settings to go on with it."
                )
            return
        manifest = {"format": FORMAT, "setup": dict(setup), "environment": _environment()}
        self._write(self.manifest_path, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")

    def manifest(self) -> dict[str, Any]:
        """Setup and environment.

        Raises:
            InputError: there is no experiment here, or one of another version.
        """
        try:
            manifest: dict[str, Any] = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"No experiment in {self.path}: it has no experiment.json") from None
        except ValueError as error:
            raise InputError(
                f"{self.manifest_path} is damaged ({error}); start the experiment in a new folder"
            ) from error
        if manifest.get("format") != FORMAT:
            raise InputError(
                f"{self.path} was written in format {manifest.get('format')!r}, this rerankit reads format {FORMAT}; "
                "run the experiment again in a new folder"
            )
        return {**manifest, "setup": _public(manifest["setup"])}

    def setup(self) -> dict[str, Any]:
        """What was asked."""
        return dict(self.manifest()["setup"])

    def arm_path(self, name: str) -> Path:
        """The file of an arm's records."""
        return self.path / "arms" / f"{slug(name)}.jsonl"

    def arms(self) -> list[str]:
        """Names of the arms that have records, in the order they were begun."""
        index = self.path / "arms" / "names.json"
        return list(json.loads(index.read_text(encoding="utf-8"))) if index.is_file() else []

    def name_arms(self, names: Sequence[str]) -> None:
        """Add arms to the list of names."""
        merged = list(dict.fromkeys([*self.arms(), *names]))
        if len({slug(name) for name in merged}) < len(merged):
            raise InputError(f"Two of the arms {merged} would share a file; give them names that differ in letters")
        self._write(self.path / "arms" / "names.json", json.dumps(merged, ensure_ascii=False) + "\n")

    def keep_settings(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Write down what arms are made of, or check that they are still made of the same.

        Raises:
            InputError: an arm of this name had other settings; its old results would pass for the new ones.
        """
        known, asked = self.settings(), {name: _public(own) for name, own in settings.items()}
        for name, now in asked.items():
            if known.get(name, now) != now:
                raise InputError(f"The arm {name!r} of {self.path} was {known[name]}, now it is {now}: give it "
                                 "another name, or use a new folder")  # fmt: skip
        text = json.dumps({**known, **asked}, indent=1, ensure_ascii=False) + "\n"
        self._write(self._settings_path, text)

    def settings(self) -> dict[str, dict[str, Any]]:
        """What each arm is made of, as far as it was built from a spec."""
        path = self._settings_path
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return {name: _public(own) for name, own in known.items()}

    @property
    def _settings_path(self) -> Path:
        return self.path / "arms" / "settings.json"

    def records(self, name: str) -> Iterator[dict[str, Any]]:
        """An arm's records, the last one per query.

        Raises:
            InputError: a line is damaged.
        """
        path = self.arm_path(name)
        if not path.is_file():
            return
        last = {str(row["query"]): row for _, row in read_jsonl(path)}
        yield from last.values()

    def repair(self, name: str) -> None:
        """Cut off a last line that a killed process left half written.

        Raises:
            StoreError: the file cannot be read or mended.
        """
        path = self.arm_path(name)
        if path.is_file():
            for _ in whole_lines(path):
                pass

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one record and hand it to the operating system at once.

        Raises:
            StoreError: the disk is full or the folder cannot be written. What was written before stays valid.
        """
        self._write(self.arm_path(name), json.dumps(record, ensure_ascii=True) + "\n", mode="a")

    def write(self, name: str, text: str) -> Path:
        """Write a file of the folder whole.

        Raises:
            StoreError: it cannot be written.
        """
        self._write(self.path / name, text)
        return self.path / name

    def _write(self, path: Path, text: str, mode: str = "w") -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            target = path if mode == "a" else path.with_name(path.name + ".part")
            with target.open(mode, encoding="utf-8") as file:
                file.write(text)
            if target is not path:
                target.replace(path)
        except OSError as error:
            raise StoreError(
                f"Cannot write {path}: {error.strerror or error}. What was finished is kept; make room and run "
                "the same command again to go on."
            ) from error


_ADDRESSES = ("spec", "store", "generator", "judge")


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without keys and passwords; another key is no other experiment, and old folders may still hold one."""
    return {
        name: public_spec(value) if name in _ADDRESSES and isinstance(value, str) else value
        for name, value in settings.items()
    }


def slug(name: str) -> str:
    """A file name for an arm."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name).strip("_.")[:100] or "arm"


def _environment() -> dict[str, Any]:
    packages = ("numpy", "torch", "onnxruntime", "openvino", "chromadb", "scipy", "ir-measures")
    return {
        "rerankit": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "packages": {name: version for name in packages if (version := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
