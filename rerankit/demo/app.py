"""The app put together and served."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rerankit.demo import tab_ask, tab_compare, tab_documents, tab_experiments
from rerankit.demo.closed import take_uploads_only
from rerankit.demo.desk import Desk
from rerankit.demo.library import Shelf
from rerankit.demo.look import launch_options
from rerankit.demo.settings import Settings
from rerankit.errors import require
from rerankit.evaluation.arena import Arena

__all__ = ["build", "launch"]

_TITLE = "rerankit"
_HEAD = """<div class="rk-head"><h1>rerankit</h1>
<p>Retrieve, rerank, answer with sources: see what each step does.</p></div>"""
_TOGGLE = "() => { document.body.classList.toggle('dark'); }"


def build(desk: Desk, arena: Arena, shelf: Shelf) -> Any:
    """The app as ``gradio.Blocks``, not yet served."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read while it is imported
    gr = require("gradio", extra="demo", purpose="The demo")
    limits = desk.settings.limits
    keep = (limits.library_s, limits.library_s)
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=keep) as blocks:
        with gr.Row():
            gr.HTML(_HEAD)
            toggle = gr.Button("Light or dark", size="sm", scale=0, min_width=130, elem_id="theme")
        toggle.click(None, js=_TOGGLE, api_visibility="private")
        with gr.Tabs(overflow_behavior="wrap"):  # on a phone too, none of them hides in a menu
            with gr.Tab("Ask", id="ask"):
                tab_ask.build(blocks, desk)
            with gr.Tab("Compare", id="compare"):
                tab_compare.build(desk, arena)
            with gr.Tab("Your documents", id="documents"):
                tab_documents.build(desk, shelf)
            with gr.Tab("Experiments", id="experiments"):
                tab_experiments.build(desk)
    take_uploads_only(blocks)
    return blocks.queue(default_concurrency_limit=limits.running, max_size=limits.waiting)


def launch(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: Sequence[tuple[str, str]] = (),
    share: bool = False,
    block: bool = True,
) -> str:
    """Serve the app.

    Args:
        settings: see :class:`~rerankit.demo.settings.Settings`.
        host: address to listen on.
        port: 0 takes a free one.
        auth: (user, password) pairs; none leaves the door open.
        share: make a public link through Gradio's servers.
        block: serve until interrupted.

    Returns:
        The address, once the server has started.

    Raises:
        RerankitError: something that was named cannot be used, or a package is missing.
    """
    gr = require("gradio", extra="demo", purpose="The demo")
    desk = Desk(settings)
    arena = Arena(list(settings.rerankers), path=settings.votes)
    blocks = build(desk, arena, Shelf(settings.limits))
    desk.warm_up()
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port or None,
        auth=list(auth) or None,
        share=share,
        max_file_size=settings.limits.file_bytes,
        **launch_options(gr),
    )
    if block:
        print(f"rerankit demo at {address}", flush=True)  # noqa: T201
        blocks.block_thread()
    return str(address)
