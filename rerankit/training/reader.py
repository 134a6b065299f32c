"""Train an extractive reader: a low-rank adapter and a span head on a frozen encoder, to be read by SpanReader.

The loss is the mean negative log-likelihood of the first and of the last token of the answer, as in SQuAD 2.0, where
``[CLS]`` is both for a passage that does not answer. Of several places that may be right the sum of their probabilities
counts (Clark and Gardner, ACL 2018, section 3), so an answer that stands twice in a passage, a region that holds it
somewhere, and a passage of which it is only known that it answers, are all learned from alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError, require
from rerankit.models.batching import pad
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.files import write_atomically
from rerankit.models.layout import probe
from rerankit.models.span_frame import SpanFrame, Window
from rerankit.models.span_net import load_net
from rerankit.models.span_reader import FORMAT
from rerankit.models.tokens import TokenCache, load_tokenizer
from rerankit.training.checkpoint import write_weights
from rerankit.training.low_rank import with_adapter
from rerankit.training.reader_dev import DevSet, measured
from rerankit.training.reader_examples import ReaderExample
from rerankit.training.reader_negatives import Swapper

__all__ = ["ReaderOptions", "ReaderTask"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """How a reader is built and fed.

    Attributes:
        rank: of the adapter's matrices.
        alpha: the adapter counts ``alpha / rank`` times.
        max_tokens: length of a window.
        batch: windows per step.
        unanswerable: unanswerable examples per answerable one, made anew in each epoch.
        swapped: share of them that keep the passage and change a word of the question.

    Raises:
        InputError: one is out of its range.
    """

    rank: int = 16
    alpha: int = 32
    max_tokens: int = 256
    batch: int = 16
    unanswerable: float = 0.7
    swapped: float = 0.35

    def __post_init__(self) -> None:
        check_whole(1, rank=self.rank, alpha=self.alpha, max_tokens=self.max_tokens, batch=self.batch)
        for name in ("unanswerable", "swapped"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise InputError(f"{name} must be a share from 0 to 1, got {value!r:.80}")


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """A window, and the positions in it where the answer may begin and end; ``[CLS]`` if there is none."""

    window: Window
    starts: Ints
    ends: Ints


class ReaderTask:
    """See :class:`rerankit.training.task.Task`.

    Args:
        examples: to learn from.
        wrong: for each the same question with passages that do not answer it, see
            :func:`~rerankit.training.reader_negatives.hard_negatives`.
        swapper: makes other questions.
        dev: to be measured on.
        checkpoint: of the encoder.
        options: how.
        seed: of the adapter's first values.
        facts: for the configuration of the saved reader.

    Raises:
        InputError: an argument is out of range, or there is nothing to learn from.
        ModelError: the encoder cannot be loaded.
        MissingExtraError: peft is not installed.
    """

    def __init__(
        self,
        examples: Sequence[ReaderExample],
        wrong: Sequence[Sequence[ReaderExample]],
        swapper: Swapper,
        dev: Sequence[DevSet],
        checkpoint: Checkpoint,
        options: ReaderOptions,
        *,
        seed: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        if not examples or len(wrong) != len(examples):
            raise InputError(f"There are {len(examples)} examples, and wrong passages for {len(wrong)} of them")
        self.examples, self.wrong, self.swapper, self.dev, self.options = examples, wrong, swapper, dev, options
        self.checkpoint, self.facts = checkpoint, dict(facts or {})
        tokens = TokenCache(load_tokenizer(checkpoint.folder))
        self.frame = SpanFrame(tokens, probe(tokens.tokenizer, pair=True), options.max_tokens)
        self.pad_id = checkpoint.pad_id(tokens.tokenizer.token_to_id("[PAD]"))
        self.module = adapted(load_net(checkpoint, headless=True), options, seed)
        self.fingerprint = self._fingerprint()

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.checkpoint.digest} {asdict(self.options)}".encode())
        sets = [self.examples, *self.wrong, *(one.examples for one in self.dev)]
        for part in ([one.name for one in self.dev], *([astuple(one) for one in examples] for examples in sets)):
            digest.update(json.dumps(part).encode())
        return digest.hexdigest()[:16]

    def batches(self, epoch: int, generator: np.random.Generator) -> list[list[_Item]]:
        """Batches of windows of like length, in random order."""
        chosen = [item for one in self._drawn(generator) if (item := self.item(one)) is not None]
        size = self.options.batch
        order = generator.permutation(len(chosen)).tolist()
        batches = []
        for start in range(0, len(order), 50 * size):
            part = sorted(order[start : start + 50 * size], key=lambda i: chosen[i].window.entry.size())
            batches += [[chosen[i] for i in part[first : first + size]] for first in range(0, len(part), size)]
        return [batches[i] for i in generator.permutation(len(batches)).tolist()]

    def _drawn(self, random: np.random.Generator) -> list[ReaderExample]:
        """All examples, and to some of the answerable ones an unanswerable one."""
        drawn = list(self.examples)
        for example, wrong in zip(self.examples, self.wrong, strict=True):
            if example.spans and random.random() < self.options.unanswerable:
                swapped = self.swapper.swap(example, random) if random.random() < self.options.swapped else None
                others = [swapped] if swapped else [wrong[int(random.integers(len(wrong)))]] if wrong else []
                drawn.extend(others)
        return drawn

    def item(self, example: ReaderExample) -> _Item | None:
        """The first window that holds an answer, or the first at all if there is none to hold; None for no text."""
        windows = self.frame.windows(example.question, example.context, example.title, limit=8)
        null = np.zeros(1, np.int64)
        if not example.spans:
            return _Item(windows[0], null, null) if windows else None
        for window in windows:
            places = [window.positions(start, end) for start, end in example.spans]
            if not example.exact and len(inside := np.concatenate(places)):
                return _Item(window, inside, inside)
            whole = [
                place
                for place, (start, end) in zip(places, example.spans, strict=True)
                if len(place) and window.offsets[0, 0] <= start and end <= window.offsets[-1, 1]
            ]
            if example.exact and whole:
                starts, ends = ({int(place[i]) for place in whole} for i in (0, -1))
                return _Item(window, np.array(sorted(starts)), np.array(sorted(ends)))
        return None

    def loss(self, batch: Sequence[_Item], progress: float) -> dict[str, torch.Tensor]:
        """The loss, and its parts of the first and of the last token."""
        del progress
        logits = self.logits([item.window for item in batch])
        allowed, starts, ends = (torch.zeros(logits.shape[:2], dtype=torch.bool) for _ in range(3))
        for row, item in enumerate(batch):
            allowed[row, 0] = True
            allowed[row, item.window.first : item.window.first + len(item.window.offsets)] = True
            starts[row, item.starts] = True
            ends[row, item.ends] = True
        parts = [
            marginal(logits[..., i], target.to(logits.device), allowed.to(logits.device))
            for i, target in enumerate((starts, ends))
        ]
        return {"loss": (parts[0] + parts[1]) / 2, "start": parts[0], "end": parts[1]}

    def logits(self, windows: Sequence[Window]) -> torch.Tensor:
        """Float32 ``[b, t, 2]``."""
        batch = pad([window.entry for window in windows], self.pad_id)
        device = next(self.module.parameters()).device
        ids, mask, types = (torch.from_numpy(part).to(device) for part in batch)
        named = {"token_type_ids": types} if getattr(self.module.config, "type_vocab_size", 0) > 1 else {}
        found = self.module(input_ids=ids, attention_mask=mask, **named)
        return torch.stack([found.start_logits, found.end_logits], dim=-1).float()

    def evaluate(self) -> Mapping[str, float]:
        """See :func:`~rerankit.training.reader_dev.measured`."""
        return measured(self.dev, self.frame, lambda windows: self.logits(windows).cpu().numpy())

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` (the adapter and the head, by peft's names) and ``config.json``."""
        peft = require("peft", extra="train", purpose="Saving an adapter")
        tensors = peft.get_peft_model_state_dict(self.module)
        settings = {
            "format": FORMAT,
            "weights_sha256": write_weights(folder / "model.safetensors", tensors),
            "base": self.checkpoint.digest,
            "base_name": self.checkpoint.name,
            "rank": self.options.rank,
            "alpha": self.options.alpha,
            "scale": self.options.alpha / self.options.rank,
            "max_tokens": self.options.max_tokens,
            "trained": self.facts,
        }
        write_atomically(folder / "config.json", json.dumps(settings, indent=2) + "\n")


def adapted(net: Any, options: ReaderOptions, seed: int) -> Any:
    """The net with a low-rank adapter on every linear layer; only that and the head are trained."""
    layers = {name.rpartition(".")[2] for name, part in net.named_modules() if isinstance(part, torch.nn.Linear)}
    linear = sorted(layers - {"qa_outputs"})
    return with_adapter(net, linear, ["qa_outputs"], rank=options.rank, alpha=options.alpha, seed=seed)


def marginal(logits: torch.Tensor, target: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Mean negative log of the probability that falls on any of the right positions.

    Args:
        logits: ``[b, t]``.
        target: bool ``[b, t]``: right positions, at least one per row, all of them allowed.
        allowed: bool ``[b, t]``: positions among which the probability is shared out.
    """
    possible = logits.masked_fill(~allowed, -torch.inf).logsumexp(1)
    return (possible - logits.masked_fill(~target, -torch.inf).logsumexp(1)).mean()
