"""The tab *Experiments*: a finished comparison, or a small one on a dataset, and its plots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rerankit.demo.datasets import SAMPLE, Datasets
from rerankit.demo.desk import Desk
from rerankit.demo.experiments import framed, report_of, runs, small_report
from rerankit.demo.html import note
from rerankit.demo.panel import say
from rerankit.demo.settings import Settings

__all__ = ["build"]

_QUEUE = "experiments"
"""Theirs alone and one at a time: indexing a dataset takes minutes, and questions must not wait for it."""


def build(desk: Desk) -> None:
    """Put the tab into the open blocks."""
    import gradio as gr

    settings, datasets = desk.settings, Datasets(desk.settings)
    names, there = list(settings.rerankers), runs(settings)
    with gr.Row(equal_height=True):
        run = gr.Dropdown(there, label="A finished run", info=_hint(settings, there), scale=4, elem_id="runs-which")
        load = gr.Button("Show", scale=1, min_width=90, interactive=bool(there), elem_id="runs-show")
    hint = "" if settings.datasets else "Start the app with --data DIR to list test collections here."
    data = gr.Dropdown(
        datasets.names, value=SAMPLE, label="Or compare rerankers now on", info=hint, elem_id="runs-data"
    )
    about = gr.HTML(note(datasets.get(SAMPLE).about()), elem_id="runs-about")
    chosen = gr.CheckboxGroup(names, value=[names[0], names[-1]], label="Rerankers, two to four", elem_id="runs-names")
    with gr.Row(equal_height=True):
        questions = gr.Slider(
            4, settings.limits.questions, 12, step=1, label="Questions", scale=4, elem_id="runs-questions"
        )
        go = gr.Button("Run", variant="primary", scale=1, min_width=90, elem_id="runs-go")
    report = gr.HTML(note("Table and plots will stand here."), elem_id="runs-report")

    def show(name: str | None) -> str:
        try:
            return framed(report_of(settings, str(name or "")))
        except Exception as failure:  # the visitor is told in words, whatever it is
            return say(failure)

    def describe(name: str | None) -> str:
        try:
            return note(datasets.get(str(name or "")).about())
        except Exception as failure:  # the visitor is told in words, whatever it is
            return say(failure)

    def make(
        name: str | None,
        picked: list[str],
        count: float,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> Iterator[str]:
        def told(what: str, done: int, total: int) -> None:
            progress((done, total), desc=what, unit="")

        yield ""  # what stood here before is another experiment
        try:
            yield framed(small_report(settings, datasets, str(name or ""), picked or [], int(count), told))
        except Exception as failure:  # the visitor is told in words, whatever it is
            yield say(failure)

    load.click(show, [run], [report], api_name="run")
    data.change(describe, [data], [about], api_name="dataset")
    go.click(
        make, [data, chosen, questions], [report], api_name="experiment", concurrency_id=_QUEUE, concurrency_limit=1
    )


def _hint(settings: Settings, there: list[str]) -> str:
    if there:
        return ""
    if settings.runs is not None:
        return "The folder of --runs holds no run yet; finish one with rerankit compare and start the app again."
    return "Start the app with --runs DIR to list runs of rerankit compare here."
