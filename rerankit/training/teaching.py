"""A teacher's scores for training lists, kept in a file, for teaching may take longer than training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import rerankit
from rerankit.errors import SpecError
from rerankit.models.vector_cache import KeepsVectors
from rerankit.rerankers.base import Reranker
from rerankit.training.lists import TrainingList
from rerankit.training.mining import with_teacher

__all__ = ["taught"]


def taught(
    lists: Sequence[TrainingList], teacher: str, cache: Path, vectors: KeepsVectors, tell: Callable[[str], None]
) -> list[TrainingList]:
    """The lists with the teacher's scores; those that bring scores keep them.

    Args:
        lists: any.
        teacher: spec of a reranker.
        cache: folder for the scores; another call with the same lists and teacher finds them there.
        vectors: handed to the teacher, if it can use them.
        tell: is told what takes long.
    """
    missing = [i for i, item in enumerate(lists) if item.teacher is None]
    if not missing:
        return list(lists)
    with _teacher(teacher, vectors) as reranker:
        file = cache / f"teacher-{_key(lists, reranker.passage_fingerprint)}.npy"
        if file.is_file():
            scores = np.load(file, allow_pickle=False)
        else:
            tell(f"{reranker.model} scores {len(missing):,} lists")
            made = with_teacher([lists[i] for i in missing], reranker, progress=_steps(tell, len(missing)))
            scores = np.concatenate([np.array(item.teacher, np.float64) for item in made])
            cache.mkdir(parents=True, exist_ok=True)
            np.save(part := file.with_suffix(".part.npy"), scores, allow_pickle=False)
            part.replace(file)
    result, start = list(lists), 0
    for i in missing:
        end = start + len(lists[i].passages)
        result[i] = replace(lists[i], teacher=tuple(scores[start:end].tolist()))
        start = end
    return result


def _steps(tell: Callable[[str], None], total: int) -> Callable[[int], None]:
    """Tells of every tenth that is done."""
    done = 0

    def step(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if 10 * done // total > 10 * before // total:
            tell(f"  {done:,} of {total:,}")

    return step


def _teacher(spec: str, vectors: KeepsVectors) -> Reranker:
    """The reranker of a spec, with the vectors that are kept anyway if it can use them."""
    try:
        return rerankit.load(spec, vectors=vectors)
    except SpecError:  # no part of it reads vectors; or the spec is wrong, which the second attempt tells
        return rerankit.load(spec)


def _key(lists: Sequence[TrainingList], teacher: str) -> str:
    digest = hashlib.sha256(teacher.encode())
    for item in lists:
        texts = [item.query, *(f"{p.title}\n{p.text}" for p in item.passages), str(item.teacher is None)]
        digest.update("\x00".join(texts).encode("utf-8", "replace"))
    return digest.hexdigest()[:16]
