"""``rerankit mcp``: rerank, search, ask and compare as tools for LLM agents."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from rerankit.cli import INTERRUPTED
from rerankit.cli.index import check_store
from rerankit.cli.output import reporting


def mcp(
    store: Annotated[
        str | None,
        typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma's folder or server that search and ask read."),
    ] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", metavar="NAME", help="Chroma collection to show; repeatable. Default: all."),
    ] = None,
    rerankers: Annotated[
        list[str] | None,
        typer.Option("--rerank", "-r", metavar="SPEC|NAME=SPEC", help="Reranker that agents may use; repeatable."),
    ] = None,
    llm: Annotated[
        str | None, typer.Option(metavar="URL#MODEL", help="Let a chat model write the answers (OpenAI-compatible).")
    ] = None,
    http: Annotated[
        bool, typer.Option("--http", help="Serve over streamable HTTP instead of standard input and output.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on with --http.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on with --http; 0 takes a free one.")
    ] = 8765,
    hosts: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Further host name to accept with --http; repeatable."),
    ] = None,
) -> None:
    """Serve rerankers, and the documents of a store, to LLM agents (Model Context Protocol).

    Without --rerank agents may use the offline rerankers; with it, those and no others. Without --store there are
    the tools rerank and compare, with it search and ask too. With --http, keys in RERANKIT_API_KEYS open the server.
    """
    with reporting(as_json=False):
        from rerankit.server.auth import read_keys
        from rerankit.server.mcp import build, run_http, run_stdio
        from rerankit.server.settings import named_models

        if store is not None:
            check_store(store)
        generator = None
        if llm is not None:
            from rerankit.rag.generative import ChatGenerator

            generator = ChatGenerator(llm)
        allowed = named_models(rerankers) if rerankers else None
        with build(allowed, store=store, collections=collections or (), generator=generator) as server:
            if http:
                # uvicorn raises the signal again when all is done; by then it means nothing but the end
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
                run_http(server, host=host, port=port, hosts=hosts or (), api_keys=read_keys(None), ready=_tell)
            else:
                # at once: the thread that reads standard input could not be woken, and nothing is ever written
                signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
                if sys.stdin.isatty():
                    typer.echo("Waiting for an agent on standard input; --http serves over HTTP", err=True)
                run_stdio(server)


def _tell(address: str) -> None:
    typer.echo(f"Serving MCP at {address}", err=True)
