"""Train a cross-encoder as a low-rank adapter that corrects a base ranking.

The loss is a list-wise one on ``weight * z + logit``, where z are the standardised scores of the base ranking: what
that ranking knows need not be learned, and training starts there, as a new classifier's logits are nearly 0.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError, require
from rerankit.models.adapter import FORMAT, head_names
from rerankit.models.batching import pad, plan
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.files import write_atomically
from rerankit.models.layout import Entry
from rerankit.training.checkpoint import write_weights
from rerankit.training.cross_encoder_data import Floats, PairReader, Pairs, Ranked, RankedSet, fingerprint_of
from rerankit.training.drawn import Drawn, padded, to_lists
from rerankit.training.lists_ndcg import METRIC, mean_ndcg, over_sets
from rerankit.training.low_rank import with_adapter
from rerankit.training.objective import Term, total

__all__ = ["CrossEncoderOptions", "CrossEncoderTask", "adapted", "list_ndcg", "list_scores"]

_WEIGHTS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
"""Shares of the training's weight that are tried on the dev data; more of it is less correction."""

_TOKENS = 2048
"""Padded tokens per forward pass on a processor."""
_EVALUATED = 32
"""Lists measured together."""


@dataclass(frozen=True, slots=True)
class CrossEncoderOptions:
    """How a cross-encoder is built and fed.

    Attributes:
        rank: of the adapter's matrices; alpha is twice that.
        layers: how many of the last layers get an adapter; None for all.
        batch: lists per step.
        lists: per epoch, drawn anew for each; None for all.
        pairs: which pairs of a list.
        weight: logits that one standard deviation of the base ranking is worth in the loss.
        depth: passages of the base ranking that are read.
        sharpness: spread of the teacher's scores within a list.

    Raises:
        InputError: one is out of its range.
    """

    rank: int = 16
    layers: int | None = None
    batch: int = 4
    pairs: Pairs = field(default_factory=Pairs)
    weight: float = 1.5
    depth: int = 30
    sharpness: float = 2.0
    lists: int | None = None

    def __post_init__(self) -> None:
        check_whole(1, rank=self.rank, batch=self.batch, depth=self.depth)
        check_whole(1, or_none=True, layers=self.layers, lists=self.lists)
        for name in ("weight", "sharpness"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value < np.inf:
                raise InputError(f"{name} must be a number above 0, got {value!r:.80}")


class CrossEncoderTask:
    """See :class:`rerankit.training.task.Task`.

    Args:
        lists: to learn from.
        dev: to be measured on.
        module: ``(ids, mask, types) -> logits [b, 1]``, trained in place: see :func:`adapted`.
        reader: makes pairs into its inputs.
        base: what the adapter changes.
        residual: spec of the ranking that is corrected, or ``none``.
        terms: what to minimise.
        options: how.
        dtype: of the forward passes in an evaluation.
        facts: for the configuration of the saved adapter.

    Attributes:
        weight: that the saved adapter will name; :meth:`tune` chooses it.

    Raises:
        InputError: there is nothing to train on or to measure by.
    """

    def __init__(
        self,
        lists: Sequence[Ranked],
        dev: Sequence[RankedSet],
        module: nn.Module,
        reader: PairReader,
        base: Checkpoint,
        residual: str,
        terms: Sequence[Term],
        options: CrossEncoderOptions,
        *,
        dtype: str = "float32",
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        if not lists or not terms or not any(one.lists for one in dev):
            raise InputError("Training needs lists of two passages, dev lists of the same kind, and a loss")
        self.lists, self.dev, self.module, self.reader = list(lists), [one for one in dev if one.lists], module, reader
        self.base, self.residual, self.terms, self.options = base, residual, tuple(terms), options
        self.corrections: list[list[NDArray[np.float64]]] = []
        self.dtype, self.facts, self.weight = dtype, dict(facts or {}), options.weight
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        data = [fingerprint_of(self.lists), *(fingerprint_of(one.lists) for one in self.dev)]
        encoder = self.reader.cross.encoder
        parts = [self.base.digest, self.residual, *map(str, self.terms), str(asdict(self.options)), *data]
        return hashlib.sha256("\0".join([*parts, str(encoder.max_tokens)]).encode()).hexdigest()[:16]

    def batches(self, epoch: int, generator: np.random.Generator) -> list[list[Drawn[Ranked]]]:
        """The lists of an epoch in random order, some pairs of each."""
        order = generator.permutation(len(self.lists))[: self.options.lists].tolist()
        drawn = [Drawn(self.lists[i], self.lists[i].draw(self.options.pairs, generator)) for i in order]
        size = self.options.batch
        return [drawn[start : start + size] for start in range(0, len(drawn), size)]

    def loss(self, batch: Sequence[Drawn[Ranked]], progress: float) -> dict[str, Tensor]:
        """The weighted sum of the losses, and each of them."""
        del progress
        entries: list[Entry] = []
        for drawn in batch:
            found = drawn.item.item
            entries += self.reader.best(found.query, [found.passages[i] for i in drawn.places])
        logits = self.logits(entries)
        lengths = torch.tensor([len(drawn.places) for drawn in batch], device=logits.device)
        mask = torch.arange(int(lengths.max()), device=logits.device) < lengths[:, None]
        base = self.options.weight * padded([one.item.base[one.places] for one in batch], mask)
        scores = base.masked_scatter(mask, base[mask] + logits)
        return total(self.terms, to_lists(batch, scores, base, mask, sharpness=self.options.sharpness))

    def logits(self, entries: Sequence[Entry]) -> Tensor:
        """Float32 ``[n]``; inputs of like length share a pass."""
        device = next(self.module.parameters()).device
        budget = _TOKENS if device.type == "cpu" else 32 * _TOKENS
        pad_id = self.reader.cross.encoder.engine.pad_id
        groups = plan([entry.size() for entry in entries], budget)
        parts = []
        for group in groups:
            ids, mask, types = (torch.from_numpy(p).to(device) for p in pad([entries[i] for i in group], pad_id))
            parts.append(self.module(ids, mask, types)[:, 0].float())
        back = np.argsort(np.concatenate(groups), kind="stable")
        return torch.cat(parts)[torch.from_numpy(back).to(device)]

    def evaluate(self) -> dict[str, float]:
        """nDCG@10 of base and correction at the best weight, the mean over the dev sets and of each."""
        return self._best([self._corrections(one.lists) for one in self.dev])[1]

    def untrained(self) -> dict[str, float]:
        """The same of the base ranking alone."""
        nothing = [[np.zeros(min(len(x.order), self.options.depth)) for x in one.lists] for one in self.dev]
        return self._measured(nothing, self.options.weight)

    def tune(self) -> dict[str, float]:
        """Choose ``weight`` by the dev data; returns the metrics with it."""
        self.module.eval()
        with torch.no_grad():
            self.corrections = [self._corrections(one.lists) for one in self.dev]
        self.weight, metrics = self._best(self.corrections)
        return metrics

    def scored(self) -> Iterator[tuple[NDArray[np.float64], Floats]]:
        """Scores and grades of every dev list, in its base's order, after :meth:`tune`."""
        scale = self.weight if self.residual != "none" else 1.0
        for one, rows in zip(self.dev, self.corrections, strict=True):
            for ranked, correction in zip(one.lists, rows, strict=True):
                yield list_scores(ranked, correction, scale)[ranked.order], ranked.grades[ranked.order]

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (adapter and head in float16, by peft's names) and ``config.json``."""
        peft = require("peft", extra="train", purpose="Saving an adapter")
        tensors = peft.get_peft_model_state_dict(self.module.model, save_embedding_layers=False)
        halved = {name: tensor.half() for name, tensor in tensors.items()}
        settings = {
            "format": FORMAT,
            "weights_sha256": write_weights(folder / "model.safetensors", halved),
            "base": self.base.digest,
            "base_name": self.base.name,
            "rank": self.options.rank,
            "scale": 2.0,
            "max_tokens": self.reader.cross.encoder.max_tokens,
            "residual": self.residual,
            "weight": self.weight,
            "depth": self.options.depth,
            "trained": self.facts,
        }
        write_atomically(folder / "config.json", json.dumps(settings, indent=2) + "\n")

    def _corrections(self, lists: Sequence[Ranked]) -> list[NDArray[np.float64]]:
        """Per list the logits of the base ranking's first passages, in its order."""
        found: list[NDArray[np.float64]] = []
        for start in range(0, len(lists), _EVALUATED):
            entries: list[Entry] = []
            windows: list[list[int]] = []
            for one in lists[start : start + _EVALUATED]:
                passages = [one.item.passages[i] for i in one.order[: self.options.depth]]
                made, counts = self.reader.all(one.item.query, passages)
                entries += made
                windows.append(counts)
            device = next(self.module.parameters()).device.type
            with torch.autocast(device, getattr(torch, self.dtype), enabled=self.dtype != "float32"):
                logits = self.logits(entries).detach().double().cpu().numpy()
            starts = np.cumsum([0, *(count for counts in windows for count in counts)])[:-1]
            best = np.maximum.reduceat(logits, starts)
            found += np.split(best, np.cumsum([len(counts) for counts in windows])[:-1])
        return found

    def _best(self, corrections: Sequence[Sequence[NDArray[np.float64]]]) -> tuple[float, dict[str, float]]:
        """The weight of the base that does best on the dev data, and the metrics with it."""
        shares = _WEIGHTS if self.residual != "none" else (1.0,)
        weights = [share * self.options.weight for share in shares]
        metrics = {weight: self._measured(corrections, weight) for weight in weights}
        best = max(metrics, key=lambda weight: metrics[weight][METRIC])
        return best, metrics[best]

    def _measured(self, corrections: Sequence[Sequence[NDArray[np.float64]]], weight: float) -> dict[str, float]:
        pairs = zip(self.dev, corrections, strict=True)
        return over_sets({one.name: list_ndcg(one.lists, rows, weight) for one, rows in pairs})


def adapted(net: Any, options: CrossEncoderOptions, seed: int) -> Any:
    """The net with a low-rank adapter on the linear layers of its encoder; only that and the head are trained."""
    heads = head_names(net)
    outside = tuple(f"{name}." for name in heads)
    linear = [
        name for name, part in net.named_modules()
        if isinstance(part, nn.Linear) and name not in heads and not name.startswith(outside)
    ]  # fmt: skip
    layers = _last_layers(linear, options.layers)
    return with_adapter(net, layers, heads, rank=options.rank, alpha=2 * options.rank, seed=seed)


def _last_layers(names: Sequence[str], count: int | None) -> list[str]:
    """The names in the last ``count`` numbered layers; all for None."""
    if count is None:
        return list(names)
    numbers = {name: int(found[1]) for name in names if (found := re.search(r"\.(\d+)\.", name))}
    first = max(numbers.values(), default=0) + 1 - count
    return [name for name, number in numbers.items() if number >= first]


def list_scores(one: Ranked, correction: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """``z + logit / weight`` of every passage; what was not read counts as the lowest logit."""
    logits = np.full(len(one.order), correction.min())
    logits[one.order[: len(correction)]] = correction
    return one.base + logits / weight


def list_ndcg(lists: Sequence[Ranked], corrections: Sequence[NDArray[np.float64]], weight: float) -> float:
    """Mean nDCG@10 of :func:`list_scores`."""
    pairs = zip(lists, corrections, strict=True)
    ranked = [(one, list_scores(one, correction, weight)[one.order]) for one, correction in pairs]
    return mean_ndcg((one.order[np.argsort(-scores, kind="stable")], one.grades) for one, scores in ranked)
