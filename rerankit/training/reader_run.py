"""A whole training run of a reader: data, wrong passages, the loop, calibration, the card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rerankit.checks import check_whole
from rerankit.errors import InputError
from rerankit.models import embedded
from rerankit.models.checkpoint import Checkpoint, find_checkpoint
from rerankit.models.files import write_atomically
from rerankit.models.span_reader import FORMAT
from rerankit.rerankers.calibration_fit import Quality, checked, fit_map, quality
from rerankit.training.calibrating import calibrated
from rerankit.training.card import EMBEDDED, Card, Table, recipe, write_card
from rerankit.training.folder import check_folder
from rerankit.training.loop import fit
from rerankit.training.reader import ReaderOptions, ReaderTask
from rerankit.training.reader_dev import DevSet, dev_set, read_all
from rerankit.training.reader_examples import ReaderExample, normalised, read_examples, texts_of
from rerankit.training.reader_negatives import Swapper, hard_negatives
from rerankit.training.sources import Sources, Tell, facts_of, source_name, source_rows
from rerankit.training.task import Progress, Report, Settings

__all__ = ["ReaderRun", "calibrate", "train_reader"]

CALIBRATION = "calibration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderRun(Sources):
    """What to train a reader on: what :func:`~rerankit.training.reader_examples.read_examples` reads.

    The dev data, which it cannot do without, serves its calibration too.

    Attributes:
        base: the encoder; default the embedded MiniLM.
        options: of the reader.
    """

    base: str | None = None
    options: ReaderOptions = field(default_factory=ReaderOptions)


def train_reader(
    run: ReaderRun,
    settings: Settings,
    folder: Path,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    tell: Tell = lambda _: None,
) -> tuple[Report, Quality | None]:
    """Train, calibrate on the dev data, and write a folder for :class:`~rerankit.models.span_reader.SpanReader`.

    Returns:
        What the run did, and how well its probabilities fit the dev data; None where these give no calibration.

    Raises:
        InputError: data cannot be read, an option is out of range, or the folder is of another run.
        StoreError: a file cannot be written.
        ModelError: the encoder cannot be loaded, or the run failed.
        MissingExtraError: peft, matplotlib or scikit-learn is not installed.
    """
    check_whole(1, dev_count=run.dev_count)
    if not run.dev:
        raise InputError("A reader needs dev data: name a collection outside the domains of the training data")
    check_folder(folder, FORMAT, run, settings, resume=resume)
    parts, dev = _examples(run, settings.seed, tell)
    task = _task(parts, dev, run, settings.seed)
    report = fit(task, settings, folder, resume=resume, progress=progress)
    asked = {example.question for one in dev for example in one.examples}
    fitted, limits = calibrated(lambda: calibrate(task, folder), len(asked), folder / CALIBRATION, tell)
    _write_card(run, report, fitted, folder, parts, dev, limits or (_CALIBRATED,))
    return report, fitted


def calibrate(task: ReaderTask, folder: Path) -> Quality:
    """Write ``calibration.json``: scores of the dev data to probabilities (Platt 1999).

    Raises:
        InputError: the dev data has no answerable or no unanswerable question, or scores do not tell them apart.
    """
    import torch

    examples = [example for one in task.dev for example in one.examples]
    with torch.no_grad():
        found = read_all(examples, task.frame, lambda windows: task.logits(windows).cpu().numpy())
    scores, right = checked([one.score for one in found], [float(bool(one.spans)) for one in examples], 0.5)
    fitted = fit_map("platt", scores, right)
    result = quality(np.asarray(fitted(scores)), right)
    facts = {
        **asdict(fitted),  # slope and intercept
        "fitted_on": ", ".join(f"{one.name} ({len(one.examples)} passages)" for one in task.dev),
        "brier": result.brier,
        "ece": result.ece,
    }
    write_atomically(folder / CALIBRATION, json.dumps(facts, indent=2) + "\n")
    return result


def _examples(run: ReaderRun, seed: int, tell: Tell) -> tuple[list[list[ReaderExample]], list[DevSet]]:
    """What each source has to train on, and the dev sets; no question is in both."""
    excluded = frozenset[str]().union(*map(texts_of, run.exclude))
    parts = [read_examples(one, corpus=run.corpus, count=run.count, exclude=excluded, seed=seed) for one in run.data]
    dev: dict[str, DevSet] = {}
    for one in run.dev:
        found = read_examples(one, corpus=run.corpus, split="test", count=run.dev_count, seed=seed)
        name = source_name(one, dev)
        dev[name] = dev_set(name, found)
    known = {normalised(example.question) for one in dev.values() for example in one.examples}
    kept = [[example for example in part if normalised(example.question) not in known] for part in parts]
    read, left = sum(map(len, parts)), sum(map(len, kept))
    if not left:
        raise InputError(
            f"All {read} training examples ask what a dev example asks and are left out: nothing is left to train on. "
            "Name dev data with other questions"
        )
    if left < read:
        tell(f"{read - left} training examples ask what a dev example asks and are left out")
    return kept, list(dev.values())


def _task(parts: Sequence[Sequence[ReaderExample]], dev: Sequence[DevSet], run: ReaderRun, seed: int) -> ReaderTask:
    """Wrong passages come from the example's own source."""
    wrong = [found for part in parts if part for found in hard_negatives(part)]
    examples = [example for part in parts for example in part]
    swapper, facts = Swapper(examples, embedded.embedder()), facts_of(run, seed, examples=len(examples))
    return ReaderTask(examples, wrong, swapper, dev, _encoder(run.base), run.options, seed=seed, facts=facts)


def _encoder(base: str | None) -> Checkpoint:
    if base is not None:
        return find_checkpoint(base)
    found = find_checkpoint(embedded.model_folder(), name="all-MiniLM-L6-v2")
    embedded.verify(found.weights[0])
    return found


def _write_card(
    run: ReaderRun,
    report: Report,
    fitted: Quality | None,
    folder: Path,
    parts: Sequence[Sequence[ReaderExample]],
    dev: Sequence[DevSet],
    limits: Sequence[str],
) -> None:
    counts = [f"{len(part):,} answerable examples" for part in parts]
    options, command = run.options, run.command or "rerankit train reader"
    shape = {
        "adapter": f"LoRA of rank {options.rank}, alpha {options.alpha}, on every linear layer",
        "windows": f"of {options.max_tokens} tokens, {options.batch} per step",
        "unanswerable examples": f"{options.unanswerable:g} per answerable one, of which {options.swapped:.0%} with a "
        "changed word in the question, the others with a near passage",
    }
    best = report.best.metrics
    calibration = "none" if fitted is None else f"Platt, expected calibration error {fitted.ece:.3f}"
    kinds = ("exact", "f1", "area")
    rows = [[one.name, *(best.get(f"{kind} {one.name}", "") for kind in kinds)] for one in dev]
    title = f"Best span and answerability on {run.dev_count} dev questions per set, as the run measures them"
    card = Card(
        name="An extractive reader",
        summary=_SUMMARY,
        license=run.licence,
        base_model=run.base or EMBEDDED,
        sources=source_rows(run, "choice of the weights, calibration", counts),
        recipe={**shape, **recipe(report), "calibration": calibration},
        seed=report.settings.seed,
        command=command,
        tables=[Table(title, ("set", "exact", "F1", "area"), rows, command)],
        limits=(*_LIMITS, *limits),
        pipeline_tag="question-answering",
        tags=("reading", "abstention"),
        usage=_USAGE,
    )
    write_card(folder, card)


_SUMMARY = """
Marks the span of a passage that answers a question, or says that none does: a low-rank adapter and a span head on a
sentence encoder. Small and quick; made to find the sentence to quote and to know when to stay silent, not to win a
reading contest.
"""

_USAGE = """
from rerankit.models.span_reader import SpanReader

[reading] = SpanReader().read("How deep to sow wheat?", ["Sow wheat 3 to 5 cm deep."])
print(reading.spans[0].text, reading.probability)
"""

_LIMITS = (
    "As good as its encoder is in a language and a field. A small one finds places that fit; it does not reason.",
    "A span is a piece of one passage; yes-or-no answers and answers put together from several places have none.",
)
_CALIBRATED = (
    "The probability is calibrated on passages that are right and near passages that are wrong in equal number."
)
