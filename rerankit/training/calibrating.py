"""The calibration at the end of a run: what the dev data do not give is told, and fails no run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rerankit.errors import InputError

__all__ = ["LEAST_QUESTIONS", "calibrated"]

LEAST_QUESTIONS = 10
"""Dev questions below which probabilities would only look like knowledge."""

T = TypeVar("T")


def calibrated(
    fit: Callable[[], T], questions: int, file: Path, tell: Callable[[str], None]
) -> tuple[T | None, tuple[str, ...]]:
    """What ``fit`` makes of the dev data, and what the card has to say of it among its limits.

    Args:
        fit: fits a calibration and writes it.
        questions: how many it is fitted on, each with its list.
        file: that it writes; without a calibration the one of an earlier run goes, as it is of other weights.
        tell: is told why there is none.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        if questions < LEAST_QUESTIONS:
            raise InputError(f"calibration needs {LEAST_QUESTIONS} dev questions or more, there are {questions}")
        return fit(), ()
    except InputError as error:
        file.unlink(missing_ok=True)
        sentence = f"No calibrated probabilities: {str(error).rstrip('.')}."
        tell(sentence)
        return None, (sentence,)
