"""E2Rank: one embedding model that retrieves and reranks; the query is read together with the list's best passages.

Liu et al., "E2Rank: Your Text Embedding can Also be an Effective and Efficient Listwise Reranker" (arXiv:2510.22733).
The listwise prompt is a richer query: its vector is compared with the passages' own, which the store holds already.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_bool, check_whole
from rerankit.errors import SpecError
from rerankit.models.causal_vectors import CausalVectors, Line
from rerankit.models.vector_cache import KeepsVectors, open_vectors
from rerankit.rerankers.asking import shown
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.e2rank_prompt import PROMPT, ListPrompt
from rerankit.rerankers.vectors import stored_vector
from rerankit.types import Passage

__all__ = ["E2Rank"]

Floats = NDArray[np.float64]

CHUNK = 32
"""Passages encoded between two looks at the deadline."""


class E2Rank(Reranker):
    """Cosine between passages' vectors and the vector of a prompt that holds the query and the best passages.

    One forward pass over the prompt scores any number of passages, those that it does not show included. A passage's
    own ``embedding`` is used if its ``embedding_model`` is this model's ``embedder.model_id``, or if that is empty (the
    caller vouches for it) and the vector has the right width and length 1. Other passages, those with another
    embedder's vector included, are encoded, once. A vector that claims to be this model's and has another width or is
    not finite is refused.

    The prompt shows passages in the order of the list, or by their cosine with the query alone where no stage before
    gave scores: then the order of the input does not matter. In general it does: a causal model reads a later passage
    in the light of the earlier ones, and turning the list around moves the cosines of a small random model by more than
    0.1 (measured in ``tests/rerankers/test_e2rank.py``). Scores depend on the list; they cannot be compared between
    lists.

    Args:
        model: local folder or hub name of a checkpoint (``Alibaba-NLP/E2Rank-0.6B``, ``-4B``, ``-8B``), or a
            :class:`~rerankit.models.causal_vectors.CausalVectors` that is loaded already, such as a store's embedder.
            Any causal checkpoint runs; only one trained for this ranks well.
        prompt_passages: how many passages the prompt shows. More than 20 gain little, says the paper.
        instruction: what the prompt asks for, in place of the paper's wording.
        task: what the query alone is told to be for; default: that of the model cards.
        passage_tokens: longest passage in the prompt; None for 1,024 words. What the prompt leaves out of a passage is
            counted in ``Hit.truncated_tokens``.
        max_tokens: longest prompt; default: the model's context. Passages of a longer one are cut to an equal length.
        vectors: where the vectors of encoded passages are kept: a file (True for one in the user's cache folder), a
            :class:`~rerankit.models.vector_cache.VectorCache` or what is used like one, or None for the memory of this
            process.
        strict: refuse passages whose vectors cannot be used, instead of encoding their text.
        device, dtype, revision, batch_tokens: see :class:`~rerankit.models.causal_vectors.CausalVectors`.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        SpecError: the model is an endpoint, or options are given for a model that is loaded already.
        InputError: an option is out of range.
        ModelError: the model cannot be had, is damaged, or is no causal one.
        MissingExtraError: torch or transformers is not installed.

    Example:
        >>> reranker = E2Rank("Alibaba-NLP/E2Rank-0.6B")  # doctest: +SKIP
        >>> reranker.rank("How deep to sow maize?", ["Sow maize 5 cm deep.", "Cows drink water."])  # doctest: +SKIP
    """

    scale = "cosine"
    by_text = False

    def __init__(
        self,
        model: str | Path | CausalVectors,
        *,
        prompt_passages: int = 20,
        instruction: str | None = None,
        task: str | None = None,
        passage_tokens: int | None = None,
        max_tokens: int | None = None,
        vectors: KeepsVectors | str | Path | bool | None = None,
        strict: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        batch_tokens: int | None = None,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        check_bool(strict=strict)
        check_whole(1, prompt_passages=prompt_passages)
        check_whole(1, or_none=True, passage_tokens=passage_tokens, max_tokens=max_tokens)
        loading = {"task": task, "device": device, "dtype": dtype, "revision": revision, "batch_tokens": batch_tokens}
        self.embedder = _loaded(model, {name: value for name, value in loading.items() if value is not None})
        self._owns_embedder = self.embedder is not model
        self._owns_cache = bool(vectors) and isinstance(vectors, str | Path | bool)
        self.vectors, self.strict = open_vectors(vectors), strict
        self.prompt_passages = prompt_passages
        asked = PROMPT.instruction if instruction is None else instruction.removesuffix(":")
        self.prompt = ListPrompt(self.embedder, asked, passage_tokens, max_tokens)
        self.model = f"compressed:{self.embedder.model_id}"

    @property
    def fingerprint(self) -> str:
        """Weights, precision, prompts and limits."""
        prompt = self.prompt
        settings = (
            self.prompt_passages, prompt.passage_tokens, prompt.limit, prompt.instruction, PROMPT.fingerprint,
        )  # fmt: skip
        return f"e2rank:{self.embedder.fingerprint}|{'|'.join(map(str, settings))}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """One prompt per list; vectors for the passages that bring none."""
        embedder = self._exact if call.float32 else self.embedder
        return [_List(self, embedder, request, call).scored() for request in requests]

    def close(self) -> None:
        """Stop the worker, close the cache and free a model that this reranker loaded for itself."""
        super().close()
        if self._owns_cache:
            self.vectors.close()
        exact = self.__dict__.pop("_exact", self.embedder)
        if exact is not self.embedder:
            exact.close()
        if self._owns_embedder:
            self.embedder.close()

    @functools.cached_property
    def _exact(self) -> CausalVectors:
        """The same in float32, for the one retry after scores that are no numbers."""
        known = self.embedder
        if known.loaded.dtype == "float32":
            return known
        return CausalVectors(
            known.loaded.checkpoint.folder,
            task=known.task,
            device=known.device,
            dtype="float32",
            batch_tokens=known.batch_tokens,
        )


class _List:
    """One list on its way to a verdict.

    Attributes:
        lines: what the model reads of a passage, by position; only of those that it reads at all.
        cut: by position, tokens that the prompt leaves out of a line.
        notes: what is less than planned.
    """

    def __init__(self, reranker: E2Rank, embedder: CausalVectors, request: Request, call: Call) -> None:
        self.reranker, self.embedder, self.call = reranker, embedder, call
        self.query, self.passages = request.query, request.passages
        self.lines: dict[int, Line] = {}
        self.cut: dict[int, int] = {}
        self.notes: list[str] = []

    def scored(self) -> Scored:
        """Cosines with the prompt's vector; the prompt comes first where the order is known without vectors."""
        asked = self._ask(self._prior_order())
        if asked is None:
            return Scored(np.empty(0)).padded(len(self.passages), "the deadline passed")
        vectors, known = self._vectors
        if not known.all():
            self.notes.append(f"the deadline passed: {int((~known).sum())} passages unscored")
        truncated = [self.lines[i].cut if i in self.lines else 0 for i in range(len(self.passages))]
        for position, tokens in self.cut.items():
            truncated[position] += tokens
        scores = np.clip(vectors @ asked, -1.0, 1.0)
        return Scored(scores, known, truncated=np.array(truncated, np.int64), partial="; ".join(self.notes))

    def _prior_order(self) -> Sequence[int]:
        """Positions, best first: the list's own order if a stage before gave scores, else by cosine with the query."""
        scores = [passage.score for passage in self.passages]
        if all(score is not None and np.isfinite(score) for score in scores):
            return range(len(self.passages))
        vectors, known = self._vectors
        query = self._vector(self.embedder.queries([self.query])[0])
        if query is None:
            return range(len(self.passages))
        cosines = np.where(known, vectors @ query, -np.inf)
        return [int(i) for i in np.argsort(-cosines, kind="stable")]

    def _ask(self, order: Sequence[int]) -> Floats | None:
        """The prompt's vector, or None if there is no time for it."""
        places = order[: self.reranker.prompt_passages]
        prompt = self.reranker.prompt.fitted(self.query, [self._line(i).text for i in places])
        self.cut = dict(zip(places, prompt.cut, strict=True))
        if prompt.query_cut:
            self.notes.append(f"the query was cut by {prompt.query_cut} tokens")
        return self._vector(prompt.ids)

    def _vector(self, ids: Sequence[int]) -> Floats | None:
        for _, found in self.embedder.run([ids], self.call):
            return np.asarray(found[0], np.float64)
        return None

    @functools.cached_property
    def _vectors(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Unit vectors ``[n, dim]`` of the passages, stored or encoded, and which of them there was time for."""
        rows = [self._stored(passage) for passage in self.passages]
        missing = [i for i, row in enumerate(rows) if row is None]
        for start in range(0, len(missing), CHUNK):
            if self.call.expired:
                break
            for i, row in self._encoded(missing[start : start + CHUNK]).items():
                rows[i] = row
        nothing = np.zeros(self.embedder.dim)
        vectors = np.stack([nothing if row is None else row for row in rows])
        return vectors, np.array([row is not None for row in rows])

    def _stored(self, passage: Passage) -> Floats | None:
        embedder = self.reranker.embedder
        stored = stored_vector(passage, embedder.model_id, embedder.dim, strict=self.reranker.strict)
        if stored is None:
            return None
        vector = np.asarray(stored, np.float64)
        return np.asarray(vector / float(np.linalg.norm(vector)))

    def _encoded(self, positions: Sequence[int]) -> dict[int, Floats]:
        """Vectors by position, from the cache where it has them."""
        cache, lines = self.reranker.vectors, [self._line(i) for i in positions]
        keys = [self.embedder.key(line) for line in lines]
        known = cache.get_many(keys)
        wanted = {key: line for key, line in zip(keys, lines, strict=True) if key not in known}
        names = list(wanted)
        for rows, found in self.embedder.run(self.embedder.passages(list(wanted.values())), self.call):
            fresh = {names[row]: (vector.copy(),) for row, vector in zip(rows, found, strict=True)}
            known.update(fresh)
            cache.put_many({key: entry for key, entry in fresh.items() if np.isfinite(entry[0]).all()})
        pairs = zip(positions, keys, strict=True)
        return {i: np.asarray(known[key][0], np.float64) for i, key in pairs if key in known}

    def _line(self, position: int) -> Line:
        if position not in self.lines:
            self.lines[position] = self.embedder.line(shown(self.passages[position]))
        return self.lines[position]


def _loaded(model: str | Path | CausalVectors, asked: Mapping[str, Any]) -> CausalVectors:
    if isinstance(model, CausalVectors):
        if asked:
            raise SpecError(f"Options {sorted(asked)} cannot be applied to a model that is already loaded")
        return model
    if isinstance(model, str) and model.strip().startswith(("http://", "https://")):
        raise SpecError(
            "An endpoint does not show a model's states, so 'compressed' needs a local folder or a hub name. With an "
            f"endpoint use 'listwise:{model.strip()}', 'pairwise' or 'pointwise'."
        )
    if not isinstance(model, str | Path):
        raise SpecError(f"E2Rank takes a model's name, folder or CausalVectors; got {type(model).__name__}")
    return CausalVectors(model, **asked)
