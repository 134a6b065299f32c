"""The documentation is true: its Python runs, its commands are accepted, its examples work.

``<!-- not run: reason -->`` before a block means that it is only checked for syntax, or for being accepted.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import rerankit
from rerankit import spec
from rerankit.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
READMES = ["README.md", "benchmarks/README.md", "examples/*/README.md", "integrations/*/README.md"]
PAGES = [*sorted(DOCS.rglob("*.md")), *(page for pattern in READMES for page in sorted(ROOT.glob(pattern)))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

_BLOCK = re.compile(
    r"(?P<mark><!-- not run: (?P<reason>[^>]*?) -->\s*\n)?^```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    language: str
    body: str
    line: int
    run: bool


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(found["language"], found["body"], text.count("\n", 0, found.start("body")), found["mark"] is None)
        for found in _BLOCK.finditer(text)
    ]


def commands(page: Path) -> list[tuple[list[str], bool]]:
    lines = [
        (line.removeprefix("$ "), block.run)
        for block in blocks(page)
        if block.language == "console"
        for line in block.body.replace("\\\n", " ").splitlines()
        if line.startswith("$ rerankit ")
    ]
    return [(shlex.split(line.partition(" < ")[0], comments=True)[1:], run) for line, run in lines]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the files that the documentation speaks of."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "rust.md").write_text("# Leaf rust\n\nLeaf rust shows as orange pustules on wheat leaves.\n")
    (notes / "sheep.txt").write_text("Sheep are shorn once a year, in spring, before the heat comes.\n")
    (tmp_path / "run.trec").write_text("q1 Q0 d2 1 0.9 bm25\nq1 Q0 d1 2 0.8 bm25\n")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "leaf rust on wheat"}\n')
    texts = {"d1": "Leaf rust shows as orange pustules on wheat.", "d2": "Sheep are shorn in spring."}
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"_id": k, "text": v}) + "\n" for k, v in texts.items()))
    (tmp_path / "lists.jsonl").write_text(json.dumps({"query": "leaf rust", "passages": list(texts.values())}) + "\n")
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("rerankit")
    level, handlers = logger.level, logger.handlers[:]
    yield tmp_path
    logger.setLevel(level)
    logger.handlers[:] = handlers


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run(page, workplace):
    namespace = {"__name__": "docs"}
    for block in blocks(page):
        if block.language == "python":
            code = compile("\n" * block.line + block.body, str(page), "exec", dont_inherit=True)
            if block.run:
                exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_accepted(page):
    command = typer.main.get_command(app)
    for arguments, _ in commands(page):
        with contextlib.suppress(typer.Exit):  # --help and --version end the parsing
            context = command.make_context("rerankit", list(arguments))
            name, subcommand, left = command.resolve_command(context, [*context._protected_args, *context.args])
            subcommand.make_context(name, left, parent=context)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_run(page, workplace):
    for arguments, run in commands(page):
        if run:
            result = CliRunner().invoke(app, arguments, input=(workplace / "lists.jsonl").read_text())
            assert result.exit_code == 0, f"rerankit {shlex.join(arguments)}\n{result.output}\n{result.exception!r}"


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = [*PAGES, ROOT / "CONTRIBUTING.md"]
    named = {name for page in pages for name in re.findall(r"\bmake ((?!s\b)[a-z-]+)\b", _code(page))}
    assert named
    assert named <= targets


def _code(page: Path) -> str:
    """What stands in backticks or code blocks."""
    return "\n".join(re.findall(r"`[^`\n]+`|^```.*?^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))


def table(head, rows):
    return "\n".join([head, "|---|---|", *(f"| `{name}` | {text} |" for name, text in rows)])


def test_tables_of_specs_are_those_of_the_code():
    page = (DOCS / "concepts" / "specs.md").read_text("utf-8")
    assert table("| family | what it does |", [(one.name, one.summary) for one in spec._BUILT_IN]) in page
    assert table("| name | stands for |", [(name, f"`{full}`") for name, full in spec.ALIASES.items()]) in page


@pytest.mark.parametrize(("page", "column"), [("choosing.md", 1), ("families.md", 0)])
def test_specs_that_pages_recommend_are_understood(page, column):
    """Those in tables: of what to take, and of examples."""
    kept = re.sub(r"^\| option .*?\n\n", "", (DOCS / page).read_text("utf-8") + "\n", flags=re.MULTILINE | re.DOTALL)
    kept = re.sub(r"^\| `method` .*?\n\n", "", kept, flags=re.MULTILINE | re.DOTALL)
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in kept.splitlines() if line.startswith("| ")]
    specs = [found[1].replace("\\|", "|") for row in rows if (found := re.match(r" `(.+?)`", row[column]))]
    assert len(specs) > 10
    for text in specs:
        spec.check(text)


OPTIONS = {
    "late-interaction": "late_interaction:LateInteraction", "cross-encoder:NAME": "cross_encoder:CrossEncoder",
    "cross-encoder alone": "residual:Residual", "dense": "dense:Dense", "lexical": "lexical:Lexical",
    "fusion": "compose:Fusion", "mmr and dpp": "diversify:MMR", "cap": "diversify:SourceCap",
    "freshness": "diversify:Freshness", "Options of pointwise families": "pairs:PointwiseReranker",
    "Options of all families": "base:Reranker",
}  # fmt: skip


@pytest.mark.parametrize("section", OPTIONS)
def test_options_and_defaults_are_those_of_the_code(section):
    module, _, name = OPTIONS[section].partition(":")
    family = getattr(importlib.import_module(f"rerankit.rerankers.{module}"), name)
    init = family.__init__ if "__init__" in vars(family) else inspect.getmro(family)[1].__init__
    parameters = [p for p in inspect.signature(init).parameters.values() if p.kind is p.KEYWORD_ONLY]
    page = (DOCS / "families.md").read_text("utf-8")
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)[1]
    shown = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.MULTILINE))
    assert shown == {p.name: written(p.default) for p in parameters}


def written(value):
    return str(value).lower() if isinstance(value, bool | None) else str(value).removesuffix(".0")


def test_the_reference_holds_all_public_names():
    names = re.findall(r"^::: (.+)$", (DOCS / "api.md").read_text("utf-8"), re.MULTILINE)
    assert {f"rerankit.{name}" for name in rerankit.__all__} <= set(names)
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert inspect.getdoc(getattr(importlib.import_module(module), attribute)), name


def test_the_command_line_page_holds_all_commands_and_variables():
    page = (DOCS / "cli.md").read_text("utf-8")
    commands = typer.main.get_command(app).commands
    assert {f"| `rerankit {name}` |" for name in commands} <= set(re.findall(r"\| `rerankit \w+` \|", page))
    code = "".join(path.read_text("utf-8") for path in (ROOT / "rerankit").rglob("*.py"))
    assert set(re.findall(r"\bRERANKIT_[A-Z_]+\b", code)) <= set(re.findall(r"`(RERANKIT_[A-Z_]+)`", page))


def test_blocks_that_do_not_run_say_why():
    marks = [mark for page in PAGES for mark in re.findall(r"<!-- not run(.*?)-->", page.read_text("utf-8"))]
    assert all(re.fullmatch(r": \S.{5,}", mark) for mark in marks)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_examples_run(example, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(example)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
