"""The tab *Compare*: two to four rerankers on one question, a blind vote, then the names."""

from __future__ import annotations

from typing import Any

from rerankit.demo.choice import DEPTH, TOP_K
from rerankit.demo.comparing import MOST, SAME, Comparison, compare, leaderboard, order_of, revealed, shown_blind
from rerankit.demo.desk import Desk
from rerankit.demo.html import error, note
from rerankit.demo.panel import WORK, say
from rerankit.demo.tab_ask import EXAMPLES
from rerankit.errors import RerankitError
from rerankit.evaluation.arena import Arena

__all__ = ["build"]


def build(desk: Desk, arena: Arena) -> None:
    """Put the tab into the open blocks."""
    import gradio as gr

    names, limits = list(desk.settings.rerankers), desk.settings.limits
    with gr.Row(equal_height=True):
        question = gr.Textbox(
            label="Your question", lines=1, scale=5, min_width=260, elem_id="compare-question",
            max_length=limits.question, value=EXAMPLES[0] if desk.settings.store is None else "",
        )  # fmt: skip
        go = gr.Button("Compare", variant="primary", scale=1, min_width=90, elem_id="compare-go")
    chosen = gr.CheckboxGroup(names, value=_first(names), label="Rerankers, two to four", elem_id="compare-names")
    with gr.Row():
        blind = gr.Checkbox(True, label="Hide the names until I have voted", elem_id="compare-blind")
        depth = gr.Slider(2, limits.depth, DEPTH, step=1, label="Candidates to retrieve")
        top_k = gr.Slider(1, limits.top_k, TOP_K, step=1, label="Passages for the answer")
    state = gr.State(None)
    answers = gr.HTML(note("The answers will stand here, without names."), elem_id="compare-answers")
    with gr.Row(equal_height=True):
        ballot = gr.Radio([], label="Which answer is better?", visible=False, scale=4, elem_id="compare-ballot")
        vote = gr.Button("Vote", visible=False, scale=1, min_width=90, elem_id="compare-vote")
    details = gr.HTML("", elem_id="compare-details")
    ratings = gr.HTML(elem_id="compare-ratings")

    def run(text: str, picked: list[str], hidden: bool, depth: float, top_k: float) -> list[Any]:
        try:
            made = compare(desk, arena, text, picked or [], int(depth), int(top_k))
        except Exception as failure:  # the visitor is told in words, whatever it is
            return [None, say(failure), gr.Radio(visible=False), gr.Button(visible=False), "", board()]
        votes = made.ballot is not None
        radio = gr.Radio([*made.letters, SAME], value=None, visible=votes)
        shown = "" if hidden and votes else revealed(made)
        return [made if votes else None, shown_blind(made), radio, gr.Button(visible=votes), shown, board()]

    def cast(made: Comparison | None, picked: str | None) -> list[Any]:
        if made is None or made.ballot is None:
            return [None, error("There is nothing to vote on; compare first."), gr.skip(), gr.skip(), board()]
        try:
            arena.vote(made.ballot, order_of(made, picked or ""))
        except RerankitError as failure:
            return [made, say(failure), gr.skip(), gr.skip(), board()]
        thanks = note("Thank you, your vote counts. These were the rerankers:")
        return [None, thanks + revealed(made), gr.Radio(visible=False), gr.Button(visible=False), board()]

    def board() -> str:
        return leaderboard(arena.ratings(), len(arena.votes))

    ratings.value = board
    gr.on(
        [go.click, question.submit], run, [question, chosen, blind, depth, top_k],
        [state, answers, ballot, vote, details, ratings], api_name="compare", concurrency_id=WORK,
        show_progress="minimal", show_progress_on=answers,
    )  # fmt: skip
    vote.click(cast, [state, ballot], [state, details, ballot, vote, ratings], api_name="vote")


def _first(names: list[str]) -> list[str]:
    """Two that differ most: the first, and the first stage's own order."""
    return [names[0], names[-1]] if len(names) > 1 else names[:MOST]
