"""How good is a reader while it learns? Spans against references, and answerable against unanswerable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.evaluation.answers import exact_match, token_f1
from rerankit.models.span_decode import Found, decode
from rerankit.models.span_frame import SpanFrame, Window
from rerankit.training.reader_examples import ReaderExample
from rerankit.training.reader_negatives import hard_negatives

__all__ = ["DevSet", "dev_set", "measured", "read_all"]

Forward = Callable[[Sequence[Window]], NDArray[np.float32]]
"""Logits ``[b, t, 2]`` of windows."""

MAX_WINDOWS = 4
BATCH = 16


@dataclass(frozen=True, slots=True)
class DevSet:
    """Questions with passages that answer them, and with near ones that do not."""

    name: str
    examples: tuple[ReaderExample, ...]


def dev_set(name: str, examples: Sequence[ReaderExample]) -> DevSet:
    """Each example, and its question with the nearest wrong passage."""
    wrong = [others[:1] for others in hard_negatives(examples)]
    return DevSet(name, (*examples, *(one for others in wrong for one in others)))


def measured(sets: Sequence[DevSet], frame: SpanFrame, forward: Forward) -> dict[str, float]:
    """``reader``, the mean of ``f1`` and ``area``; and these, over the sets that have both kinds, and set by set.

    ``f1`` and ``exact`` are of the best span in passages with a marked answer. ``area`` is the one under the curve of
    answerable against unanswerable: the chance that the score tells two apart.
    """
    rows: dict[str, float] = {}
    for one in sets:
        found = read_all(one.examples, frame, forward)
        pairs = [(best.spans[0].text, example.answers) for example, best in zip(one.examples, found, strict=True)
                 if example.spans and example.exact and best.spans]  # fmt: skip
        if pairs:
            rows[f"f1 {one.name}"] = float(np.mean([token_f1(text, answers) for text, answers in pairs]))
            rows[f"exact {one.name}"] = float(np.mean([exact_match(text, answers) for text, answers in pairs]))
        scores = np.array([best.score for best in found])
        right = np.array([bool(example.spans) for example in one.examples])
        rows[f"area {one.name}"] = area(scores, right)
    means = {kind: _mean(rows, kind) for kind in ("f1", "exact", "area")}
    return {"reader": (means["f1"] + means["area"]) / 2, **means, **rows}


def read_all(examples: Sequence[ReaderExample], frame: SpanFrame, forward: Forward) -> list[Found]:
    """For each example what its best window holds; a passage without text holds nothing, with a score of -100."""
    windows = [
        (i, window)
        for i, one in enumerate(examples)
        for window in frame.windows(one.question, one.context, one.title, limit=MAX_WINDOWS)
    ]
    windows.sort(key=lambda pair: pair[1].entry.size())
    best = [Found((), 0.0, -100.0) for _ in examples]
    for start in range(0, len(windows), BATCH):
        part = windows[start : start + BATCH]
        for (i, window), logits in zip(part, forward([window for _, window in part]), strict=True):
            found = decode(logits, window, examples[i].context, 1)
            if found.score > best[i].score:
                best[i] = found
    return best


def area(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """The share of pairs of a right and a wrong one in which the right one scores higher; ties count half."""
    high, low = scores[right], scores[~right]
    if not len(high) or not len(low):
        return 0.5
    return float(((high[:, None] > low).mean() + (high[:, None] >= low).mean()) / 2)


def _mean(rows: dict[str, float], kind: str) -> float:
    values = [value for name, value in rows.items() if name.startswith(f"{kind} ")]
    return float(np.mean(values)) if values else 0.0
