"""A page that describes the API, made from the OpenAPI document alone: no script, nothing from the internet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 14px/1.4 ui-monospace, monospace; } pre { overflow-x: auto; background: #8881; padding: .8rem; }
summary { cursor: pointer; padding: .3rem 0; } summary b { display: inline-block; min-width: 4rem; }
"""


def docs_page(schema: Mapping[str, Any]) -> str:
    """The OpenAPI document as HTML."""
    info = schema["info"]
    return "\n".join([
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>",
        "<p>The machine-readable description is <a href='openapi.json'>openapi.json</a>.</p>",
        *(_operation(*item, schema) for item in _operations(schema)),
        "</html>",
    ])  # fmt: skip


def _operations(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _operation(method: str, path: str, operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    title = f"<b>{method}</b> <code>{escape(path)}</code> {escape(operation.get('summary', ''))}"
    text = escape(operation.get("description", ""))
    return f"<details><summary>{title}</summary><p>{text}</p>{_body(operation, schema)}</details>"


def _body(operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    found = schema.get("components", {}).get("schemas", {}).get(name)
    return f"<pre>{escape(json.dumps(found, indent=2))}</pre>" if found else ""
