"""A whole training run of a cross-encoder: lists, base ranking, the loop, the card."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rerankit.checks import check_choice, check_whole
from rerankit.errors import InputError
from rerankit.models import embedded
from rerankit.models.adapter import FORMAT, RESIDUALS, classifier_net, encoder_checkpoint, write_classifier
from rerankit.models.backend_torch import load_module
from rerankit.models.checkpoint import Checkpoint, find_checkpoint
from rerankit.models.vector_cache import open_vectors
from rerankit.rerankers.calibration import CALIBRATION, Calibrator
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.rerankers.residual import Residual
from rerankit.training.calibrating import calibrated
from rerankit.training.card import DEV_FIGURES, EMBEDDED, LIST_PROBABILITIES, LIST_SCORES, Card, recipe, write_card
from rerankit.training.cross_encoder import CrossEncoderOptions, CrossEncoderTask, adapted
from rerankit.training.cross_encoder_data import PairReader, Ranked, RankedSet, ranked
from rerankit.training.folder import check_folder
from rerankit.training.lists_ndcg import ndcg_table
from rerankit.training.loop import fit
from rerankit.training.objective import FROM_TEACHER, Term, parse_losses
from rerankit.training.sources import ListSources, Tell, facts_of, source_rows, train_and_dev
from rerankit.training.task import Progress, Report, Settings

__all__ = ["CrossEncoderRun", "calibrate", "prepared", "train_cross_encoder"]

_NEEDS_MORE = {"info_nce": "list_nce", "two_tower": "kl", "ordinal": "list_nce"}
"""Losses that a cross-encoder cannot have, and what comes nearest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossEncoderRun(ListSources):
    """What to train a cross-encoder on, and how.

    Attributes:
        base: encoder or classifier to start from, folder or hub name; None for the embedded MiniLM.
        residual: the ranking to correct; ``none``: learn to rank alone.
        teacher: spec of a reranker to learn from; ``none`` for none but the scores that lists bring.
        losses: ``NAME=WEIGHT[@TEMPERATURE]``; default ``list_nce=1``, with a teacher ``kl=1`` too.
        options: of the cross-encoder.
        max_tokens: length limit of a pair.
    """

    base: str | None = None
    residual: str = "default"
    teacher: str = "none"
    losses: Sequence[str] = ()
    options: CrossEncoderOptions = field(default_factory=CrossEncoderOptions)
    max_tokens: int = 160


def train_cross_encoder(
    run: CrossEncoderRun,
    settings: Settings,
    folder: Path,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    tell: Tell = lambda _: None,
) -> tuple[Report, dict[str, float]]:
    """Train an adapter and write the folder that ``cross-encoder:FOLDER`` loads.

    Returns:
        What the run did, and the dev metrics of what was saved.

    Raises:
        InputError: data cannot be read, an option is out of range, or the folder is of another run.
        StoreError: a file cannot be written.
        ModelError: the base cannot be loaded, or the run failed.
        MissingExtraError: a package for training is not installed.
    """
    terms = _terms(run)
    check_folder(folder, FORMAT, run, settings, resume=resume)
    base = encoder_checkpoint(run.base)
    train, dev = prepared(run, folder, settings.seed, tell)
    _check_labels(train, terms)
    tell(f"{len(train):,} lists, {', '.join(map(str, terms))}")
    module, cross = _module(base, run, settings.seed)
    with cross:
        more = {"losses": [str(term) for term in terms], "teacher": run.teacher, "weight": run.options.weight}
        facts = facts_of(run, settings.seed, lists=len(train), **more)
        task = CrossEncoderTask(
            train, dev, module, PairReader(cross), base, run.residual, terms, run.options,
            dtype=settings.dtype, facts=facts,
        )  # fmt: skip
        report = fit(task, settings, folder, resume=resume, progress=progress)
        tell("Choosing the weight of the base ranking")
        best = task.tune()
        task.save(folder)
        lists = sum(len(one.lists) for one in task.dev)
        fitted, limits = calibrated(lambda: calibrate(folder, run, task), lists, folder / CALIBRATION, tell)
        if fitted is not None:
            tell(f"Calibration: {fitted.in_sample}")
        _write_card(run, report, task, best, folder, terms, limits)
    return report, best


def prepared(run: CrossEncoderRun, folder: Path, seed: int, tell: Tell) -> tuple[list[Ranked], list[RankedSet]]:
    """The lists of a run, ranked by its base.

    Raises:
        InputError: data cannot be read, or there is no such base ranking.
    """
    check_choice("residual", run.residual, RESIDUALS)
    check_whole(1, max_tokens=run.max_tokens)
    cache = run.cache or folder / "cache"
    with closing(open_vectors(run.vectors)) as vectors:
        encoder = embedded.embedder() if run.retrieve else None
        train, dev = train_and_dev(run, encoder, vectors, seed, tell)
        sets = [RankedSet(name, ranked(part, run.residual, "none", cache, vectors, tell)) for name, part in dev.items()]
        return ranked(train, run.residual, run.teacher, cache, vectors, tell), sets


def calibrate(folder: Path, run: CrossEncoderRun, task: CrossEncoderTask) -> Calibrator:
    """Fit a Platt map on the scores of the dev lists and write ``calibration.json``.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InputError: the scores do not rise with relevance.
    """
    rows = list(enumerate(task.scored()))
    scores = np.concatenate([values for _, (values, _) in rows])
    labels = np.concatenate([grades > 0 for _, (_, grades) in rows]).astype(float)
    groups = [number for number, (values, _) in rows for _ in values]
    with Residual(folder, encoder=run.base) as reranker:
        fitted = Calibrator.fit(scores, labels, reranker=reranker, groups=groups)
    fitted.save(folder / CALIBRATION)
    return fitted


def _terms(run: CrossEncoderRun) -> tuple[Term, ...]:
    """The losses, checked before anything is read."""
    taught = run.teacher != "none"
    usual = ("list_nce=1", "kl=1") if taught else ("list_nce=1",)
    terms = parse_losses(run.losses or usual, temperature=1.0)[""]
    for term in terms:
        if term.name in _NEEDS_MORE:
            raise InputError(f"The loss {term.name!r} is not for cross-encoders; take {_NEEDS_MORE[term.name]!r}")
    if taught and not _learn_from_teacher(terms):
        raise InputError(
            f"No loss learns from the teacher {run.teacher!r}: add one, such as --loss kl=1, or leave out --teacher"
        )
    return tuple(terms)


def _learn_from_teacher(terms: Sequence[Term]) -> bool:
    return any(term.name in FROM_TEACHER for term in terms)


def _check_labels(lists: Sequence[Ranked], terms: Sequence[Term]) -> None:
    """See that there is something to learn from, for the losses would be 0 to the end.

    Raises:
        InputError: a loss wants a teacher's scores and no list has them, or all want grades and no list has one.
    """
    taught = _learn_from_teacher(terms)
    if taught and not any(one.teacher is not None for one in lists):
        raise InputError(
            "A loss learns from a teacher, and no list of two passages has a teacher's scores: name one (--teacher "
            "default), or take losses that learn from grades, such as --loss list_nce=1"
        )
    if not taught and not any(one.grades.any() for one in lists):
        raise InputError(
            "No list of two passages has a grade above 0 to learn from; lists with a teacher's scores teach --loss kl=1"
        )


def _module(base: Checkpoint, run: CrossEncoderRun, seed: int) -> tuple[Any, CrossEncoder]:
    """The module to train, and the same model as a reranker, which knows how pairs are framed."""
    with tempfile.TemporaryDirectory() as place:
        start = Path(place) / "start"
        start.mkdir()
        write_classifier(classifier_net(base, seed=seed)[0], base, start)
        module = load_module(find_checkpoint(start), "logits", "float32")
        cross = CrossEncoder(
            start, backend="torch", device="cpu", dtype="float32", max_tokens=run.max_tokens, read_out="single"
        )
    module.model = adapted(module.model, run.options, seed)
    return module, cross


def _write_card(
    run: CrossEncoderRun,
    report: Report,
    task: CrossEncoderTask,
    best: Mapping[str, float],
    folder: Path,
    terms: Sequence[Term],
    limits: Sequence[str],
) -> None:
    sizes = {one.name: len(one.lists) for one in task.dev}
    options, command = run.options, run.command or "rerankit train cross-encoder"
    name = "given order" if run.residual == "none" else run.residual
    shape = {
        "lists": f"{len(task.lists):,}",
        "corrects": f"{run.residual}, whose standard deviation is worth {task.weight:g} logits "
        f"({options.weight:g} in training)",
        "adapter": f"LoRA of rank {options.rank}, on {options.layers or 'all'} layers, and the head",
        "pairs": f"{options.batch} lists per step, {asdict(options.pairs)}, of {run.max_tokens} tokens",
        "losses": ", ".join(map(str, terms)),
        "teacher": run.teacher,
    }
    card = Card(
        name="A cross-encoder that corrects a ranking",
        summary=_SUMMARY,
        license=run.licence,
        base_model=run.base or EMBEDDED,
        sources=source_rows(run, "choice of weights and correction"),
        recipe={**shape, **recipe(report)},
        seed=report.settings.seed,
        command=command,
        tables=[ndcg_table(sizes, {name: task.untrained(), "with this model": best}, command)],
        limits=(*_LIMITS, *limits),
        tags=("reranking", "cross-encoder"),
        usage=_USAGE,
    )
    write_card(folder, card)


_SUMMARY = """
Reads query and passage together and says how far a ranking that is good anyway should be corrected. A low-rank adapter
on a sentence encoder, trained on the sum of that ranking's standardised scores and its own logits, so that it only had
to learn what the ranking misses.
"""

_USAGE = """
import rerankit

ranking = rerankit.load("cross-encoder:FOLDER").rank("How deep to sow wheat?", ["Sow wheat 3 to 5 cm deep."])
"""

_LIMITS = (
    "It corrects the ranking that it was trained with; its logits alone do not order a list well.",
    LIST_SCORES,
    LIST_PROBABILITIES,
    "It reads the first passages of the base ranking only; what that puts far behind stays there.",
    DEV_FIGURES,
)
