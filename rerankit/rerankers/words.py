"""The words of texts: stems for matching, and sketches of passages that BM25 can be computed from.

A sketch holds what BM25 needs of a passage, as numbers: a 64-bit hash of each of its stems and how often it stands
there. It is made once per text and kept like a vector, so ranking a list reads no text.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError, require
from rerankit.models.files import content_key
from rerankit.models.vector_cache import KeepsVectors

__all__ = ["K1", "B", "Sketch", "Words", "bm25"]

K1, B = 1.5, 0.75
"""BM25's usual parameters: how soon repeated words stop counting, how much longer passages are marked down."""

_TOKEN = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"  # noqa: S105
"""Scripts written without spaces are matched character by character, all others word by word."""

_STOPWORDS = frozenset({
    "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese", "russian", "spanish",
    "swedish", "turkish",
})  # fmt: skip
"""Languages for which bm25s has a list."""


@dataclass(frozen=True, slots=True, eq=False)
class Sketch:
    """The words of a passage.

    Attributes:
        stems: their hashes, uint64 ``[w]``, sorted, each once.
        counts: how often each stands in the passage, int32 ``[w]``.
    """

    stems: NDArray[np.uint64]
    counts: NDArray[np.int32]


class Words:
    """Texts to stems and sketches, through bm25s and Snowball.

    Args:
        language: of the stemmer and the stop words, such as ``english`` or ``german``; empty for neither.

    Raises:
        InputError: there is no stemmer for the language.
        MissingExtraError: bm25s or PyStemmer is not installed.
    """

    def __init__(self, language: str = "english") -> None:
        self._bm25s: Any = require("bm25s", extra="lexical", purpose="Lexical reranking")
        self._stemmers: Any = require("Stemmer", extra="lexical", purpose="Lexical reranking")
        if language and language not in self._stemmers.algorithms():
            raise InputError(
                f"There is no stemmer for the language {language!r}; use '' for none, or one of "
                f"{', '.join(self._stemmers.algorithms())}"
            )
        self.language = language

    def stems(self, texts: Sequence[str]) -> list[list[str]]:
        """The stems of each text in their order, stop words left out."""
        # A stemmer is not safe between threads, and made in no time.
        stemmer = self._stemmers.Stemmer(self.language) if self.language else None
        found: list[list[str]] = self._bm25s.tokenize(
            list(texts),
            token_pattern=_TOKEN,
            stopwords=self.language if self.language in _STOPWORDS else None,
            stemmer=stemmer,
            return_ids=False,
            show_progress=False,
        )
        return found

    def query(self, text: str) -> NDArray[np.uint64]:
        """Hashes of a query's stems, repeated ones included: uint64 ``[q]``."""
        return np.array([_hash(stem) for stem in self.stems([text])[0]], np.uint64)

    def sketches(self, texts: Sequence[str], cache: KeepsVectors) -> list[Sketch]:
        """The sketch of each text, from the cache where it has it."""
        keys = [content_key("words", self.language, text) for text in texts]
        known = cache.get_many(keys)
        wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if wanted:
            fresh = [_sketch(stems) for stems in self.stems(list(wanted.values()))]
            known.update((key, (one.stems, one.counts)) for key, one in zip(wanted, fresh, strict=True))
            cache.put_many({key: known[key] for key in wanted})
        return [Sketch(*known[key]) for key in keys]


def bm25(query: NDArray[np.uint64], passages: Sequence[Sketch], k1: float = K1, b: float = B) -> NDArray[np.float64]:
    """BM25 of each passage, float64 ``[n]``, with word statistics of the passages given.

    Robertson et al., "Okapi at TREC-3" (1994), in Lucene's variant: idf = log(1 + (n - df + .5) / (df + .5)), and a
    word's part is idf * tf / (tf + k1 * (1 - b + b * length / mean length)).
    """
    lengths = np.array([one.counts.sum() for one in passages], np.float64)
    wanted, repeated = np.unique(query, return_counts=True)
    if not len(wanted) or not lengths.any():
        return np.zeros(len(passages))
    counts = np.zeros((len(passages), len(wanted)))
    stems = np.concatenate([one.stems for one in passages])
    rows = np.repeat(np.arange(len(passages)), [len(one.stems) for one in passages])
    columns = np.minimum(np.searchsorted(wanted, stems), len(wanted) - 1)
    hit = wanted[columns] == stems
    counts[rows[hit], columns[hit]] = np.concatenate([one.counts for one in passages])[hit]
    found = (counts > 0).sum(axis=0)
    idf = np.log(1.0 + (len(passages) - found + 0.5) / (found + 0.5))
    marked_down = k1 * (1.0 - b + b * lengths / lengths.mean())
    return np.asarray((counts / (counts + marked_down[:, None])) @ (idf * repeated))


def _sketch(stems: Sequence[str]) -> Sketch:
    counted = Counter(stems)
    hashes = np.array([_hash(stem) for stem in counted], np.uint64)
    order = np.argsort(hashes)
    return Sketch(hashes[order], np.array(list(counted.values()), np.int32)[order])


def _hash(stem: str) -> int:
    digest = hashlib.blake2b(stem.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
