"""Questions that a passage does not answer although it looks as if it might.

Two kinds, made of answerable examples: the question with another passage, among the nearest to it, that holds nothing
known to answer it; and the passage with another question, in which one word that the passage knows gives way to a
similar one that it does not know (the entity and number swaps of SQuAD 2.0: Rajpurkar et al., ACL 2018, section 3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import require
from rerankit.models.protocols import Embedder
from rerankit.rag.terms import is_function_word, terms
from rerankit.training.reader_examples import ReaderExample, normalised

__all__ = ["Swapper", "hard_negatives"]

DEPTH = 12
MARGIN = 0.95
"""A passage above this share of the right one's similarity may answer too (NV-Retriever, arXiv:2407.15831)."""

NEAREST, FARTHEST = 3, 25
"""Which similar words take a word's place: the nearest say the same, the far ones are of another kind."""

_WORD = re.compile(r"\w[\w'-]*")


def hard_negatives(examples: Sequence[ReaderExample]) -> list[tuple[ReaderExample, ...]]:
    """For each example its question with passages of the others that hold nothing known to answer it, by BM25.

    Raises:
        MissingExtraError: bm25s is not installed.
    """
    bm25s = require("bm25s", extra="lexical", purpose="Finding near passages that do not answer")
    places = {key: place for place, key in enumerate(dict.fromkeys((one.title, one.context) for one in examples))}
    passages = [f"{title}\n{context}" for title, context in places]
    owners, plain = list(places), [normalised(passage) for passage in passages]
    index = bm25s.BM25()
    index.index([terms(passage) for passage in passages], show_progress=False)
    found = []
    for one in examples:
        scores: NDArray[np.float32] = index.get_scores(terms(one.question))
        own = places[one.title, one.context]
        answers = [normalised(answer) for answer in (*one.answers, *one.known)]
        wrong = [
            ReaderExample(one.question, title=owners[place][0], context=owners[place][1])
            for place in np.argsort(-scores, kind="stable")[: 3 * DEPTH].tolist()
            if 0 < scores[place] < MARGIN * scores[own] and not any(answer in plain[place] for answer in answers)
        ]
        found.append(tuple(wrong[:DEPTH]))
    return found


class Swapper:
    """Replaces a word of a question by a similar one.

    Args:
        examples: whose questions' words are known.
        embedder: says which words are similar.
    """

    def __init__(self, examples: Sequence[ReaderExample], embedder: Embedder) -> None:
        counts = Counter(word.lower() for one in examples for word in _WORD.findall(one.question))
        self.words = sorted(word for word, n in counts.items() if n > 1 and _telling(word))
        self.places = {word: place for place, word in enumerate(self.words)}
        vectors = embedder.encode(self.words) if self.words else np.zeros((0, 1), np.float32)
        self.similar = _nearest(vectors)

    def swap(self, example: ReaderExample, random: np.random.Generator) -> ReaderExample | None:
        """The example with a question that its passage does not answer; None if no word of it can be replaced."""
        known = set(normalised(f"{example.title} {example.context}").split())
        asked = set(normalised(example.question).split())
        matches = [m for m in _WORD.finditer(example.question) if m[0].lower() in known and _telling(m[0])]
        for i in random.permutation(len(matches)).tolist():
            match = matches[i]
            if others := [word for word in self._others(match[0].lower(), random) if word not in known | asked]:
                other = others[int(random.integers(len(others)))]
                question = example.question[: match.start()] + other + example.question[match.end() :]
                return ReaderExample(question, example.context, example.title)
        return None

    def _others(self, word: str, random: np.random.Generator) -> list[str]:
        if word.isdigit():
            return [str(max(1, int(word[:9]) + int(step))) for step in random.integers(1, 40, 3)]
        if word not in self.places:
            return []
        found = [self.words[place] for place in self.similar[self.places[word]]]
        return [other for other in found if other[:4] != word[:4]]


def _telling(word: str) -> bool:
    return word.isdigit() or (len(word) > 3 and not is_function_word(word))


def _nearest(vectors: NDArray[np.float32]) -> Mapping[int, NDArray[np.int64]]:
    """Positions of the similar words of each, within the ranks from NEAREST to FARTHEST; the word itself is rank 0."""
    found: dict[int, NDArray[np.int64]] = {}
    for start in range(0, len(vectors), 512):
        order = np.argsort(-(vectors[start : start + 512] @ vectors.T), axis=1, kind="stable")
        found.update((start + row, places[NEAREST:FARTHEST]) for row, places in enumerate(order))
    return found
