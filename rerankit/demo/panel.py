"""A question, its controls and its results: the part that the tabs *Ask* and *Your documents* share."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rerankit.demo.choice import DEPTH, TOP_K, Choice
from rerankit.demo.desk import Desk
from rerankit.demo.html import error
from rerankit.demo.settings import EXTRACTIVE
from rerankit.demo.view import answered, both_orders, retrieved_only, writing
from rerankit.errors import InputError, RerankitError
from rerankit.rag.context import Context
from rerankit.rag.events import Delta, Done, Packed, Reranked, Retrieved
from rerankit.types import Passage, Ranking

if TYPE_CHECKING:
    from rerankit.rag.chroma import ChromaRetriever

__all__ = ["WORK", "Controls", "answer_steps", "controls", "say"]

logger = logging.getLogger(__name__)

WORK = "work"
"""The queue of everything that needs a model."""

Step = tuple[str, str]
"""The HTML of the answer, and that of the two lists."""


def answer_steps(
    desk: Desk, question: str, choice: Choice, panel: str, retriever: ChromaRetriever | None = None
) -> Iterator[Step]:
    """What to show, step by step, from the first candidates to the checked answer; or what went wrong, in words."""
    candidates: Sequence[Passage] = ()
    ranking, context, text = Ranking(question, (), "", "order"), Context(), ""
    lists = ""
    try:
        for event in desk.ask(question, choice, retriever):
            match event:
                case Retrieved(candidates):
                    lists = retrieved_only(candidates)
                case Reranked(ranking):
                    lists = both_orders(candidates, ranking, context, None, panel)
                case Packed(context):
                    continue
                case Delta(piece):
                    text += piece
                case Done(result):
                    yield answered(result, panel), both_orders(candidates, ranking, context, result.answer, panel)
                    return
            yield writing(text), lists
    except Exception as failure:  # the visitor is told in words, whatever it is
        yield say(failure), lists


def say(failure: Exception) -> str:
    """An error for the visitor; what nobody planned for goes into the log."""
    if isinstance(failure, RerankitError):
        return error(failure)
    logger.error("the app failed", exc_info=failure)
    return error("Something went wrong here; whoever runs this app finds the reason in its log. Try again.")


@dataclass(frozen=True, slots=True, eq=False)
class Controls:
    """The components that make up a :class:`~rerankit.demo.choice.Choice`, in its order."""

    reranker: Any
    depth: Any
    top_k: Any
    filters: Any
    writer: Any

    def all(self) -> list[Any]:
        """As inputs of an event."""
        return [self.reranker, self.depth, self.top_k, self.filters, self.writer]


def controls(desk: Desk, panel: str, *, filters: bool) -> Controls:
    """The settings of a question."""
    import gradio as gr

    settings, limits = desk.settings, desk.settings.limits
    names = list(settings.rerankers)
    with gr.Accordion("Settings", open=False, elem_id=f"{panel}-settings"):
        with gr.Row():
            reranker = gr.Dropdown(
                names,
                value=names[0],
                label="Reranker",
                info="Choose one, or type a spec such as dense[:20] | lexical",
                allow_custom_value=True,
                elem_id=f"{panel}-reranker",
            )
            writer = gr.Dropdown(
                desk.writers,
                value=EXTRACTIVE,
                label="Writer",
                info="Who writes the answer from the passages",
                elem_id=f"{panel}-writer",
            )
        with gr.Row():
            depth = gr.Slider(2, limits.depth, DEPTH, step=1, label="Candidates to retrieve", elem_id=f"{panel}-depth")
            top_k = gr.Slider(1, limits.top_k, TOP_K, step=1, label="Passages for the answer", elem_id=f"{panel}-k")
        chosen = gr.Dropdown(
            desk.filters if filters else [],
            value=[],
            multiselect=True,
            label="Only passages with",
            visible=filters and bool(desk.filters),
            elem_id=f"{panel}-filters",
        )
    return Controls(reranker, depth, top_k, chosen, writer)


def as_choice(reranker: Any, depth: Any, top_k: Any, filters: Any, writer: Any) -> Choice:
    """A choice from what the components hold, whatever that is.

    Raises:
        InputError: a number is none.
    """
    try:
        numbers = int(depth), int(top_k)
    except (TypeError, ValueError) as failure:
        raise InputError("The numbers of candidates and passages must be whole numbers.") from failure
    return Choice(str(reranker or ""), *numbers, tuple(map(str, filters or ())), str(writer or ""))
