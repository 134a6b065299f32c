"""Residual: a ranking, and what a small cross-encoder has learned to add to it.

A small cross-encoder that ranks by itself forgets, outside its training data, what its encoder knew. One that is
trained on ``softmax(weight * z + logit)``, z the standardised scores of a ranking that is good anyway, only learns what
that ranking gets wrong; see ``rerankit train cross-encoder``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_choice, check_whole
from rerankit.models import shipped
from rerankit.models.adapter import RESIDUALS, is_adapter, merged, read_adapter
from rerankit.models.files import sha256_of
from rerankit.models.pair_encoder import PairEncoder
from rerankit.models.vector_cache import KeepsVectors
from rerankit.rerankers.base import Reranker, RerankerOptions
from rerankit.rerankers.cache import ScoreCache
from rerankit.rerankers.calibration import Calibrator
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.compose import Fusion, Vote, charge
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.types import Hit, Passage, Ranking

__all__ = ["Residual", "cross_encoder_class", "query_shown"]


def cross_encoder_class(model: object) -> type[Reranker]:
    """``Residual`` for the folder of an adapter, ``CrossEncoder`` for all other models.

    Raises:
        ModelError: the folder's ``config.json`` is damaged.
    """
    return Residual if isinstance(model, str | Path) and is_adapter(model) else CrossEncoder


class Residual(Fusion):
    """A base ranking, its first passages corrected by the adapter of a cross-encoder.

    The score is ``z + logit / weight``: standard deviations of the base ranking's scores in this list. What the
    cross-encoder does not read, beyond ``depth`` or because time ran out, counts as its lowest logit in the list, so
    that no passage from beyond ``depth`` comes before one that was read. An adapter that corrects no ranking gives its
    logit as the score.

    Args:
        model: a folder made by ``rerankit train cross-encoder``; default the shipped one.
        encoder: the model that the adapter was made for, folder or hub name; default the embedded MiniLM.
        residual: spec of the base ranking, instead of the one of the training.
        depth: how many of the base ranking's first passages are read; default that of the training.
        device, backend: as for :class:`~rerankit.rerankers.cross_encoder.CrossEncoder`; of the base ranking's models
            too.
        dtype: of the cross-encoder: ``float32`` by default, so that its folder's calibration holds; ``auto`` for what
            is quick here.
        vectors: where the base ranking's vectors are kept, see :class:`~rerankit.rerankers.dense.Dense`.
        max_tokens: length limit of a pair; default that of the training. Of a query longer than half of it the
            cross-encoder reads the beginning; the base ranking reads it as it always does.
        batch_tokens: padded tokens per batch; bounds the peak memory.
        max_windows: windows that are read of a passage.
        cache: of logits, see :class:`~rerankit.rerankers.pairs.PointwiseOptions`.
        options: see :class:`~rerankit.rerankers.base.RerankerOptions`.

    Raises:
        ModelError: the adapter is damaged, not the published one, or made for another model.
        MissingExtraError: torch, transformers or the back end is not installed.
        InputError: an option is out of range.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        encoder: str | Path | None = None,
        residual: str | None = None,
        depth: int | None = None,
        device: str = "auto",
        backend: str = "auto",
        dtype: str = "float32",
        vectors: KeepsVectors | str | Path | bool | None = None,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        max_windows: int = 8,
        cache: ScoreCache | str | Path | bool | None = None,
        **options: Unpack[RerankerOptions],
    ) -> None:
        check_whole(1, or_none=True, depth=depth)
        place = shipped.folder("cross-encoder") if model is None else Path(model).expanduser()
        config = read_adapter(place)
        check_choice("residual", residual or config.residual, RESIDUALS)
        self.cross = CrossEncoder(
            merged(place, encoder),
            device=device,
            backend=backend,
            dtype=dtype,
            max_tokens=max_tokens or config.max_tokens,
            batch_tokens=batch_tokens,
            read_out="single",
            max_windows=max_windows,
            cache=cache,
        )
        self.weight, self.depth = float(config.weight), depth or config.depth
        base = _base(residual or config.residual, {"device": device, "backend": backend, "vectors": vectors})
        super().__init__([*base, self.cross], **options)
        digest = sha256_of(place / "model.safetensors")[:12]
        # Not the digest of the merged weights: their last bits depend on the machine that merged them.
        self._identity = f"{digest}:{config.scale:g}:{config.base[:12]}"
        self.model = f"cross-encoder:{place.resolve().name}@{digest}"
        self.scale = "z-score" if base else self.cross.scale
        if options.get("calibrator") is None:
            self._calibrator_source = Calibrator.beside(place, self.passage_fingerprint)

    @property
    def fingerprint(self) -> str:
        """The base ranking's, the adapter and its base, the weight between them, precision, and what is read."""
        base, encoder = [one.passage_fingerprint for one in self.members[:-1]], self.cross.encoder
        read = f"{self.depth}:{encoder.max_tokens}:{self.cross.max_windows}:{encoder.engine.choice.dtype}"
        return f"cross-encoder:{self._identity}:{self.weight:g}:{read}:{'+'.join(base)}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """The base ranking of every list, then the logits of their first passages."""
        lists: list[tuple[str, Sequence[Passage]]] = [(request.query, request.passages) for request in requests]
        *base, cross = self.members
        first = base[0].rank_whole(lists, call.deadline, call.cancelled) if base else []
        late = f"the deadline passed before {cross.model}" if call.expired else ""
        chosen = [_first(ranking, self.depth) for ranking in first] or [list(range(len(r.passages))) for r in requests]
        second: list[Ranking] = []
        if not late:
            parts = [
                (query_shown(self.cross.encoder, query), [passages[i] for i in places])
                for (query, passages), places in zip(lists, chosen, strict=True)
            ]
            found = cross.rank_whole(parts, call.deadline, call.cancelled)
            second = [_placed(*row) for row in zip(found, chosen, requests, strict=True)]
        for ranking in (*first, *second):
            charge(call, ranking)
        columns = [column for column in (first, second) if column]
        rows = list(zip(*columns, strict=True)) if columns else [()] * len(requests)
        return [self._fuse(len(request.passages), row, late) for request, row in zip(requests, rows, strict=True)]

    def _scores(self, heard: Sequence[tuple[Vote, float]], count: int) -> NDArray[np.float64]:
        scores = np.zeros(count)
        for vote, _ in heard:
            if vote.member is not self.members[-1]:
                scores += vote.z()
                continue
            logits = np.array([hit.score for hit in vote.hits], np.float64)  # NaN where there is none
            filled = np.where(vote.scored, logits, logits[vote.scored].min())
            scores += filled / self.weight if len(self.members) > 1 else filled
        return scores


def query_shown(encoder: PairEncoder, query: str) -> str:
    """As much of a query as leaves a passage half the room."""
    return encoder.beginning(query, max(1, encoder.max_tokens // 2))


def _base(spec: str, options: Mapping[str, Any]) -> list[Reranker]:
    """The base ranking, with the options of its models if it has any; nothing for ``none``."""
    from rerankit.spec import load

    if spec == "none":
        return []
    return [load(spec) if spec == "lexical" else load(spec, **options)]


def _first(ranking: Ranking, depth: int) -> list[int]:
    """Positions of the first ``depth`` passages."""
    return [hit.prior_rank - 1 for hit in ranking.hits[:depth]]


def _placed(ranking: Ranking, places: Sequence[int], request: Request) -> Ranking:
    """A ranking of some of a request's passages as one of all of them, the others unscored behind."""
    hits = [replace(hit, prior_rank=places[hit.prior_rank - 1] + 1) for hit in ranking]
    read = set(places)
    for place, passage in enumerate(request.passages):
        if place not in read:
            hits.append(Hit(passage, len(hits) + 1, None, place + 1, passage.score, status="unscored"))
    return replace(ranking, hits=tuple(hits))
