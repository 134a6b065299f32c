"""Compressed: one vector per passage, the whole list in one short pass, nothing generated.

ResRank-style (arXiv:2604.22180; what is ours in it: :mod:`rerankit.models.resrank`). The vectors are those that the
store already holds; a small transformer reads them beside the query's tokens and scores every passage by cosine.
What a vector blurs, exact words, may enter beside it (``words``): BM25, from a sketch of each passage that is kept as
vectors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_bool, check_whole
from rerankit.errors import ModelError
from rerankit.models.embedded import chosen_embedder
from rerankit.models.encoder import TextEncoder
from rerankit.models.files import sha256_of
from rerankit.models.resrank_files import ResRankConfig, load_resrank
from rerankit.models.shipped import folder as shipped_folder
from rerankit.models.text_vectors import encoder_fingerprint
from rerankit.models.vector_cache import KeepsVectors, open_vectors
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.calibration import Calibrator
from rerankit.rerankers.call import BLOCK, Call, Request, Scored
from rerankit.rerankers.compressed_inputs import CompressedInputs, PassageVectors, Query

__all__ = ["Compressed"]

Floats = NDArray[np.float64]

CHUNK = 16
"""Passages encoded between two looks at a deadline."""

_BEHIND = 1e-6
"""How far below the scores of a list the best passage comes that found no room in it."""


class Compressed(Reranker):
    """A small model over one vector per passage; a passage's score depends on the list that it is in.

    A passage's own ``embedding`` is used if its ``embedding_model`` is the model's encoder, or if that is empty (the
    caller vouches for it) and the vector has the right width and length 1. Other passages are encoded, once: long ones
    in windows, of which the one nearest to the query enters the list. A vector that claims to be the encoder's and has
    another width or is not finite is refused. Passages with one and the same vector enter once.

    The order of the input does not matter: the list is put in an order of its own first. Of more than ``max_passages``,
    those nearest to the query enter the list; the others follow behind it by their cosines, shifted below its scores.

    Args:
        model: None for the model that comes with rerankit, else a folder that ``rerankit train compressed`` made.
        encoder: None for the one in the folder or the embedded one, whichever the model was trained with; else the
            folder or hub name of that encoder, or the encoder, loaded.
        vectors: where the vectors of encoded passages are kept: a file (True for one in the user's cache folder), a
            :class:`~rerankit.models.vector_cache.VectorCache`, a :class:`~rerankit.rag.side_vectors.SideVectors` (a
            Chroma collection), or None for the memory of this process.
        max_passages: most passages that one pass reads; its cost grows with their square.
        max_windows: windows read per passage; what lies beyond is counted in ``Hit.truncated_tokens``.
        strict: refuse passages whose vectors cannot be used (another embedder's, unnamed ones not of length 1).
        device, backend, dtype, revision: of the encoder, as for :class:`~rerankit.models.encoder.TextEncoder`. The
            model itself is small, runs beside it on the same device, and in float32 always.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        InputError: an option is wrong.
        ModelError: the model or its encoder cannot be had or is damaged, or the encoder is not the model's.
        MissingExtraError: a needed package is not installed.
    """

    by_text = False

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        encoder: str | Path | TextEncoder | None = None,
        vectors: KeepsVectors | str | Path | bool | None = None,
        max_passages: int = 1000,
        max_windows: int = 64,
        strict: bool = False,
        device: str = "auto",
        backend: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        **options: Unpack[RerankerOptions],
    ) -> None:
        super().__init__(**options)
        check_whole(1, max_passages=max_passages, max_windows=max_windows)
        check_bool(strict=strict)
        self.max_passages = max_passages
        self._owns_cache = bool(vectors) and isinstance(vectors, (str, Path, bool))
        self.vectors = open_vectors(vectors)
        place = shipped_folder("compressed") if model is None else Path(model).expanduser()
        self.module = load_resrank(place)
        engine = {"device": device, "backend": backend, "dtype": dtype, "revision": revision}
        self.encoder, self._owns_encoder = _encoder(place, self.module.config, encoder, engine)
        self.device = self.encoder.engine.choice.device
        self.module.to(self.device)
        self.inputs = CompressedInputs(self.encoder, self.vectors, max_windows, strict)
        self.scale = "z-score" if self.module.config.words else "cosine"
        self._digest = sha256_of(place / "model.safetensors")[:12]
        self.model = f"compressed:{place.resolve().name}@{self._digest}"
        if options.get("calibrator") is None:
            self._calibrator_source = Calibrator.beside(place, self.passage_fingerprint)

    @property
    def fingerprint(self) -> str:
        """Weights, encoder, precision, windows and the size of a list."""
        config = self.module.config
        settings = f"{config.heads}:{config.residual}:{config.words}:{self.inputs.max_windows}:{self.max_passages}"
        return f"compressed:{self._digest}:{encoder_fingerprint(self.encoder)}:{settings}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """Queries, vectors of all passages of all lists, one pass per list."""
        queries = self.inputs.queries([request.query for request in requests], call.meter)
        found = self._passages(requests, call)
        return [
            self._scored(request, query, vectors, call)
            for request, query, vectors in zip(requests, queries, found, strict=True)
        ]

    def close(self) -> None:
        """Stop the worker, close the caches and free the models that this reranker loaded for itself."""
        super().close()
        if self._owns_cache:
            self.vectors.close()
        if self._owns_encoder:
            self.encoder.close()

    def _passages(self, requests: Sequence[Request], call: Call) -> list[list[PassageVectors | None]]:
        """Stored vectors, then, passage by passage of every list until the deadline, encoded ones."""
        found = [[self.inputs.stored(passage) for passage in request.passages] for request in requests]
        depth = max(map(len, found), default=0)
        missing = [(i, j) for j in range(depth) for i, row in enumerate(found) if j < len(row) and row[j] is None]
        step = BLOCK if call.deadline is None else CHUNK
        for start in range(0, len(missing), step):
            if call.expired:
                break
            part = missing[start : start + step]
            rows = self.inputs.encoded([requests[i].passages[j] for i, j in part], call.meter)
            for (i, j), row in zip(part, rows, strict=True):
                found[i][j] = row
        return found

    def _scored(self, request: Request, query: Query, found: Sequence[PassageVectors | None], call: Call) -> Scored:
        scored = np.array([one is not None for one in found])
        scores = np.zeros(len(found))
        if scored.any():
            rows = np.stack([one.nearest(query.vector) for one in found if one is not None])
            if self.module.config.words:  # a last column, so that passages of one vector keep their own words
                read = [passage for passage, one in zip(request.passages, found, strict=True) if one is not None]
                rows = np.column_stack([rows, self.inputs.matches(request.query, read)])
            unique, places = _distinct(rows)
            scores[scored] = self._list_scores(query, unique, call)[places]
        late = len(found) - int(scored.sum())
        return Scored(
            scores,
            scored,
            truncated=np.array([0 if one is None else one.truncated for one in found], np.int64),
            partial=f"the deadline passed: {late} passages unscored" if late else "",
        )

    def _list_scores(self, query: Query, vectors: NDArray[np.float32], call: Call) -> Floats:
        """Scores ``[n]`` of a list's distinct rows (vector, word match), in an order that depends on them alone."""
        cosines = vectors[:, : len(query.vector)].astype(np.float64) @ query.vector.astype(np.float64)
        order = np.argsort(-cosines, kind="stable")
        near, far = np.sort(order[: self.max_passages]), order[self.max_passages :]
        scores = np.empty(len(vectors))
        scores[near] = self._model_scores(query, vectors[near], call)
        if len(far):
            scores[far] = cosines[far] - cosines[far[0]] + scores[near].min() - _BEHIND
        return scores

    def _model_scores(self, query: Query, vectors: NDArray[np.float32], call: Call) -> Floats:
        import torch

        call.meter.forward_passes += 1
        dim = len(query.vector)
        vectors, words = np.ascontiguousarray(vectors[:, :dim]), vectors[:, dim:].T
        mask = np.ones(len(vectors), bool)
        arrays = (query.tokens, np.ones(len(query.tokens), bool), query.vector, vectors, mask, *words)
        with torch.inference_mode():
            inputs = [torch.tensor(array, device=self.device)[None] for array in arrays]
            scores = self.module(*inputs)[0]
        return np.asarray(scores.double().cpu().numpy())


def _distinct(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[int]]:
    """The distinct vectors ``[n, dim]`` in the order of their bytes, and for each given one its place among them."""
    names = [vector.tobytes() for vector in vectors]
    places = {name: i for i, name in enumerate(sorted(set(names)))}
    rows = np.frombuffer(b"".join(places), np.float32).reshape(len(places), -1)
    return rows, [places[name] for name in names]


def _encoder(
    place: Path, wanted: ResRankConfig, asked: str | Path | TextEncoder | None, engine: dict[str, Any]
) -> tuple[TextEncoder, bool]:
    """The encoder that the model in ``place`` was trained with, and whether it was loaded for it."""
    if isinstance(asked, TextEncoder):
        found, owned = asked, False
    elif asked is not None or (place / "encoder").is_dir():
        found, owned = TextEncoder(asked or place / "encoder", **engine), True
    else:
        found, owned = chosen_embedder(engine), False
    if _weights(found.model_id) != _weights(wanted.encoder) or found.dim != wanted.dim:
        if owned:
            found.close()
        raise ModelError(
            f"The model in {place} reads vectors of {wanted.encoder!r} ({wanted.dim} numbers), not those of "
            f"{found.model_id!r} ({found.dim}). Name its encoder: 'compressed:FOLDER[encoder=FOLDER-OR-NAME]', or "
            "train a model for this one with 'rerankit train compressed --base'."
        )
    return found, owned


def _weights(model_id: str) -> str:
    """What names the weights and their setting; the name before it depends on where the files lie."""
    return model_id.rpartition("@")[2]
