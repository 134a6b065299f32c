"""Settings as they may be shown and written: without keys, tokens and passwords."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["brackets_match", "hidden", "public_options", "public_spec", "without_addresses"]

_NAMES = r"api[_-]?key|secret|passw|authorization|credential|headers|bearer"
_SECRET = re.compile(rf"{_NAMES}|(^|[_-])(key|token)$", re.IGNORECASE)
_LOOSE = re.compile(rf"[\w.-]*({_NAMES})[\w.-]*\s*[=:]|(?<![a-z])(key|token)\s*[=:]", re.IGNORECASE)
_GROUP = re.compile(r"\[([^\[\]]*)\]")
_USER_INFO = re.compile(r"(?<=://)(?:[^/\s|:@\[\]]*:(?!\d+/)[^\s|#]*|[^/\s|]*)@")
"""Up to the last ``@`` before the path; a password may hold a slash, which a port with its path does not look like."""
_ADDRESS = re.compile(r"\w+://[^\s|+#\[\]]*#?")


def public_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of :func:`rerankit.load` without keys, tokens, passwords and headers, also nested ones."""
    return {name: _public(value) for name, value in options.items() if not _SECRET.search(str(name))}


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return public_options(value)
    return _USER_INFO.sub("", value) if isinstance(value, str) else value


def public_spec(spec: str) -> str:
    """``spec`` without options that carry a secret and without user names and passwords in addresses.

    Where the brackets do not match, nobody can tell where a secret ends: all from the first one on is left out.
    """
    if not brackets_match(spec) and (found := _LOOSE.search(spec)):
        spec = f"{spec[: found.start()]}..."
    return _USER_INFO.sub("", _GROUP.sub(_public_group, spec))


def without_addresses(spec: str) -> str:
    """``spec`` for strangers, without where its models run: ``pairwise:qwen3`` for ``pairwise:http://HOST#qwen3``."""
    return _ADDRESS.sub("", spec)


def brackets_match(spec: str) -> bool:
    """Whether every bracket has its partner, with no others between the two."""
    return not re.search(r"[\[\]]", _GROUP.sub("", spec))


def _public_group(match: re.Match[str]) -> str:
    before = re.split(r"[|+]", _GROUP.sub("", match.string[: match.start()]))[-1]
    kept: list[str] = []
    drops = False
    for item in match[1].split(","):
        name = re.split(r"[=:\s]", item.strip())[0]
        # A stage without a model calls nobody: its ``key`` is a field of the metadata.
        own = name == "key" and ":" not in before
        # A secret that holds a comma goes on in the next item.
        drops = (drops and "=" not in item) or bool(_SECRET.search(name) and not own)
        if not drops:
            kept.append(item)
    return f"[{','.join(kept).strip()}]" if kept else ""


def hidden(text: str, options: Mapping[str, Any]) -> str:
    """``text`` with the values of secret ``options`` starred out, wherever they come up in it."""
    for name, value in options.items():
        if _SECRET.search(name) and isinstance(value, str) and value:
            text = text.replace(value, "***")
    return text
