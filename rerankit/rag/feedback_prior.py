"""What people thought of answers, used: as a prior in reranking, and as lists to train on.

The idea of aligning a RAG system by the feedback of its users is Pistis-RAG's (Bai et al., 2024, arXiv:2407.00072),
which trains on simulated feedback; here the counts themselves shift passages, bounded and fading.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rerankit.errors import InputError
from rerankit.rag.memory import Memory, Vote
from rerankit.rag.terms import is_function_word, terms
from rerankit.rerankers.scaling import unit_scores
from rerankit.types import Ranking

__all__ = ["FeedbackPrior", "export_feedback", "grades"]

Form = Literal["lists", "events"]

_LATEST = 5000
_DOUBT = 3.0  # so many votes leave the prior at half of what they say


class FeedbackPrior:
    """Shifts passages by the thumbs that answers from them got.

    A thumb counts for the passages that the answer cites, as much as its question shares content words with the
    present one (Dice), and half as much after each half-life. All that one user thinks of a passage counts as one vote
    at most; the last word about a question counts. The prior of a passage, ``votes / (|votes| + 3)``, lies between -1
    and 1; ``weight`` times it is added to the score scaled to 0..1. So nothing moves that is more than twice ``weight``
    of the list's spread away. The latest 5,000 votes are read.

    Args:
        memory: where the votes are.
        weight: 0 switches it off.
        half_life_days: age at which a vote counts half.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(self, memory: Memory, *, weight: float = 0.1, half_life_days: float = 90.0) -> None:
        if not 0.0 <= weight <= 1.0:
            raise InputError(f"The weight of feedback is between 0 (off) and 1, got {weight!r}")
        if not (math.isfinite(half_life_days) and half_life_days > 0):
            raise InputError(f"half_life_days must be a positive number, got {half_life_days!r}")
        self.memory, self.weight, self.half_life_days = memory, weight, half_life_days

    def of(self, question: str, *, now: float | None = None) -> dict[str, float]:
        """The prior of every passage that was voted on for a question like this, -1..1."""
        moment = time.time() if now is None else now
        wanted = _content(question)
        latest: dict[tuple[str, str, str], float] = {}
        for vote in self.memory.votes(limit=_LATEST):
            asked = _content(vote.question)
            alike = 2 * len(wanted & asked) / max(1, len(wanted) + len(asked))
            age = max(0.0, moment - vote.time) / 86_400.0
            for passage, grade in grades(vote).items():
                sign = 1.0 if grade else -1.0
                latest[vote.user, vote.question, passage] = sign * alike * 0.5 ** (age / self.half_life_days)
        opinions: dict[tuple[str, str], float] = defaultdict(float)
        for (user, _, passage), value in latest.items():
            opinions[user, passage] += value
        sums: dict[str, float] = defaultdict(float)
        for (_, passage), value in opinions.items():
            sums[passage] += max(-1.0, min(1.0, value))
        return {passage: value / (abs(value) + _DOUBT) for passage, value in sums.items() if value}

    def apply(self, ranking: Ranking) -> Ranking:
        """The ranking with its scored hits reordered; scores stay those of the model. Without votes, the same."""
        prior = self.of(ranking.query) if self.weight else {}
        scored = [hit for hit in ranking if hit.score is not None and hit.status != "unscored"]
        if not any(hit.id in prior for hit in scored):
            return ranking
        rest = [hit for hit in ranking if hit.score is None or hit.status == "unscored"]
        model = unit_scores(np.array([hit.score for hit in scored], float))
        shifted = model + self.weight * np.array([prior.get(hit.id, 0.0) for hit in scored])
        order = [scored[i] for i in np.argsort(-shifted, kind="stable")] + rest
        hits = tuple(dataclasses.replace(hit, rank=rank) for rank, hit in enumerate(order, 1))
        return dataclasses.replace(ranking, hits=hits, model=f"{ranking.model} + feedback")


def grades(vote: Vote) -> dict[str, int]:
    """What a vote says about passages: cited ones 1 or 0 by the thumb, those named in a correction 1."""
    cited = {} if vote.helpful is None else dict.fromkeys(vote.cited, int(vote.helpful))
    return {**cited, **dict.fromkeys(vote.passages, 1)}


def export_feedback(memory: Memory, path: str | Path, *, form: Form = "lists") -> int:
    """Write all feedback as JSON lines; returns how many. A failure leaves the file that was there before.

    Args:
        memory: where it is.
        path: the file, replaced.
        form: ``lists``: one line per vote, ``{"query", "shown", "grades", "answer"}``, ``answer`` being the correction;
            ``events``: one line per passage, ``{"question", "passage_id", "helpful"}``, which ``rerankit questions``
            reads.

    Raises:
        InputError: there is no such form.
        OSError: the file cannot be written.
    """
    if form not in get_args(Form):
        raise InputError(f"Feedback is exported as {' or '.join(get_args(Form))}, not {form!r}")
    rows = list(_lists(memory.votes()) if form == "lists" else _events(memory.votes()))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        _replace(Path(path), text.encode("utf-8", "backslashreplace"))  # a lone surrogate becomes JSON's escape of it
    except OSError as error:  # which may name the partial file, of which nobody knows
        raise OSError(error.errno, error.strerror, str(path)) from error
    return len(rows)


def _replace(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file():  # a device or a pipe: nothing to put in its place
        path.write_bytes(data)
        return
    target = path.resolve()
    partial = target.with_name(f".rerankit-{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _lists(votes: Iterable[Vote]) -> Iterator[dict[str, Any]]:
    for vote in votes:
        yield {"query": vote.question, "shown": vote.shown, "grades": grades(vote), "answer": vote.correction}


def _events(votes: Iterable[Vote]) -> Iterator[dict[str, Any]]:
    for vote in votes:
        for passage, grade in grades(vote).items():
            yield {"question": vote.question, "passage_id": passage, "helpful": bool(grade)}


def _content(text: str) -> set[str]:
    return {term for word in text.split() if not is_function_word(word.strip("?!.,;:")) for term in terms(word)}
