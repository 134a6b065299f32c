"""A whole cross-encoder by the trainer of sentence-transformers, on the same lists; a plain checkpoint comes out.

Reimers and Gurevych, arXiv:1908.10084; https://sbert.net/docs/cross_encoder/training_overview.html. Every weight is
trained, so it needs more data and more care than the adapter, and can learn more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from rerankit.checks import check_choice
from rerankit.errors import InputError, require
from rerankit.models.adapter import encoder_checkpoint
from rerankit.models.backend_torch import quiet
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.files import share_weights
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.training.card import DEV_FIGURES, EMBEDDED, Card, write_card
from rerankit.training.cross_encoder import list_ndcg
from rerankit.training.cross_encoder_data import Ranked, RankedSet, fingerprint_of
from rerankit.training.cross_encoder_run import CrossEncoderRun, prepared
from rerankit.training.cross_encoder_st_folder import begin_run, goes_on
from rerankit.training.lists_ndcg import ndcg_table, over_sets
from rerankit.training.optimizer import training_device
from rerankit.training.sources import Tell, source_name, source_rows
from rerankit.training.state import setting_of
from rerankit.training.task import Settings
from rerankit.types import Passage

__all__ = ["LOSSES", "train_with_sentence_transformers"]

LOSSES = {"binary": "BinaryCrossEntropyLoss", "listnet": "ListNetLoss", "lambda": "LambdaLoss"}
"""Losses by name; ``binary`` takes pair by pair, the others whole lists."""


def train_with_sentence_transformers(
    run: CrossEncoderRun, settings: Settings, folder: Path, *, resume: bool = True, tell: Tell = lambda _: None
) -> tuple[int, dict[str, float]]:
    """Train a model and write the folder that ``cross-encoder:FOLDER`` loads.

    ``residual`` and the options of pairs choose the hard negatives; the model itself learns to rank alone. The weights
    of the evaluation with the best nDCG@10 on the dev data are kept. Checkpoints are the trainer's own. No loss learns
    from a teacher: lists without a grade above 0 are left out.

    Returns:
        Steps, and the dev metrics of what was saved.

    Raises:
        InputError: data cannot be read, there is no such loss, a teacher is named, or the folder is a file or of
            another model or run.
        ModelError: the base cannot be loaded.
        MissingExtraError: sentence-transformers or datasets is not installed.
    """
    theirs = require("sentence_transformers.cross_encoder", extra="train", purpose="Training by sentence-transformers")
    losses = require("sentence_transformers.cross_encoder.losses", extra="train", purpose="Losses of cross-encoders")
    name = _loss(run.losses)
    if run.teacher != "none":
        raise InputError("sentence-transformers learns from grades: leave out --teacher, or take --trainer rerankit")
    base = encoder_checkpoint(run.base)
    facts = _facts(run, settings, name, base)
    goes_on(folder, facts, resume=resume)  # or is refused before the data are read
    train, dev = prepared(run, folder, settings.seed, tell)
    train = _graded(train, tell)
    facts["lists"] = [fingerprint_of(lists) for lists in (train, *(one.lists for one in dev))]
    if not (known := goes_on(folder, facts, resume=resume)):
        begin_run(folder, facts)
    with quiet():
        model = theirs.CrossEncoder(
            str(base.folder),
            num_labels=1,
            max_length=run.max_tokens,
            device=None if settings.device == "auto" else settings.device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
        trainer = theirs.CrossEncoderTrainer(
            model=model,
            args=_arguments(theirs, run, settings, folder, name),
            train_dataset=_dataset(train, run, settings.seed, by_list=name != "binary"),
            loss=getattr(losses, LOSSES[name])(model),
            evaluator=_evaluator(dev, run.options.depth),
        )
        trainer.train(resume_from_checkpoint=known)
        model.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
        share_weights(folder)
    metrics = _measured(folder, dev, run)
    _write_card(run, settings, folder, name, trainer.state.global_step, len(train), dev, metrics)
    return int(trainer.state.global_step), metrics


def _loss(asked: Sequence[str]) -> str:
    if len(asked) > 1:
        raise InputError(f"sentence-transformers takes one loss, got {list(asked)}")
    name = asked[0] if asked else "lambda"
    check_choice("a loss", name, LOSSES)
    return name


def _facts(run: CrossEncoderRun, settings: Settings, loss: str, base: Checkpoint) -> dict[str, Any]:
    """What makes a run the same run, but for its lists, in JSON's types."""
    return {
        "setting": setting_of(settings),
        "device": training_device(settings).type,
        "data": [source_name(one) for one in run.data],
        "dev": [source_name(one) for one in run.dev],
        "loss": loss,
        "residual": run.residual,
        "base": base.digest,
        "tokens": run.max_tokens,
        "options": asdict(run.options),
    }


def _graded(lists: Sequence[Ranked], tell: Tell) -> list[Ranked]:
    """The lists that hold a relevant passage; the others bring a teacher's scores alone."""
    graded = [one for one in lists if one.grades.any()]
    if not graded:
        raise InputError(
            "No list of two passages has a grade above 0 to learn from; --trainer rerankit learns from a teacher's "
            "scores too"
        )
    if left_out := len(lists) - len(graded):
        tell(f"{left_out} of {len(lists)} lists have a teacher's scores and no grade above 0, and are left out")
    return graded


def _arguments(theirs: Any, run: CrossEncoderRun, settings: Settings, folder: Path, loss: str) -> Any:
    by = "epoch" if settings.evaluate_every is None else "steps"
    every = {} if settings.evaluate_every is None else {
        "eval_steps": settings.evaluate_every, "save_steps": settings.evaluate_every
    }  # fmt: skip
    return theirs.CrossEncoderTrainingArguments(
        output_dir=str(folder / "checkpoint"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=run.options.batch * (run.options.pairs.pairs if loss == "binary" else 1),
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        max_grad_norm=settings.clip,
        lr_scheduler_type="cosine",
        bf16=settings.dtype == "bfloat16",
        fp16=settings.dtype == "float16",
        use_cpu=settings.device == "cpu",
        seed=settings.seed,
        eval_strategy=by,
        save_strategy=by,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_dev_ndcg@10",
        greater_is_better=True,
        logging_steps=20,
        report_to="none",
        disable_tqdm=True,
        **every,
    )


def _dataset(lists: Sequence[Ranked], run: CrossEncoderRun, seed: int, *, by_list: bool) -> Any:
    """Rows of query, passages and labels 0 to 1; for ``binary`` one row per pair."""
    datasets = require("datasets", extra="train", purpose="Training by sentence-transformers")
    random = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    for one in lists:
        places = one.draw(run.options.pairs, random)
        texts = [_text(one.item.passages[i]) for i in places]
        labels = [min(float(one.grades[i]), 1.0) for i in places]
        if by_list:
            rows.append({"query": one.item.query, "docs": texts, "labels": labels})
        else:
            rows += [
                {"query": one.item.query, "doc": text, "label": label}
                for text, label in zip(texts, labels, strict=True)
            ]
    return datasets.Dataset.from_list(rows)


def _text(passage: Passage) -> str:
    return f"{passage.title} {passage.text}" if passage.title else passage.text


def _evaluator(dev: Sequence[RankedSet], depth: int) -> Any:
    evaluation = require("sentence_transformers.cross_encoder.evaluation", extra="train", purpose="Evaluating")
    samples = []
    for one in (one for part in dev for one in part.lists):
        documents = [_text(one.item.passages[i]) for i in one.order[:depth]]
        relevant = [_text(passage) for passage in one.item.relevant]
        samples.append({"query": one.item.query, "positive": relevant, "documents": documents})
    return evaluation.CrossEncoderRerankingEvaluator(
        samples, at_k=10, name="dev", always_rerank_positives=False, write_csv=False
    )


def _measured(folder: Path, dev: Sequence[RankedSet], run: CrossEncoderRun) -> dict[str, float]:
    """nDCG@10 of the saved model, as rerankit loads it, over the base ranking's first passages."""
    values = {}
    with CrossEncoder(folder, max_tokens=run.max_tokens) as cross:
        for part in dev:
            logits = []
            for one in part.lists:
                first = [one.item.passages[i] for i in one.order[: run.options.depth]]
                hits = sorted(cross.rank(one.item.query, first), key=lambda hit: hit.prior_rank)
                logits.append(np.array([hit.score for hit in hits], np.float64))
            alone = [replace(one, base=np.zeros_like(one.base)) for one in part.lists]
            values[part.name] = list_ndcg(alone, logits, 1.0)
    return over_sets(values)


def _write_card(
    run: CrossEncoderRun,
    settings: Settings,
    folder: Path,
    loss: str,
    steps: int,
    lists: int,
    dev: Sequence[RankedSet],
    metrics: dict[str, float],
) -> None:
    command = run.command or "rerankit train cross-encoder --trainer sentence-transformers"
    facts = {
        "trainer": "CrossEncoderTrainer of sentence-transformers",
        "loss": LOSSES[loss],
        "lists": f"{lists:,}",
        "hard negatives": f"from the first of {run.residual}",
        "epochs": settings.epochs,
        "steps": f"{steps:,}",
        "learning rate": f"{settings.learning_rate:g}",
        "precision": settings.dtype,
        "tokens per pair": run.max_tokens,
    }
    card = Card(
        name="A cross-encoder",
        summary="Reads query and passage together; the logit is the score. Made by `rerankit train cross-encoder`.",
        license=run.licence,
        base_model=run.base or EMBEDDED,
        sources=source_rows(run),
        recipe=facts,
        seed=settings.seed,
        command=command,
        tables=[ndcg_table({one.name: len(one.lists) for one in dev}, {"this model": metrics}, command)],
        limits=(
            "Outside the domains that it was trained on it may rank worse than the ranking it starts from; measure.",
            DEV_FIGURES,
        ),
        tags=("reranking", "cross-encoder"),
        usage='import rerankit\n\nreranker = rerankit.load("cross-encoder:FOLDER")',
    )
    write_card(folder, card)
