"""Finished comparisons and small ones made on the spot, as the report that ``rerankit compare`` writes."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rerankit.demo.comparing import FEWEST, MOST
from rerankit.demo.datasets import Datasets, Told
from rerankit.demo.html import text
from rerankit.demo.settings import Settings
from rerankit.errors import InputError

__all__ = ["framed", "report_of", "runs", "small_report"]

_DEPTH = 20
_LONGEST = 20 * 2**20


def runs(settings: Settings) -> list[str]:
    """Names of the run folders that visitors may open."""
    if settings.runs is None or not settings.runs.is_dir():
        return []
    return sorted(path.parent.name for path in settings.runs.glob("*/experiment.json"))


def report_of(settings: Settings, name: str) -> str:
    """The report of a finished run, as a page.

    Raises:
        InputError: there is no such run, or it has no report.
    """
    if settings.runs is None or name not in runs(settings):
        raise InputError("Choose one of the runs in the list.")
    path = settings.runs / name / "report.html"
    if not path.is_file():
        raise InputError(f"The run {name!r} has no report yet; finish it with rerankit compare.")
    if path.stat().st_size > _LONGEST:
        raise InputError(f"The report of {name!r} is too large to show here; open its report.html in a browser.")
    return path.read_text("utf-8", errors="replace")


def small_report(
    settings: Settings,
    datasets: Datasets,
    data: str,
    names: Sequence[str],
    questions: int,
    told: Told = lambda *_: None,
) -> str:
    """Compare rerankers on questions of a dataset now, and give the report's page.

    Args:
        settings: of the app.
        datasets: of the app.
        data: a name of one of them.
        names: of the app's rerankers.
        questions: how many, evenly spread over the judged ones; all if the dataset has fewer.
        told: of the progress.

    Raises:
        InputError: too few or too many, or an unknown one.
        RerankitError: a reranker cannot be built.
    """
    chosen = [name for name in dict.fromkeys(names) if name in settings.rerankers]
    if not FEWEST <= len(chosen) <= MOST or len(chosen) < len(set(names)):
        raise InputError(f"Choose {FEWEST} to {MOST} of the rerankers in the list.")
    if not 1 <= questions <= settings.limits.questions:
        raise InputError(f"An experiment here asks 1 to {settings.limits.questions} questions, got {questions}.")
    from rerankit.evaluation.experiment import BASELINE, Arm, Experiment
    from rerankit.evaluation.report import write_report
    from rerankit.evaluation.results import Results
    from rerankit.evaluation.runfolder import RunFolder

    arms = [Arm(name, settings.rerankers[name]) for name in chosen if settings.rerankers[name] != BASELINE]
    dataset, candidates = datasets.candidates(data, questions, _DEPTH, told)
    asked = itertools.count(1)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place))
        folder.begin({"data": data, "depth": _DEPTH, "questions": len(dataset.questions)})
        experiment = Experiment(dataset, candidates, arms, folder)
        experiment.run(lambda _: told("Asking questions", next(asked), len(dataset.questions)))
        results = Results(dataset, folder, only=[arm.name for arm in experiment.arms])
        html, _ = write_report(results)
        return html.read_text("utf-8")


def framed(page: str) -> str:
    """A page in a frame that runs no script and reaches nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    guarded = f'<meta http-equiv="Content-Security-Policy" content="{policy}">{page}'
    return (
        '<iframe class="rk-report" title="Report of the experiment" sandbox="" referrerpolicy="no-referrer" '
        f'srcdoc="{text(guarded)}"></iframe>'
    )
