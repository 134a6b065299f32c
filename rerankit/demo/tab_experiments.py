"""The tab *Experiments*: a run of ``rerankit compare``, or a small one on the sample questions, and its plots."""

from __future__ import annotations

from typing import Any

from rerankit.demo.desk import Desk
from rerankit.demo.experiments import framed, report_of, runs, small_report
from rerankit.demo.html import note
from rerankit.demo.panel import WORK, say

__all__ = ["build"]


def build(desk: Desk) -> None:
    """Put the tab into the open blocks."""
    import gradio as gr

    settings = desk.settings
    names, there = list(settings.rerankers), runs(settings)
    hint = "Start the app with --runs DIR to list runs of rerankit compare here." if not there else ""
    with gr.Row(equal_height=True):
        run = gr.Dropdown(there, label="A finished run", info=hint, scale=4, elem_id="runs-which")
        load = gr.Button("Show", scale=1, min_width=90, interactive=bool(there), elem_id="runs-show")
    chosen = gr.CheckboxGroup(
        names,
        value=[names[0], names[-1]],
        label="Or compare rerankers on the sample questions now",
        elem_id="runs-names",
    )
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

    def make(picked: list[str], count: float, progress: Any = gr.Progress()) -> str:  # noqa: B008
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            progress((done, int(count)), desc="Asking", unit="questions")

        try:
            return framed(small_report(settings, picked or [], int(count), advance))
        except Exception as failure:  # the visitor is told in words, whatever it is
            return say(failure)

    load.click(show, [run], [report], api_name="run")
    go.click(make, [chosen, questions], [report], api_name="experiment", concurrency_id=WORK)
