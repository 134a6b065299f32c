"""A MkDocs hook that reads the reference from the code.

A line ``::: package.name`` becomes that object's signature and docstring.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

_LINE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields|Example|Source)s?:$", re.MULTILINE)
_ITEM = re.compile(r"^ {4}(\S[^:]*): ", re.MULTILINE)
_PIPE = re.compile(r"\\\|(?=[^`\n]*`[^\n]*\|$)", re.MULTILINE)
"""In code in a table: hosts of repositories want it escaped, Python-Markdown would show the backslash."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return _LINE.sub(lambda match: "\n".join(_entry(match[1])), _PIPE.sub("|", markdown))


def _entry(name: str) -> Iterator[str]:
    value = _find(name)
    module, _, short = name.rpartition(".")
    yield f"### {short}\n"
    if module != "rerankit":
        yield f"`from {module} import {short}`\n"
    yield from _described(short, value)
    if inspect.isclass(value):
        for member_name, member in vars(value).items():
            function = getattr(member, "__func__", member)
            if not member_name.startswith("_") and inspect.isfunction(function):
                yield f"#### {value.__name__}.{member_name}\n"
                yield from _described(member_name, function)


def _find(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _described(name: str, value: Any) -> Iterator[str]:
    if not (inspect.isclass(value) and (issubclass(value, Exception) or getattr(value, "_is_protocol", False))):
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
