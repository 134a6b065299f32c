"""The tab *Ask*: a question to the corpus, and a link that carries its settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rerankit.demo.choice import read_link
from rerankit.demo.desk import Desk
from rerankit.demo.html import note
from rerankit.demo.panel import WORK, Step, answer_steps, as_choice, controls, say
from rerankit.errors import RerankitError

__all__ = ["build"]

EXAMPLES = [
    (
        "The top is powder but there is good moisture at about 10 cm and nothing forecast. "
        "Is there a wheat I can put down there?"
    ),
    "My calf has the runs. Do I take it off milk while it's on electrolytes?",
    "Wheat wilts early every spring and the root ends are short and thick. What is going on?",
    "How deep should I sow wheat into dry soil?",
    "How many suckers do I leave on each banana mat?",
]

# The address bar always holds the link to what was asked last.
_LINK = """(q, r, depth, k, f, w) => {
  const link = new URL(window.location.href);
  link.search = new URLSearchParams({q, r, depth, k, f: (f || []).join('|'), w}).toString();
  link.hash = '';
  window.history.replaceState(null, '', link);
  return [q, r, depth, k, f, w];
}"""
_COPIED = note("Copied.")
_CLOSED = note("The browser keeps its clipboard closed here. Copy the address bar; it holds the link.")
# Browsers give pages of other machines a clipboard over HTTPS only.
_COPY = f"""async () => {{
  try {{ await navigator.clipboard.writeText(window.location.href); }} catch {{ return {_CLOSED!r}; }}
  return {_COPIED!r};
}}"""


def build(blocks: Any, desk: Desk) -> None:
    """Put the tab into ``blocks``, which is open."""
    import gradio as gr

    with gr.Row(equal_height=True):
        question = gr.Textbox(
            label="Your question", placeholder="Ask the corpus", lines=1, scale=5, min_width=260,
            elem_id="ask-question", max_length=desk.settings.limits.question,
        )  # fmt: skip
        ask = gr.Button("Ask", variant="primary", scale=1, min_width=90, elem_id="ask-go")
    chosen = controls(desk, "ask", filters=True)
    if desk.settings.store is None:
        gr.Examples(EXAMPLES, question, label="Examples", elem_id="ask-examples")
    answer = gr.HTML(note("The answer and its sources will stand here."), elem_id="ask-answer")
    lists = gr.HTML("", elem_id="ask-lists")
    copy = gr.Button("Copy the link to this question", size="sm", elem_id="ask-link")
    copied = gr.HTML("", elem_id="ask-copied")
    inputs = [question, *chosen.all()]

    def run(text: str, reranker: Any, depth: Any, top_k: Any, filters: Any, writer: Any) -> Iterator[Step]:
        try:
            choice = as_choice(reranker, depth, top_k, filters, writer)
        except RerankitError as failure:
            yield say(failure), ""
            return
        yield from answer_steps(desk, text, choice, "ask")

    asked = gr.on(
        [ask.click, question.submit], run, inputs, [answer, lists], api_name="ask", concurrency_id=WORK,
        show_progress="minimal", show_progress_on=answer, scroll_to_output=False,
    )  # fmt: skip
    asked.then(None, inputs, None, js=_LINK, api_visibility="private")
    copy.click(None, None, copied, js=_COPY, api_visibility="private")

    def opened(request: gr.Request) -> list[Any]:
        if not request.query_params:
            return [gr.skip()] * len(inputs)  # nothing to fill in, and the visitor may be typing already
        linked = read_link(dict(request.query_params), desk.settings, desk.filters)
        choice = linked.choice
        return [linked.question, choice.reranker, choice.depth, choice.top_k, list(choice.filters), choice.writer]

    # "from __future__ import annotations" makes it text, and gradio looks for the class itself.
    opened.__annotations__["request"] = gr.Request
    blocks.load(opened, None, inputs, api_visibility="private", queue=False, show_progress="hidden")
