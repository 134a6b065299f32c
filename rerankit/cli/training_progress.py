"""A training run on the terminal: a bar with loss and dev metric, and a quiet end on Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from rerankit.cli.output import messages, printable

if TYPE_CHECKING:
    from rerankit.training.task import Moment, Progress

__all__ = ["tell", "training_progress"]

INTERRUPTED = 130


def tell(text: str) -> None:
    """A line on stderr, for the ``tell`` of a run."""
    messages().print(printable(text), soft_wrap=True)


@contextmanager
def training_progress() -> Iterator[Progress]:
    """Give the ``progress`` of :func:`rerankit.training.loop.fit`: a line per evaluation, and on a terminal a bar.

    Raises:
        typer.Exit: Ctrl-C, with status 130; what was written and how to go on stands on stderr.
    """
    from rich import progress as rich

    columns = (
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.description}"),
        rich.TimeRemainingColumn(),
    )
    console = messages()
    try:
        with rich.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=None)

            def show(moment: Moment) -> None:
                if moment.metrics:
                    console.print(printable(evaluation_line(moment)), soft_wrap=True)
                bar.update(task, completed=moment.step, total=moment.steps, description=printable(_state(moment)))

            yield show
    except KeyboardInterrupt as stop:
        typer.echo(printable(str(stop)) or "Stopped.", err=True)
        raise typer.Exit(INTERRUPTED) from None


def evaluation_line(moment: Moment) -> str:
    """``step 200: ndcg@10 0.412, mrr 0.380 (best so far)``."""
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in moment.metrics.items())
    is_best = moment.best is not None and moment.best.step == moment.step
    return f"step {moment.step}: {metrics}{' (best so far)' if is_best else ''}"


def _state(moment: Moment) -> str:
    """What stands beside the bar: the epoch, the loss of the last step, the best dev metric."""
    parts = [f"epoch {moment.epoch + 1}"]
    if "loss" in moment.losses:
        parts.append(f"loss {moment.losses['loss']:.4f}")
    if moment.best is not None:
        parts.append(f"best {moment.best.metric} {moment.best.value:.4f}")
    return ", ".join(parts)
