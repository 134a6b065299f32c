"""Train a ResRank-style model on lists; the encoder stays as it is, or learns along through a low-rank adapter."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError
from rerankit.models.resrank import ResRank
from rerankit.models.resrank_files import ResRankConfig, save_resrank
from rerankit.rerankers.compressed_inputs import Query
from rerankit.training.checkpoint import trained
from rerankit.training.compressed_data import Bank, Item
from rerankit.training.compressed_encoder import TrainableEncoder
from rerankit.training.drawn import Drawn, padded, to_lists
from rerankit.training.lists_ndcg import mean_ndcg, over_sets
from rerankit.training.losses import OrdinalHead, curriculum_weight, list_difficulty, min_max
from rerankit.training.objective import Term, total

__all__ = ["CompressedModel", "CompressedOptions", "CompressedTask", "new_model"]

_EVALUATED = 16
"""Lists scored, or texts encoded times 4, in one pass of an evaluation."""


@dataclass(frozen=True, slots=True)
class CompressedOptions:
    """How lists become batches.

    Attributes:
        batch: lists per step.
        max_passages: most passages of a list; of a longer one, all relevant passages (half the list at most) and
            random others are drawn, anew in each epoch.
        min_passages: the length of a list is drawn between this and ``max_passages``, so that the model meets short
            lists too.
        sharpness: spread of the teacher's scores within a list; more puts more weight on its first places.
        curriculum: share of the run in which hard lists weigh less (MacAvaney et al., SIGIR 2020); 0 for none.

    Raises:
        InputError: one is out of its range.
    """

    batch: int = 16
    max_passages: int = 64
    min_passages: int = 16
    sharpness: float = 2.0
    curriculum: float = 0.0

    def __post_init__(self) -> None:
        check_whole(1, batch=self.batch)
        check_whole(2, max_passages=self.max_passages, min_passages=self.min_passages)
        if self.min_passages > self.max_passages:
            raise InputError(f"min_passages is at most max_passages, got {self.min_passages} and {self.max_passages}")
        for name, most in (("sharpness", np.inf), ("curriculum", 1.0)):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= most:
                raise InputError(f"{name} must be a number from 0 to {most:g}, got {value!r:.80}")


class CompressedModel(nn.Module):
    """All that may be trained: the list model, and the encoder and a head for grades if there are such."""

    def __init__(self, ranker: ResRank, encoder: TrainableEncoder | None = None) -> None:
        super().__init__()
        self.ranker, self.encoder = ranker, encoder
        self.grades = OrdinalHead()

    def use_grades(self, wanted: bool) -> None:
        """Whether the head for grades is trained."""
        for parameter in self.grades.parameters():
            parameter.requires_grad_(wanted)


def new_model(config: ResRankConfig, encoder: TrainableEncoder | None, seed: int) -> CompressedModel:
    """A model that scores as its encoder does; what is random in it depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CompressedModel(ResRank(config), encoder)


class CompressedTask:
    """See :class:`rerankit.training.task.Task`.

    Args:
        model: to train, in place.
        bank: the lists.
        dev: the lists to choose the best weights by, one bank per set.
        terms: what to minimise.
        options: how.
        chosen: which lists of the bank; None for all.
        facts: for the configuration of the saved model.

    Raises:
        InputError: there is nothing to train on or to measure by.
    """

    def __init__(
        self,
        model: CompressedModel,
        bank: Bank,
        dev: Sequence[Bank],
        terms: Sequence[Term],
        options: CompressedOptions,
        *,
        chosen: Sequence[int] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        if not terms or not dev:
            raise InputError("Training needs at least one loss and one set of dev lists")
        self.module, self.bank, self.dev, self.terms, self.options = model, bank, dev, tuple(terms), options
        self.chosen = list(range(len(bank.items))) if chosen is None else list(chosen)
        self.chosen = [i for i in self.chosen if len(bank.items[i].rows) > 1]
        unjudged = [bank.name for bank in dev if not all(item.grades.any() for item in bank.items)]
        if unjudged:
            raise InputError(f"The dev data {unjudged[0]} has lists without a relevant passage; nDCG needs one in each")
        if not self.chosen:
            raise InputError(f"No list of {bank.name} has two passages to compare")
        self.facts = dict(facts or {})
        model.use_grades(any(term.name == "ordinal" for term in terms))
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        config = {**asdict(self.module.ranker.config), "trained": {}}
        parts = [self.bank.fingerprint, *(one.fingerprint for one in self.dev), *map(str, self.terms)]
        digest = hashlib.sha256(f"{parts} {self.chosen} {asdict(self.options)} {config}".encode())
        for name, tensor in trained(self.module).items():  # where the stage begins
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def batches(self, epoch: int, generator: np.random.Generator) -> list[list[Drawn[Item]]]:
        """All lists in random order, each of a random length."""
        order = generator.permutation(self.chosen).tolist()
        drawn = [_drawn(self.bank.items[i], self.options, generator) for i in order]
        size = self.options.batch
        return [drawn[start : start + size] for start in range(0, len(drawn), size)]

    def loss(self, batch: Sequence[Drawn[Item]], progress: float) -> dict[str, Tensor]:
        """The weighted sum of the stage's losses, and each of them."""
        inputs = self._inputs(self.bank, [(one.item, one.places) for one in batch])
        scores, mask = self.module.ranker(*inputs), inputs[4]
        cosines = (inputs[3] * inputs[2][:, None]).sum(-1)
        levels = self.module.grades(scores) if any(term.name == "ordinal" for term in self.terms) else None
        lists = to_lists(batch, scores, cosines, mask, sharpness=self.options.sharpness, levels=levels)
        if self.options.curriculum:
            hardness = list_difficulty(min_max(cosines, mask), lists.grades, mask)
            weights = lists.weights * curriculum_weight(hardness, progress, self.options.curriculum)
            lists = replace(lists, weights=weights)
        return total(self.terms, lists)

    def evaluate(self) -> dict[str, float]:
        """nDCG@10, the mean over the dev sets and of each."""
        return over_sets({bank.name: self._ndcg(bank) for bank in self.dev})

    def save(self, folder: Path) -> None:
        """Write the folder that ``compressed:FOLDER`` loads."""
        ranker = self.module.ranker
        if self.module.encoder is not None:
            ranker.config = replace(ranker.config, encoder=self.module.encoder.save(folder / "encoder"))
        save_resrank(ranker, folder, **self.facts)

    def _ndcg(self, bank: Bank) -> float:
        bank = self._encoded(bank)
        ranked = []
        for start in range(0, len(bank.items), _EVALUATED):
            part = bank.items[start : start + _EVALUATED]
            scores = self.module.ranker(*self._frozen(bank, [(item, np.arange(len(item.rows))) for item in part]))
            for item, row in zip(part, scores.cpu().numpy(), strict=True):
                ranked.append((np.argsort(-row[: len(item.rows)], kind="stable"), item.grades))
        return mean_ndcg(ranked)

    def _encoded(self, bank: Bank) -> Bank:
        """The bank with the vectors of the encoder as it is now."""
        if (encoder := self.module.encoder) is None:
            return bank
        size = 4 * _EVALUATED
        parts = [bank.texts[start : start + size] for start in range(0, len(bank.texts), size)]
        rows = [encoder(part, "passage")[2].cpu().numpy() for part in parts]
        queries: list[Query] = []
        for start in range(0, len(bank.query_texts), size):
            found = encoder(bank.query_texts[start : start + size], "query")
            queries += [Query(t[c].cpu().numpy(), v.cpu().numpy()) for t, c, v in zip(*found, strict=True)]
        return replace(bank, queries=queries, vectors=np.concatenate(rows))

    def _inputs(self, bank: Bank, lists: Sequence[tuple[Item, NDArray[np.int64]]]) -> tuple[Tensor, ...]:
        """What the list model takes, with gradients where the encoder learns."""
        encoder = self.module.encoder
        if encoder is None:
            return self._frozen(bank, lists)
        rows = [item.rows[places] for item, places in lists]
        distinct, inverse = np.unique(np.concatenate(rows), return_inverse=True)
        vectors = encoder([bank.texts[i] for i in distinct], "passage")[2]
        tokens, counts, queries = encoder([bank.query_texts[item.query] for item, _ in lists], "query")
        mask = _mask([len(row) for row in rows], vectors.device)
        passages = vectors.new_zeros(*mask.shape, vectors.shape[1])
        passages[mask] = vectors[torch.from_numpy(inverse.reshape(-1)).to(vectors.device)]
        return tokens, counts, queries, passages, mask, *self._words(lists, mask)

    def _frozen(self, bank: Bank, lists: Sequence[tuple[Item, NDArray[np.int64]]]) -> tuple[Tensor, ...]:
        device = next(self.module.ranker.parameters()).device
        found = [bank.queries[item.query] for item, _ in lists]
        mask = _mask([len(places) for _, places in lists], device)
        counts = _mask([len(query.tokens) for query in found], device)
        queries = torch.from_numpy(np.stack([query.vector for query in found])).to(device)
        tokens = queries.new_zeros(*counts.shape, found[0].tokens.shape[1])
        tokens[counts] = torch.from_numpy(np.concatenate([query.tokens for query in found])).to(tokens)
        passages = queries.new_zeros(*mask.shape, queries.shape[1])
        rows = np.concatenate([item.rows[places] for item, places in lists])
        passages[mask] = torch.from_numpy(bank.vectors[rows]).to(device)
        return tokens, counts, queries, passages, mask, *self._words(lists, mask)

    def _words(self, lists: Sequence[tuple[Item, NDArray[np.int64]]], mask: Tensor) -> tuple[Tensor, ...]:
        """Word matches as ``[b, n]``, if the model reads them."""
        rows = [item.words[places] for item, places in lists if item.words is not None]
        return (padded(rows, mask),) if self.module.ranker.config.words else ()


def _drawn(item: Item, options: CompressedOptions, generator: np.random.Generator) -> Drawn[Item]:
    """A random part of a list, in random order."""
    count = len(item.rows)
    size = min(count, int(generator.integers(options.min_passages, options.max_passages + 1)))
    order = generator.permutation(count)
    good = order[item.grades[order] > 0][: max(1, size // 2)]
    rest = np.setdiff1d(order, good, assume_unique=True)
    others = generator.permutation(rest)[: size - len(good)]
    return Drawn(item, generator.permutation(np.concatenate([good, others])))


def _mask(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.arange(max(lengths), device=device) < torch.tensor(lengths, device=device)[:, None]
