"""A whole training run of a ResRank-style model: lists, teacher, stages, the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.models import embedded
from rerankit.models.encoder import TextEncoder
from rerankit.models.resrank_files import FORMAT, ResRankConfig, load_resrank, read_config
from rerankit.models.vector_cache import open_vectors
from rerankit.rerankers.calibration import CALIBRATION
from rerankit.rerankers.compressed_inputs import CompressedInputs
from rerankit.training.calibrating import calibrated
from rerankit.training.card import DEV_FIGURES, EMBEDDED, LIST_PROBABILITIES, LIST_SCORES, Card, recipe, write_card
from rerankit.training.compressed import CompressedModel, CompressedOptions, CompressedTask, new_model
from rerankit.training.compressed_calibration import calibrate
from rerankit.training.compressed_data import Bank, build_bank
from rerankit.training.compressed_encoder import TrainableEncoder
from rerankit.training.compressed_losses import STAGES, stage_terms
from rerankit.training.folder import check_folder
from rerankit.training.lists import TrainingList
from rerankit.training.lists_ndcg import ndcg_table
from rerankit.training.loop import fit
from rerankit.training.objective import Term, parse_losses
from rerankit.training.sources import ListSources, Tell, facts_of, source_rows, train_and_dev
from rerankit.training.task import Progress, Report, Settings
from rerankit.training.teaching import taught

__all__ = ["CompressedRun", "train_compressed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedRun(ListSources):
    """What to train a ResRank-style model on, and how.

    Attributes:
        teacher: spec of the reranker to learn from; ``none`` for none.
        stages: in order: ``one``, ``two``, ``joint``.
        losses: ``[STAGE:]NAME=WEIGHT[@TEMPERATURE]``, instead of the stages' own.
        encoder: folder or hub name; None for the embedded one.
        lora_rank: of the encoder's adapter; 0 leaves the encoder as it is.
        start: a folder to go on from, instead of plain cosine.
        shape: fields of :class:`~rerankit.models.resrank_files.ResRankConfig`.
        options: how lists become batches.
    """

    dev_count: int | None = 200
    teacher: str = "default"
    stages: Sequence[str] = ("one", "two")
    losses: Sequence[str] = ()
    encoder: str | None = None
    lora_rank: int = 0
    start: Path | None = None
    shape: Mapping[str, Any] = field(default_factory=dict)
    options: CompressedOptions = field(default_factory=CompressedOptions)


def train_compressed(
    run: CompressedRun,
    settings: Settings,
    folder: Path,
    *,
    resume: bool = True,
    progress: Progress | None = None,
    tell: Tell = lambda _: None,
) -> list[Report]:
    """Train stage after stage, each from the best weights of the one before; writes what ``compressed:FOLDER`` loads.

    A run that was broken off goes on in the stage where it stopped. Stages before the last write into folders of their
    own, ``stage-NAME``.

    Returns:
        What each stage did.

    Raises:
        InputError: data cannot be read, an option is out of range, or the folder is of another run.
        StoreError: a file cannot be written.
        ModelError: the encoder cannot be loaded, or a stage failed.
        MissingExtraError: a package for training is not installed.
    """
    terms = _terms(run)
    check_folder(folder, FORMAT, run, settings, resume=resume)
    encoder = _encoder(run.encoder, settings.device)
    with closing(open_vectors(run.vectors)) as vectors:
        train, dev = train_and_dev(run, encoder, vectors, settings.seed, tell)
        if run.teacher != "none":
            train = taught(train, run.teacher, run.cache or folder / "cache", vectors, tell)
        inputs = CompressedInputs(encoder, vectors)
        model = _model(run, encoder, settings.seed)
        words = model.ranker.config.words
        banks = {name: _bank(name, part, inputs, run, words, tell) for name, part in dev.items()}
        bank = _bank("the training data", train, inputs, run, words, tell)
    stages = {stage: [str(term) for term in wanted] for stage, wanted in terms}
    facts = facts_of(run, settings.seed, lists=len(train), stages=stages, teacher=run.teacher)
    reports = []
    for place, (stage, wanted) in enumerate(terms, 1):
        last = place == len(terms)
        chosen = (bank.hard() or None) if stage == "two" else None  # all, where retrieval makes no mistake
        tell(f"Stage {stage}: {len(chosen or bank.items):,} lists, {', '.join(map(str, wanted))}")
        task = CompressedTask(model, bank, list(banks.values()), wanted, run.options, chosen=chosen, facts=facts)
        target = folder if last else folder / f"stage-{stage}"
        reports.append(fit(task, settings, target, resume=resume, progress=progress))
    with closing(open_vectors(run.vectors)) as vectors:
        own = None if run.lora_rank else encoder  # one that learned along lies in the folder
        lists = sum(map(len, dev.values()))
        fitted, limits = calibrated(
            lambda: calibrate(folder, dev.values(), own, vectors), lists, folder / CALIBRATION, tell
        )
    if fitted is not None:
        tell(f"Calibration: {fitted.in_sample}")
    sizes = {name: len(one.items) for name, one in banks.items()}
    _write_card(run, reports, folder, stages, len(train), sizes, limits)
    return reports


def _terms(run: CompressedRun) -> list[tuple[str, tuple[Term, ...]]]:
    """The stages with their losses, checked before anything is read."""
    if not run.stages or len(set(run.stages)) < len(run.stages):
        raise InputError(f"Name each stage once: one, two or joint; got {list(run.stages)}")
    asked = parse_losses(run.losses, STAGES)
    if unused := sorted(set(asked) - {"", *run.stages}):
        raise InputError(f"There are losses for stage {unused[0]!r}, which is not among {list(run.stages)}")
    has = {"trains_encoder": bool(run.lora_rank), "has_teacher": run.teacher != "none"}
    return [(stage, stage_terms(stage, asked, **has)) for stage in run.stages]


def _encoder(name: str | None, device: str) -> TextEncoder:
    return embedded.embedder(device=device) if name is None else TextEncoder(name, device=device, dtype="float32")


def _bank(
    name: str, lists: Sequence[TrainingList], inputs: CompressedInputs, run: CompressedRun, words: bool, tell: Tell
) -> Bank:
    tell(f"Encoding {len(lists):,} lists of {name}")
    return build_bank(name, lists, inputs, keep_texts=bool(run.lora_rank), words=words)


def _model(run: CompressedRun, encoder: TextEncoder, seed: int) -> CompressedModel:
    learning = TrainableEncoder(encoder, run.lora_rank, seed) if run.lora_rank else None
    model = new_model(ResRankConfig(encoder.model_id, encoder.dim, **run.shape), learning, seed)
    if run.start is not None:
        before = load_resrank(run.start)
        if before.config.encoder.rpartition("@")[2] != encoder.model_id.rpartition("@")[2]:
            raise InputError(f"{run.start} reads vectors of {before.config.encoder!r}, not of {encoder.model_id!r}")
        model.ranker = before
    return model


def _write_card(
    run: CompressedRun,
    reports: Sequence[Report],
    folder: Path,
    stages: Mapping[str, Sequence[str]],
    lists: int,
    dev: Mapping[str, int],
    limits: Sequence[str],
) -> None:
    words = read_config(folder).words
    untrained = "untrained: cosine and words" if words else "cosine"
    before = untrained if run.start is None else "where it started"
    first = next(row["metrics"] for row in reports[0].history if "metrics" in row)
    shape = {
        "lists": f"{lists:,}",
        "teacher": run.teacher,
        **{f"stage {stage}": ", ".join(wanted) for stage, wanted in stages.items()},
        **{name.replace("_", " "): value for name, value in asdict(run.options).items()},
        "encoder": f"low-rank adapter of rank {run.lora_rank}, merged" if run.lora_rank else "as it was",
    }
    earlier = zip(stages, reports[:-1], strict=False)
    command = run.command or "rerankit train compressed"
    card = Card(
        name="A ResRank-style reranker",
        summary=_SUMMARY,
        license=run.licence,
        base_model=run.encoder or EMBEDDED,
        sources=source_rows(run),
        recipe={**shape, **{f"steps of stage {one}": f"{r.steps:,}" for one, r in earlier}, **recipe(reports[-1])},
        seed=reports[-1].settings.seed,
        command=command,
        tables=[ndcg_table(dev, {before: first, "this model": reports[-1].best.metrics}, command)],
        limits=(
            _OWN_VECTORS,
            *(_WITH_WORDS if words else _WITHOUT_WORDS),
            LIST_SCORES,
            LIST_PROBABILITIES,
            DEV_FIGURES,
            *limits,
        ),
        tags=("reranking", "resrank"),
        usage=_USAGE,
    )
    write_card(folder, card)


_SUMMARY = """
Reorders what a vector store found from the vectors that it holds: a small transformer reads the query's tokens and one
embedding per passage, all passages at once, and scores each by a cosine; with ``words``, how well it matches the
query's words is added. It begins as plain retrieval and learns what to add to it. After ResRank (arXiv:2604.22180); the
architecture is rerankit's own reconstruction.
"""

_USAGE = """
import rerankit

ranking = rerankit.load("compressed:FOLDER").rank("How deep to sow wheat?", ["Sow wheat 3 to 5 cm deep."])
"""

_OWN_VECTORS = "It reads vectors of its own encoder only; others are encoded anew from the text."
_WITH_WORDS = (
    "What neither a vector nor single words hold, it cannot see: negations and the order of words are weak points.",
    "Most of its gain comes from the words that it reads beside the vectors.",
)
_WITHOUT_WORDS = ("What a vector does not hold, it cannot see: exact numbers, names and negations are weak points.",)
