"""A MkDocs hook that reads the reference from the code.

A line ``::: package.name`` becomes that object's signature and docstring; ``{{ families }}`` and ``{{ aliases }}``
become tables of what specs can name.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from rerankit import spec

_LINE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example|Source)s?:$", re.MULTILINE)
_ITEM = re.compile(r"^ {4}(\S[^:]*): ", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    for name, table in {"families": _families, "aliases": _aliases}.items():
        markdown = re.sub(rf"{{{{ {name} }}}}", lambda _, table=table: table(), markdown)
    return _LINE.sub(lambda match: "\n".join(_entry(match[1])), markdown)


def _families() -> str:
    rows = [f"| `{family.name}` | {family.summary} |" for family in spec.families().values()]
    return "\n".join(["| family | what it does |", "|---|---|", *rows])


def _aliases() -> str:
    rows = [f"| `{name}` | `{full}` |" for name, full in spec.ALIASES.items()]
    return "\n".join(["| name | stands for |", "|---|---|", *rows])


def _entry(name: str) -> Iterator[str]:
    value = _find(name)
    yield f"## {name.rsplit('.', 1)[1]}\n"
    yield from _described(name.rsplit(".", 1)[1], value)
    if inspect.isclass(value):
        for member_name, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if not member_name.startswith("_") and inspect.isfunction(function):
                yield f"### {value.__name__}.{member_name}\n"
                yield from _described(member_name, function)


def _find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _described(name: str, value: Any) -> Iterator[str]:
    if not (inspect.isclass(value) and issubclass(value, Exception)):
        yield f"```python\n{name}{_signature(value)}\n```\n"
    yield _markdown(inspect.getdoc(value) or "") + "\n"


class _Bare(str):
    """An annotation that is printed without quotes."""

    __repr__ = str.__str__


def _signature(value: Any) -> str:
    signature = inspect.signature(value)
    parameters = [
        parameter.replace(annotation=_bare(parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    returns = inspect.Signature.empty if inspect.isclass(value) else _bare(signature.return_annotation)
    text = str(inspect.Signature(parameters, return_annotation=returns))
    return text if len(text) < 90 else _in_lines(parameters, text)


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _in_lines(parameters: list[inspect.Parameter], text: str) -> str:
    parts = [str(parameter) for parameter in parameters]
    named_only = [i for i, parameter in enumerate(parameters) if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    if named_only and all(parameter.kind is not inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        parts.insert(named_only[0], "*")
    returns = text.rpartition(")")[2]
    return "(\n    " + ",\n    ".join(parts) + f",\n){returns}"


def _markdown(docstring: str) -> str:
    """Google-style sections as bold headings, their entries as lists, cross references as code."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring).replace("``", "`")
    text = _SECTION.sub(lambda match: f"**{match[0]}**\n", text)
    return _ITEM.sub(r"- `\1`: ", text)
