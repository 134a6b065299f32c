"""How well does each sentence of a context support an answer? A token-level match, and a calibrated probability.

The match of a text is late interaction (Khattab and Zaharia, 2020, arXiv:2004.12832) on the last layer of a plain
sentence embedder: each content word of the query looks for its most similar token in the text, and the mean of those
cosines counts. It finds "limping" in "lame", and a word that has no like in the text pulls it down.

Whether anything answers hangs on the words that the question is about: "How deep should I sow garlic into moist soil?"
is not answered by a passage on wheat. So the probability is a logistic function of two matches of the passage: one in
which all words count alike, and one in which each counts as much as the question's vector moves without it. It is
fitted by
``benchmarks/abstention.py --fit`` on questions asked once with and once without the passages that answer them;
``abstention.json`` keeps the coefficients and says what they were fitted on.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import InputError
from rerankit.models.meter import Meter
from rerankit.rag.context import Block, Context
from rerankit.rag.sentences import sentences
from rerankit.rag.terms import is_function_word, terms

if TYPE_CHECKING:
    from rerankit.models.encoder import TokenStates

__all__ = ["FEATURES", "Calibration", "Embedder", "Statement", "statements"]

FEATURES = ("passage_match", "key_match")
"""Of the query with the sentence's block and title: a mean cosine, about 0 to 1; all words alike, and by importance."""

_FEWEST_TERMS = 3
_MOST_WORDS = 32
"""A question of more content words than this has no few that matter: all count alike."""
_WORD = re.compile(r"\w+")


class Embedder(Protocol):
    """What of :class:`~rerankit.models.encoder.TextEncoder` is used here."""

    @property
    def model_id(self) -> str:
        """Names weights and revision."""

    def token_states(
        self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage", meter: Meter | None = None
    ) -> list[TokenStates]:
        """Last-layer vectors of every token of every text."""

    def windows(self, text: str) -> list[tuple[int, int]]:
        """Spans of ``text`` that fit the model one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """One sentence of the context.

    Attributes:
        block: where it stands.
        start, end: characters in the passage's text.
        match: of the query with the sentence, or with its block and title, whichever is higher.
        features: by :data:`FEATURES`.
        score: how good an answer it is, to be compared within one context only.
        vector: mean of its tokens' vectors, float32 ``[dim]``, L2-normalised.
        span: characters in the passage's text of the words that answer, where a reader looked for them and found any.
    """

    block: Block
    start: int
    end: int
    match: float
    features: tuple[float, ...]
    score: float
    vector: NDArray[np.float32]
    span: tuple[int, int] | None = None

    @property
    def text(self) -> str:
        """The sentence."""
        return self.block.passage.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Coefficients that turn features into probabilities.

    Attributes:
        embedder: ``model_id`` that they hold for.
        weights: of the logistic function, by :data:`FEATURES`.
        intercept: of the logistic function.
        floor: probability below which to abstain.
        reader: ``model_id`` of the reader that they hold for; empty for none.
    """

    embedder: str
    weights: tuple[float, ...]
    intercept: float
    floor: float
    reader: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], features: Sequence[str] = FEATURES) -> Calibration:
        """From the JSON object that ``benchmarks/abstention.py --fit`` writes.

        Raises:
            InputError: it is for other features, or incomplete.
        """
        if tuple(data.get("features", ())) != tuple(features):
            raise InputError(f"The calibration must be for the features {features}, not {data.get('features')}")
        try:
            weights = tuple(float(weight) for weight in data["weights"])
            reader = str(data.get("reader", ""))
            return cls(str(data["embedder"]), weights, float(data["intercept"]), float(data["floor"]), reader)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"The calibration is incomplete: {error!r}") from error

    @classmethod
    @functools.cache
    def bundled(cls) -> Calibration:
        """The one for the embedded embedder."""
        return cls.from_dict(json.loads(resources.files(__package__).joinpath("abstention.json").read_text("utf-8")))

    def probability(self, features: Sequence[float]) -> float:
        """That the passage of a sentence with these features answers the question."""
        logit = self.intercept + sum(w * f for w, f in zip(self.weights, features, strict=True))
        return 1.0 / (1.0 + math.exp(-logit))


def statements(
    query: str, context: Context, embedder: Embedder, meter: Meter | None = None, *, weigh: bool = True
) -> list[Statement]:
    """The sentences of ``context`` that could be an answer, best first.

    Questions and fragments of less than three terms are left out as long as anything else is there. One forward pass
    over the blocks serves all sentences, and a small one over the query without each of its words tells what they
    weigh; without ``weigh`` all weigh the same.
    """
    if not context.blocks:
        return []
    blocks = sorted(context.blocks, key=lambda block: block.hit.rank)
    wanted = _wanted(query, embedder, meter, weigh)
    found = []
    for block, tokens in zip(blocks, _tokens(blocks, embedder, meter), strict=True):
        if not len(tokens.spans):
            continue
        similarity = tokens.vectors @ wanted.vectors.T
        best = similarity.max(axis=0)
        passage_match, key_match = float(best.mean()), float(best @ wanted.weights)
        for start, end in sentences(block.text):
            inside = (tokens.spans[:, 0] >= start) & (tokens.spans[:, 1] <= end)
            if inside.any():
                match = float(similarity[inside].max(axis=0).mean())
                vector = _unit(tokens.vectors[inside].mean(axis=0))
                score = match + 0.5 * passage_match + float(vector @ wanted.question)
                place = (block.start + start, block.start + end)
                features = (passage_match, key_match)
                found.append(Statement(block, *place, max(match, passage_match), features, score, vector))
    telling = [statement for statement in found if _could_answer(statement.text)] or found
    return sorted(telling, key=lambda statement: -statement.score)


def _could_answer(text: str) -> bool:
    return not text.endswith(("?", "\uff1f")) and len(terms(text)) >= _FEWEST_TERMS


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """What a passage is to hold.

    Attributes:
        vectors: of the tokens of the query's content words, or of all its words: ``[t, dim]``, L2-normalised.
        weights: of each token, by the importance of its word: ``[t]``, of sum 1.
        question: the vector of the whole, ``[dim]``, L2-normalised.
    """

    vectors: NDArray[np.float32]
    weights: NDArray[np.float32]
    question: NDArray[np.float32]


def _wanted(query: str, embedder: Embedder, meter: Meter | None, weigh: bool) -> _Wanted:
    words = [match.span() for match in _WORD.finditer(query)]
    words = [(start, end) for start, end in words if not is_function_word(query[start:end])] or words
    weigh = weigh and len(words) <= _MOST_WORDS
    without = [query[:start] + query[end:] for start, end in words] if weigh else []
    whole, *shorter = embedder.token_states([query, *without], kind="query", meter=meter)
    word = np.array([next((i for i, (a, b) in enumerate(words) if a <= start < b), -1) for start, _ in whole.offsets])
    own = ~whole.special
    kept = own & (word >= 0) if (own & (word >= 0)).any() else own if own.any() else ~own
    question = _mean(whole)
    weights = np.ones(int(kept.sum()), np.float32)
    if weigh and (word[kept] >= 0).all():
        weights = _importance(question, shorter)[word[kept]] / np.bincount(word[kept])[word[kept]]
    return _Wanted(_unit(whole.vectors[kept]), weights / weights.sum(), question)


def _importance(question: NDArray[np.float32], shorter: Sequence[TokenStates]) -> NDArray[np.float32]:
    """How far the question's vector moves without each of its words: 1 - cosine, and a little so that no sum is 0."""
    return np.array([max(0.0, 1.0 - float(question @ _mean(states))) + 1e-6 for states in shorter], np.float32)


def _mean(states: TokenStates) -> NDArray[np.float32]:
    return _unit(states.vectors.mean(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """The tokens of one block: vectors ``[t, dim]``, L2-normalised, and character spans ``[t, 2]`` in the block's text.

    Tokens of the title have negative spans: they belong to the passage and to no sentence.
    """

    vectors: NDArray[np.float32]
    spans: NDArray[np.int64]


def _tokens(blocks: Sequence[Block], embedder: Embedder, meter: Meter | None) -> list[_Tokens]:
    texts = [f"{block.passage.title}\n{block.text}" if block.passage.title else block.text for block in blocks]
    windows = [(i, start, end) for i, text in enumerate(texts) for start, end in embedder.windows(text)]
    states = embedder.token_states([texts[i][start:end] for i, start, end in windows], meter=meter)
    vectors: list[list[NDArray[np.float32]]] = [[] for _ in blocks]
    spans: list[list[NDArray[np.int64]]] = [[] for _ in blocks]
    for (i, start, _), state in zip(windows, states, strict=True):
        title = len(texts[i]) - len(blocks[i].text)
        vectors[i].append(_unit(state.vectors[~state.special]))
        spans[i].append(state.offsets[~state.special].astype(np.int64) + (start - title))
    return [_Tokens(np.concatenate(rows), np.concatenate(places)) for rows, places in zip(vectors, spans, strict=True)]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-9), np.float32)
