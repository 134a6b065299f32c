"""The tab *Your documents*: drop files, watch them being indexed, ask them, delete them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rerankit.demo.desk import Desk
from rerankit.demo.html import error, note
from rerankit.demo.library import Advance, Library, Shelf, limits_text
from rerankit.demo.panel import WORK, Step, answer_steps, as_choice, controls, say
from rerankit.demo.view import figures
from rerankit.errors import RerankitError
from rerankit.rag.loading import FORMATS

__all__ = ["build"]

_QUEUE = "uploads"
"""Theirs alone, so that nobody's question waits while files are indexed."""

_EMPTY = "No documents yet. Add some above, then ask them."
_ALL = "all of them"


def build(desk: Desk, shelf: Shelf) -> None:
    """Put the tab into the open blocks."""
    import gradio as gr

    limits = desk.settings.limits
    library = gr.State(None, time_to_live=limits.library_s, delete_callback=shelf.close)
    gr.HTML(note(limits_text(limits)))
    files = gr.File(
        label=f"Drop files here ({' '.join(FORMATS)})", file_count="multiple", elem_id="docs-files", height=150
    )
    listing = gr.HTML(note(_EMPTY), elem_id="docs-list")
    with gr.Row(equal_height=True):
        which = gr.Dropdown([], label="Delete", visible=False, elem_id="docs-which", scale=4)
        delete = gr.Button("Delete", visible=False, scale=1, min_width=90, elem_id="docs-delete")
    with gr.Row(equal_height=True):
        question = gr.Textbox(
            label="Your question", lines=1, scale=5, min_width=260, elem_id="docs-question", max_length=limits.question
        )
        ask = gr.Button("Ask", variant="primary", scale=1, min_width=90, elem_id="docs-go")
    chosen = controls(desk, "docs", filters=False)
    answer = gr.HTML("", elem_id="docs-answer")
    lists = gr.HTML("", elem_id="docs-lists")

    page = _Page(desk, shelf)

    def add(uploaded: list[str] | None, request: gr.Request, progress: Any = gr.Progress()) -> list[Any]:  # noqa: B008
        owner = request.session_hash or secrets.token_hex(16)
        return page.add(owner, uploaded or [], lambda done, total: progress((done, total), desc="Indexing"))

    # "from __future__ import annotations" makes it text, and gradio looks for the class itself.
    add.__annotations__["request"] = gr.Request
    files.upload(
        add, [files], [library, listing, which, delete, files], api_name="add", concurrency_id=_QUEUE,
        show_progress_on=listing, trigger_mode="multiple",  # more files may be dropped while some are indexed
    )  # fmt: skip
    delete.click(page.remove, [library, which], [library, listing, which, delete, answer, lists], api_name="delete")
    gr.on(
        [ask.click, question.submit], page.ask, [library, question, *chosen.all()], [answer, lists],
        api_name="ask_documents", concurrency_id=WORK, show_progress="minimal", show_progress_on=answer,
    )  # fmt: skip


class _Page:
    """What happens on the tab. A visitor's library comes in and goes out with every event."""

    def __init__(self, desk: Desk, shelf: Shelf) -> None:
        self._desk, self._shelf = desk, shelf

    def add(self, owner: str, uploaded: Sequence[str], advance: Advance) -> list[Any]:
        """Index what was uploaded; the uploaded files are deleted whatever happens."""
        paths, mine = [Path(name) for name in uploaded], None
        try:
            mine = self._shelf.library(owner)
            return [*_shown(mine, mine.add(paths, advance)), None]
        except RerankitError as failure:
            return [*_shown(mine, [str(failure)]), None]
        finally:
            for path in paths:
                with suppress(OSError):
                    path.unlink()

    def remove(self, mine: Library | None, name: str | None) -> list[Any]:
        """Delete one file or all of them, and the answers that may quote them."""
        problems = []
        if mine is not None:
            try:
                mine.clear() if name == _ALL else mine.remove(str(name))
            except RerankitError as failure:
                problems = [str(failure)]
        return [*_shown(mine, problems), "", ""]

    def ask(
        self, mine: Library | None, text: str, reranker: Any, depth: Any, top_k: Any, filters: Any, writer: Any
    ) -> Iterator[Step]:
        """Answer from the visitor's own documents."""
        if mine is None or not mine.files:
            yield error("There are no documents to ask yet. Add some above, and ask once they are listed."), ""
            return
        try:
            choice = as_choice(reranker, depth, top_k, filters, writer)
        except RerankitError as failure:
            yield say(failure), ""
            return
        yield from answer_steps(self._desk, text, choice, "docs", mine.retriever)


def _shown(mine: Library | None, problems: Sequence[str]) -> list[Any]:
    """The library, its list with what went wrong, the menu of its files, and the button."""
    import gradio as gr

    held = mine.files if mine is not None else {}
    table = figures({name: [_passages(count)] for name, count in held.items()}, ("File", "Indexed"))
    said = "".join(error(problem) for problem in problems)
    names = [*held, _ALL] if held else []
    menu = gr.Dropdown(names, value=names[0] if names else None, visible=bool(names))
    return [mine, said + (table if held else note(_EMPTY)), menu, gr.Button(visible=bool(names))]


def _passages(count: int) -> str:
    return f"{count} passage{'' if count == 1 else 's'}"
