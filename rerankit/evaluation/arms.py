"""Arms from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankit.errors import InputError, require
from rerankit.evaluation.experiment import Arm
from rerankit.redaction import public_spec

__all__ = ["read_arms"]

_KINDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "spec": (str,),
    "depth": (int,),
    "top_k": (int,),
    "deadline_s": (int, float),
}


def read_arms(path: str | Path) -> list[Arm]:
    """Arms from a YAML file, in its order.

    The file holds a list whose items are specs, ``name=spec``, or objects with ``spec`` and any of ``name``, ``depth``,
    ``top_k``, ``deadline_s``; or an object of ``name: spec`` or ``name: {spec, ...}``.

    Raises:
        InputError: the file cannot be read, or an entry is not one of these; the message names it.
        MissingExtraError: pyyaml is not installed.
    """
    yaml = require("yaml", extra="eval", purpose="Reading arms from a file")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"Cannot read arms from {path}: {error}") from error
    if isinstance(content, Mapping):
        entries: list[Any] = [_named(name, value) for name, value in content.items()]
    else:
        entries = content if isinstance(content, list) else []
    if not entries:
        raise InputError(f"{path} names no arms: write a list of specs, or an object of name: spec")
    return [_arm(entry, f"{path}, arm {number}") for number, entry in enumerate(entries, 1)]


def _named(name: object, value: object) -> dict[str, Any]:
    return {"name": str(name), **(value if isinstance(value, Mapping) else {"spec": value})}


def _arm(entry: object, where: str) -> Arm:
    if isinstance(entry, str) and entry.strip():
        return Arm.parse(entry)
    if not isinstance(entry, Mapping) or "spec" not in entry:
        raise InputError(f"{where}: expected a spec or an object with 'spec', found {public_spec(repr(entry)):.80}")
    where = f"{where} ({public_spec(str(entry.get('name', entry['spec'])))})"
    if unknown := sorted(map(str, set(entry) - set(_KINDS))):
        raise InputError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(_KINDS)}")
    for name, value in entry.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, _KINDS[name])):
            raise InputError(f"{where}: {name} must be {_KINDS[name][-1].__name__}, got {public_spec(repr(value)):.80}")
        if isinstance(value, (int, float)) and value <= 0:
            raise InputError(f"{where}: {name} must be above zero, got {value!r}")
    settings = {name: value for name, value in entry.items() if name not in ("name", "spec") and value is not None}
    return Arm(entry.get("name") or entry["spec"], entry["spec"], **settings)
