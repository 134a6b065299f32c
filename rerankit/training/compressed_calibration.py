"""Probabilities for a trained compressed reranker, from the dev lists that its weights were chosen by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rerankit.models.encoder import TextEncoder
from rerankit.models.vector_cache import KeepsVectors
from rerankit.rerankers.calibration import CALIBRATION, Calibrator
from rerankit.rerankers.compressed import Compressed
from rerankit.training.lists import TrainingList

__all__ = ["calibrate"]


def calibrate(
    folder: Path, lists: Iterable[Sequence[TrainingList]], encoder: TextEncoder | None, vectors: KeepsVectors
) -> Calibrator:
    """Fit a Platt map on the scores of the lists and write ``calibration.json``, which the model then uses by itself.

    Args:
        folder: of the model.
        lists: by set; a passage of any grade above 0 counts as relevant.
        encoder: the model's; None for the one it finds itself.
        vectors: keeps what the encoder makes.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InputError: the lists have no relevant passage, or scores do not rise with relevance.
    """
    scores: list[float] = []
    labels: list[float] = []
    groups: list[int] = []
    with Compressed(folder, encoder=encoder, vectors=vectors, calibrator=None) as reranker:
        for number, item in enumerate(item for part in lists for item in part):
            for hit in reranker.rank(item.query, item.passages):
                if hit.score is None:  # blank passages
                    continue
                scores.append(hit.score)
                labels.append(float(item.grades[hit.prior_rank - 1] > 0))
                groups.append(number)
        fitted = Calibrator.fit(scores, labels, reranker=reranker, groups=groups)
    fitted.save(folder / CALIBRATION)
    return fitted
