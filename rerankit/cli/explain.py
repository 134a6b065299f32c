"""``rerankit explain``: what the arms of a comparison did to one question."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankit.cli.output import JsonOption, emit, messages, reporting
from rerankit.errors import InputError

if TYPE_CHECKING:
    from rerankit.evaluation.results import Results


def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder written by rerankit compare.")],
    query: Annotated[str, typer.Argument(help="A question's id or text.")],
    arm: Annotated[str | None, typer.Option("--arm", "-a", help="Show only this arm (reranker).")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="farm|FOLDER|FILE", help="Where the data are, if they have moved.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", "-m", help="Metric to explain by; default the one that decided the run.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what entered and left the context of one question, and what that did to the answer."""
    with reporting(as_json):
        from rerankit.evaluation.comparison import reopen
        from rerankit.evaluation.report import explain as movements

        with messages().status("Opening the run"):
            results = reopen(run, data=data, metrics=[metric] if metric else [])
            name = _query(results, query)
            moves = movements(results, name, arm)
        question = results.dataset.questions[name].text
        if as_json:
            emit({"query": name, "question": question, "metric": results.metrics[0], "arms": moves})
        else:
            from rerankit.cli.show_comparison import show_movements

            show_movements(question, moves, results.metrics[0])


def _query(results: Results, text: str) -> str:
    """The id of a question that was named by its id or its text."""
    questions = results.dataset.questions
    if text in questions:
        return text
    by_text = {question.text.strip().casefold(): name for name, question in questions.items()}
    if (name := by_text.get(text.strip().casefold())) is not None:
        return name
    near = difflib.get_close_matches(text, [*questions, *by_text], 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"the first ids are {', '.join(list(questions)[:5])}"
    raise InputError(f"No question {text!r} in {results.folder.path}; {hint}")
