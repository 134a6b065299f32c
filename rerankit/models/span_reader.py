"""SpanReader: marks the span of a passage that answers a question, or says that none does.

    reader = SpanReader()                                   # the shipped one: an adapter on the embedded MiniLM
    [reading] = reader.read("How deep to sow wheat?", ["Sow wheat 3 to 5 cm deep."])
    reading.spans[0].text, reading.probability

Extractive reading as in SQuAD 2.0 (Rajpurkar et al., ACL 2018; Devlin et al., NAACL 2019): a start and an end logit per
token, and the span of ``[CLS]`` for no answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_whole, is_number
from rerankit.errors import InputError, ModelError
from rerankit.models import batching, embedded, shipped
from rerankit.models.backend_torch import TorchBackend
from rerankit.models.backends import Choice
from rerankit.models.checkpoint import Checkpoint, find_checkpoint
from rerankit.models.files import check_weights_digest
from rerankit.models.layout import Entry, probe
from rerankit.models.meter import Meter
from rerankit.models.span_decode import AnswerSpan, Found, decode
from rerankit.models.span_frame import SpanFrame
from rerankit.models.span_net import load_net, merge, read_tensors, span_module
from rerankit.models.tokens import TokenCache, load_tokenizer, read_object
from rerankit.types import Passage

__all__ = ["FORMAT", "AnswerSpan", "Reading", "SpanReader"]

FORMAT = "rerankit-span-reader/1"
"""In the ``config.json`` of a folder that holds an adapter."""

_AGAIN = "Copy the folder again, or train it anew with 'rerankit train reader'."

MAX_WINDOWS = 32
"""Windows of one passage that are read, from its beginning; about 30,000 characters of prose."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader makes of one passage.

    Attributes:
        spans: the best answers of all windows, best first; none in an empty passage.
        score: log-odds that the passage answers, of the window where they are highest; ``-inf`` for an empty passage.
        null_score: logits of the null span in that window.
        probability: that the passage answers: the score, calibrated.
    """

    spans: tuple[AnswerSpan, ...]
    score: float
    null_score: float
    probability: float


class SpanReader:
    """An extractive question-answering model. Safe between threads.

    Args:
        model: a folder made by ``rerankit train reader``, or any question-answering checkpoint with safetensors
            (folder or hub name); default the shipped adapter.
        base: the encoder that an adapter was made for; default the embedded MiniLM.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        max_tokens: length of a window, question included; default that of the training, else 384.
        batch_tokens: padded tokens per batch; bounds the peak memory.
        calibrated: apply the folder's ``calibration.json``; without, a probability is the model's own.

    Attributes:
        model_id: names the weights.

    Raises:
        ModelError: weights are missing, damaged, not the published ones, or made for another encoder.
        MissingExtraError: torch or transformers is not installed.
        InputError: an option is out of range.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        base: str | Path | None = None,
        device: str = "auto",
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        calibrated: bool = True,
    ) -> None:
        check_whole(1, or_none=True, max_tokens=max_tokens, batch_tokens=batch_tokens)
        source = shipped.folder("reader") if model is None else model
        self._calibration = (1.0, 0.0)
        settings = read_object(Path(source).expanduser() / "config.json")
        if settings.get("format") == FORMAT:
            folder = Path(source).expanduser()
            checkpoint = _base(base, str(settings.get("base", "")), folder)
            net = load_net(checkpoint, headless=True)
            tensors = read_tensors(folder / "model.safetensors")
            check_weights_digest(folder / "model.safetensors", settings, _AGAIN)
            merge(net, tensors, _number(settings, "scale", None, folder))
            self.model_id = find_checkpoint(folder, name=f"reader:{folder.resolve().name}").model_id
            if calibrated:
                self._calibration = _calibration(folder / "calibration.json")
        else:
            checkpoint, settings = find_checkpoint(source), {}
            net = load_net(checkpoint, headless=False)
            self.model_id = checkpoint.model_id
        chosen = Choice("torch", device, "float32").resolve(checkpoint).device
        tokens = TokenCache(load_tokenizer(checkpoint.folder))
        longest = checkpoint.longest_input()
        limit = max_tokens or min(longest, int(_number(settings, "max_tokens", 384, Path(source))))
        if limit > longest:
            raise InputError(f"max_tokens={limit} is more than the {longest} that {checkpoint.name!r} can read")
        self.frame = SpanFrame(tokens, probe(tokens.tokenizer, pair=True), limit)
        self._pad_id = checkpoint.pad_id(tokens.tokenizer.token_to_id("[PAD]"))
        self._backend = TorchBackend(span_module(net).to(chosen), chosen)
        self._budget = batch_tokens or self._backend.budget

    def read(
        self, question: str, passages: Sequence[str | Passage], *, keep: int = 5, meter: Meter | None = None
    ) -> list[Reading]:
        """Read each passage, its title included, for an answer.

        Args:
            question: the question; beyond 64 tokens it is cut.
            passages: any number, of any length; the first 32 windows of each are read.
            keep: most spans per passage.
            meter: counts the work.

        Raises:
            InputError: the question is empty, or a passage is no text.
            ModelError: the logits are not finite, or memory does not suffice for one window.
        """
        check_whole(1, keep=keep)
        if not isinstance(question, str) or not question.strip():
            raise InputError("The question is empty; ask something")
        texts = [_text(passage) for passage in passages]
        windows = [
            (i, window)
            for i, (title, text) in enumerate(texts)
            for window in self.frame.windows(question, text, title, limit=MAX_WINDOWS)
        ]
        found: list[Found | None] = [None] * len(windows)
        for positions, logits in self._run([window.entry for _, window in windows], meter or Meter()):
            for position, row in zip(positions, logits, strict=True):
                i, window = windows[position]
                found[position] = decode(row, window, texts[i][1], keep)
        parts: list[list[Found]] = [[] for _ in texts]
        for (i, _), part in zip(windows, found, strict=True):
            if part is not None:
                parts[i].append(part)
        return [self._reading(of_passage, keep) for of_passage in parts]

    def _run(self, entries: Sequence[Entry], meter: Meter) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        if self._backend.module is None:
            raise ModelError(f"The model {self.model_id!r} has been closed")
        return batching.run(entries, self._backend, budget=self._budget, pad_id=self._pad_id, meter=meter)

    def _reading(self, parts: Sequence[Found], keep: int) -> Reading:
        if not parts:
            return Reading((), -math.inf, 0.0, 0.0)
        best = max(parts, key=lambda part: part.score)
        ordered = sorted((span for part in parts for span in part.spans), key=lambda span: (-span.score, span.start))
        return Reading(tuple(_apart(ordered)[:keep]), best.score, best.null_score, self._probability(best.score))

    def _probability(self, score: float) -> float:
        slope, intercept = self._calibration
        return float(np.exp(-np.logaddexp(0.0, -(slope * score + intercept))))

    def close(self) -> None:
        """Free the model; later calls raise ModelError."""
        self._backend.close()


def _apart(spans: Sequence[AnswerSpan]) -> list[AnswerSpan]:
    """Without those that overlap a better one: windows repeat some text."""
    kept: list[AnswerSpan] = []
    for span in spans:
        if not any(span.start < other.end and other.start < span.end for other in kept):
            kept.append(span)
    return kept


def _text(passage: str | Passage) -> tuple[str, str]:
    """Title and text."""
    if isinstance(passage, Passage):
        return passage.title, passage.text
    if not isinstance(passage, str):
        raise InputError(f"A passage is a text or a Passage, got {type(passage).__name__}: {passage!r:.80}")
    return "", passage


def _base(base: str | Path | None, wanted: str, folder: Path) -> Checkpoint:
    """The encoder, seen to be the one that the adapter was made for."""
    if base is None:
        checkpoint = find_checkpoint(embedded.model_folder(), name="all-MiniLM-L6-v2")
        embedded.verify(checkpoint.weights[0])
    else:
        checkpoint = find_checkpoint(base)
    if checkpoint.digest != wanted:
        raise ModelError(
            f"The adapter in {folder} was made for an encoder with sha256 {wanted[:12] or 'unknown'}, and "
            f"{checkpoint.model_id} is another. Pass that encoder as base=, or train an adapter for this one: "
            "rerankit train reader"
        )
    return checkpoint


def _number(settings: Mapping[str, Any], name: str, default: float | None, file: Path) -> float:
    value = settings.get(name, default)
    if not is_number(value) or not math.isfinite(float(value)):
        raise ModelError(f"{file} is damaged: {name} should be a number, got {value!r:.40}. Train the reader again.")
    return float(value)


def _calibration(file: Path) -> tuple[float, float]:
    """Slope and intercept of the logistic function that makes probabilities of scores; (1, 0) without a file."""
    settings = read_object(file)
    return _number(settings, "slope", 1.0, file), _number(settings, "intercept", 0.0, file)
