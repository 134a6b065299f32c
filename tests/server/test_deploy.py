"""Dockerfile and compose.yaml, as far as they can be checked without a daemon."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from rerankit.cli.app import app
from rerankit.server.auth import OPEN_PATHS, SHORTEST

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stages():
    """Per stage its (instruction, arguments)."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    found = []
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest.strip()))
    return found


def options_of(arguments):
    command = typer.main.get_command(app)
    context = command.make_context("rerankit", list(arguments))
    name, subcommand, left = command.resolve_command(context, [*context._protected_args, *context.args])
    return name, subcommand.make_context(name, left, parent=context).params


def test_every_instruction_is_one(stages):
    known = {
        "FROM",
        "ARG",
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "STOPSIGNAL",
        "ENTRYPOINT",
    }
    assert {name for stage in stages for name, _ in stage} <= known


def test_what_runs_is_not_root_and_is_watched(stages):
    last = stages[-1]
    names = [name for name, _ in last]
    user = dict(last)["USER"]
    assert user not in ("root", "0")
    made = " ".join(rest for name, rest in last[: names.index("USER")] if name == "RUN")
    assert re.search(rf"useradd .*--uid [1-9]\d* {user}\b", made)
    assert names.index("USER") < names.index("ENTRYPOINT")
    checked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", dict(last)["HEALTHCHECK"])
    assert checked[1] == dict(last)["EXPOSE"]
    assert checked[2] in OPEN_PATHS


def test_the_command_is_one_that_the_program_takes(stages):
    name, *arguments = json.loads(dict(stages[-1])["ENTRYPOINT"])
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["rerankit"]
    command, params = options_of([*arguments, *service["command"]])
    assert (name, command) == ("rerankit", "serve")
    assert (params["host"], str(params["port"])) == ("0.0.0.0", dict(stages[-1])["EXPOSE"])
    assert params["store"] == "http://chroma:8000"


def test_what_is_copied_is_there_and_in_the_context(stages):
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for name, rest in stages[0] if name == "COPY" for source in shlex.split(rest)[:-1]}
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_extras_and_pins_exist(stages):
    text = " ".join(rest for stage in stages for _, rest in stage)
    extras = re.search(r"'\.\[([\w,]+)\]'", text)[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= set(project["optional-dependencies"])
    assert "constraints.txt" in text


def test_compose_opens_no_door_to_the_network():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"chroma", "rerankit"}
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])
    assert services["rerankit"]["depends_on"] == ["chroma"]
    assert ":?name at least one API key" in services["rerankit"]["environment"]["RERANKIT_API_KEYS"]
    assert SHORTEST == 8  # which that message says in words
    pinned = re.search(r"^chromadb==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert services["chroma"]["image"] == f"chromadb/chroma:{pinned}"
    named = {mount.partition(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    assert named == set(compose["volumes"])
