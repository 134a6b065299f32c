"""``rerankit serve``: rerankers behind HTTP, in the formats that clients already speak."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from rerankit.cli.index import CollectionOption, check_store
from rerankit.cli.output import reporting
from rerankit.errors import require


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number")
    return number


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--rerank",
            "-r",
            "--model",
            "-m",
            metavar="NAME=SPEC",
            help="A reranker to serve; repeatable. The first is the default.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8787,
    store: Annotated[
        str | None,
        typer.Option("--store", "-s", metavar="DIR|URL", help="Chroma's folder or server that /v1/ask searches."),
    ] = None,
    collection: CollectionOption = "rerankit",
    llm: Annotated[
        str | None,
        typer.Option(metavar="URL#MODEL", help="Chat model that writes the answers of /v1/ask (OpenAI-compatible)."),
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="API keys that clients must send one of, one per line; default $RERANKIT_API_KEYS."
        ),
    ] = None,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", metavar="NAME", help="Further host name to accept when there are no keys; repeatable."
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait for each reranker.")] = 256,
    wait_ms: Annotated[
        float, typer.Option(min=0, callback=_finite, help="Milliseconds that an idle reranker waits to fill a batch.")
    ] = 2.0,
    seconds: Annotated[float, typer.Option(min=0.001, callback=_finite, help="Time limit of a request.")] = 30.0,
    passages: Annotated[int, typer.Option(min=1, help="Most passages per request.")] = 1000,
    body_mb: Annotated[float, typer.Option(min=0.001, callback=_finite, help="Largest request, in megabytes.")] = 8.0,
    log_text: Annotated[bool, typer.Option("--log-text", help="Write queries and passages to the log.")] = False,
) -> None:
    """Serve rerankers over HTTP: Cohere, Jina, Voyage and TEI clients work unchanged.

    Also serves embeddings (OpenAI's format), metrics (Prometheus), a page of the API at /docs and, with --store,
    /v1/ask.
    """
    with reporting(as_json=False):
        require("fastapi", extra="server", purpose="Serving")
        from rerankit.server.auth import read_keys
        from rerankit.server.run import run
        from rerankit.server.settings import AskSettings, Limits, Settings, named_models

        if store is not None:
            require("chromadb", extra="chroma", purpose="The Chroma store")
            check_store(store)
        limits = Limits(
            body_bytes=int(body_mb * 2**20), passages=passages, seconds=seconds, queue=queue, wait_ms=wait_ms
        )
        settings = Settings(
            models=named_models(models or ["default=default"]),
            ask=None if store is None else AskSettings(store, collection, llm),
            api_keys=read_keys(api_keys),
            limits=limits,
            hosts=tuple(hosts or ()),
            log_text=log_text,
        )
        run(settings, host=host, port=port)
