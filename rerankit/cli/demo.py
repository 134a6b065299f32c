"""``rerankit demo``: the app in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rerankit.cli.index import CollectionOption, check_store
from rerankit.cli.output import reporting
from rerankit.errors import InputError, require


def demo(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 7860,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--rerank",
            "-r",
            "--model",
            "-m",
            metavar="NAME=SPEC",
            help="A reranker to choose from, in place of the built-in ones; repeatable.",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma's folder or server; default the sample."),
    ] = None,
    collection: CollectionOption = "rerankit",
    llms: Annotated[
        list[str] | None,
        typer.Option(
            "--llm", metavar="URL#MODEL", help="A chat model that may write answers (OpenAI-compatible); repeatable."
        ),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with runs of rerankit compare to show.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="A test collection to compare rerankers on; repeatable.")
    ] = None,
    votes: Annotated[Path | None, typer.Option(metavar="FILE", help="File (jsonl) to keep blind votes in.")] = None,
    auth: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Users who may log in, one NAME:PASSWORD per line; default everybody."),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Make a public link through Gradio's servers.")] = False,
) -> None:
    """Show in the browser what reranking does: ask, compare blind, ask your own files, look at experiments.

    Works offline on the sample corpus. Visitors choose among the rerankers and chat models that are named here.
    """
    with reporting(as_json=False):
        require("gradio", extra="demo", purpose="The demo")
        from rerankit.demo.app import launch
        from rerankit.demo.settings import RERANKERS, Settings
        from rerankit.server.settings import named_models

        if store is not None:
            require("chromadb", extra="chroma", purpose="The Chroma store")
            check_store(store)
        if runs is not None and not runs.is_dir():
            raise InputError(f"There is no folder {runs} to show runs of")
        settings = Settings(
            rerankers=_with_baseline(named_models(models)) if models else RERANKERS,
            writers={_model(spec): spec for spec in llms or []},
            store=store,
            collection=collection,
            runs=runs,
            datasets=_datasets(data or []),
            votes=votes,
        )
        launch(settings, host=host, port=port, auth=_users(auth), share=share)


def _with_baseline(rerankers: dict[str, str]) -> dict[str, str]:
    """A comparison needs a second one, and the first stage's own order is the one to beat."""
    return rerankers if "none" in rerankers.values() else {**rerankers, "none (as retrieved)": "none"}


def _datasets(folders: list[Path]) -> dict[str, Path]:
    """By the folders' names, which are all that visitors see of them."""
    named: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder} to take a test collection from")
        path = folder.resolve()
        if path.name in named:
            raise InputError(f"{named[path.name]} and {path} have one name; visitors could not tell them apart")
        named[path.name] = path
    return named


def _model(spec: str) -> str:
    """The model without its address, which visitors need not know."""
    return spec.rpartition("#")[2] or "chat model"


def _users(path: Path | None) -> list[tuple[str, str]]:
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"The file of users cannot be read: {error}") from error
    users = [(name, password) for name, _, password in (line.partition(":") for line in lines)]
    if not users or not all(name and password for name, password in users):
        raise InputError(f"Each line of {path} must be NAME:PASSWORD, and there must be one")
    return users
