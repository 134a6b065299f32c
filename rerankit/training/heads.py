"""Find the heads of a model that look at what a query asks for.

Two scores per head, from labelled lists: QRHead (Wu et al., arXiv:2506.09944) is the attention mass that the query pays
the relevant passage; CoRe (Tran et al., arXiv:2510.02219) is the share of the relevant passage in a softmax over all,
so that a head which looks at every passage gains nothing. A head in a deep layer costs a forward pass through all
layers below it, so the selection stops at the first depth that is as good as any, within a tolerance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rerankit.checks import check_choice, check_whole, is_number
from rerankit.errors import InputError, ModelError
from rerankit.models.attention import AttentionReader, Tail
from rerankit.models.attention_layers import model_shape
from rerankit.models.heads import FORMAT, middle_heads
from rerankit.models.in_context_prompt import Candidate, InContextPrompt, Question, fitting_template
from rerankit.models.templates import Template
from rerankit.training.head_examples import Example

if TYPE_CHECKING:
    from rerankit.models.causal import LocalLM

__all__ = ["Detection", "HeadScore", "detect_heads", "save_heads"]

Method = Literal["core", "qr"]
Floats = NDArray[np.float64]

NULL_QUERY = "N/A"
FEWEST = 4
"""Lists below which half of them cannot check the other half."""

LEAST_TOKENS = 16
"""Tokens of a passage below which its text no longer says what it is about."""


@dataclass(frozen=True, slots=True)
class HeadScore:
    """One chosen head.

    Attributes:
        head: ``layer-head``.
        score: of the method; higher is better.
        ndcg: nDCG@10 of this head alone, on the lists that it was chosen by.
    """

    head: str
    score: float
    ndcg: float


@dataclass(frozen=True, slots=True)
class Detection:
    """The outcome.

    Attributes:
        heads: the chosen ones, best first.
        depth: layers that have to be run for them.
        layers: layers of the model.
        held_out: nDCG@10 on lists that took no part in the choice: of the chosen heads (``chosen``), of every head
            (``all``), and of four middle layers (``middle``), calibrated by "N/A" as in use.
        lists: how many chose, and how many checked.
        method, seed, temperature: as given.
        template: fingerprint of the prompt.
        cut: lists whose passages were shortened below what was asked for, so that they fit the context.
    """

    heads: tuple[HeadScore, ...]
    depth: int
    layers: int
    held_out: dict[str, float]
    lists: tuple[int, int]
    method: Method
    seed: int
    temperature: float
    template: str
    cut: int = 0


@dataclass(frozen=True, slots=True)
class _Masses:
    """Attention of one list: float64 ``[heads, passages]``, as it is and less what "N/A" gives."""

    raw: Floats
    calibrated: Floats
    relevant: int


def detect_heads(
    lm: LocalLM,
    examples: Sequence[Example],
    *,
    method: Method = "core",
    top: int = 8,
    temperature: float = 0.1,
    max_depth: int | None = None,
    tolerance: float = 0.005,
    passage_tokens: int = 512,
    template: str | Template | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Detection:
    """Score every head on half of the lists, choose, and check on the other half.

    Args:
        lm: the model.
        examples: labelled lists; 100 to 250 are enough (QRHead, section 6.4).
        method: ``core`` or ``qr``.
        top: how many heads; 8 (CoRe) to 16 (QRHead) for models below 10 B parameters.
        temperature: of CoRe's softmax; 0.1 for Llama and Phi, 0.001 for Mistral and Granite.
        max_depth: use no head above so many layers.
        tolerance: nDCG@10 that may be given up for less depth.
        passage_tokens: longest passage shown; less where a list does not fit the context otherwise.
        template: of the prompt; default: the model's.
        seed: of the division into halves.
        progress: called with 1 after each list.

    Raises:
        InputError: too few examples, or an option out of range.
        ModelError: the model's attention cannot be read, or a list does not fit with passages of 16 tokens.
    """
    check_choice("method", method, ("core", "qr"))
    check_whole(1, top=top, passage_tokens=passage_tokens)
    check_whole(0, seed=seed)
    if len(examples) < FEWEST or not (is_number(temperature) and 0 < temperature < math.inf):
        raise InputError(f"detect_heads needs {FEWEST} lists and a temperature over 0")
    prompt = InContextPrompt(lm.reader, fitting_template(lm.loaded.checkpoint.name, template, lm.reader))
    reader = AttentionReader(lm, model_shape(lm.model).all_heads(), per_head=True)
    masses, cut = [], 0
    for example in examples:
        limit = _limit(prompt, example, passage_tokens, lm.context)
        cut += limit < passage_tokens
        masses.append(_masses(reader, prompt, example, limit, lm.context))
        if progress is not None:
            progress(1)
    order = np.random.default_rng(seed).permutation(len(masses))
    choosing, checking = ([masses[i] for i in half] for half in np.array_split(order, 2))
    scores = head_scores(choosing, method, temperature)
    depths = [layer + 1 for layer, _ in reader.heads]
    chosen = choose(scores, depths, choosing, top=top, max_depth=max_depth, tolerance=tolerance)
    alone = [_ndcg(choosing, [i]) for i in chosen]
    middle = set(middle_heads(reader.shape).heads)
    return Detection(
        tuple(
            HeadScore("{}-{}".format(*reader.heads[i]), float(scores[i]), value)
            for i, value in zip(chosen, alone, strict=True)
        ),
        max(depths[i] for i in chosen),
        reader.shape.layers,
        {
            "chosen": _ndcg(checking, chosen),
            "all": _ndcg(checking, range(len(reader.heads))),
            "middle": _ndcg(checking, [i for i, head in enumerate(reader.heads) if head in middle]),
        },
        (len(choosing), len(checking)),
        method,
        seed,
        temperature,
        prompt.template.fingerprint,
        cut,
    )


def head_scores(masses: Sequence[_Masses], method: Method, temperature: float) -> Floats:
    """Float64 ``[heads]``: the mean over lists of the relevant passage's mass, or of its share in a softmax."""
    values = []
    for one in masses:
        if method == "core":
            logits = one.raw / temperature
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            values.append(weights[:, one.relevant] / weights.sum(axis=1))
        else:
            values.append(one.raw[:, one.relevant])
    mean: Floats = np.mean(values, axis=0)
    return mean


def choose(
    scores: Floats,
    depths: Sequence[int],
    masses: Sequence[_Masses],
    *,
    top: int,
    max_depth: int | None = None,
    tolerance: float = 0.0,
) -> list[int]:
    """The best heads, up to the least depth at which they rank as well as at any, within ``tolerance`` of nDCG@10.

    Raises:
        InputError: there is no head up to ``max_depth``.
    """
    best_first = np.argsort(-scores, kind="stable").tolist()
    sets: dict[int, list[int]] = {}
    for depth in sorted(set(depths)):
        if max_depth is None or depth <= max_depth:
            sets[depth] = [i for i in best_first if depths[i] <= depth][:top]
    if not sets:
        raise InputError(f"There is no head up to a depth of {max_depth} layers; the lowest layer has depth 1")
    values = {depth: _ndcg(masses, heads) for depth, heads in sets.items()}
    enough = max(values.values()) - tolerance
    return next(sets[depth] for depth in sorted(sets) if values[depth] >= enough)


def save_heads(detection: Detection, lm: LocalLM, path: Path, *, data: str = "") -> None:
    """Write a heads file, bound to the model's weights.

    Args:
        detection: what was found.
        lm: the model that it was found on.
        path: where to.
        data: names the data.
    """
    checkpoint = lm.loaded.checkpoint
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": checkpoint.name,
        "weights": checkpoint.digest,
        "data": data,
        **asdict(detection),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _limit(prompt: InContextPrompt, example: Example, passage_tokens: int, context: int | None) -> int:
    """Tokens per passage with which a list fits the context.

    Raises:
        ModelError: it does not fit with passages that still say something.
    """
    if context is None:
        return passage_tokens
    count = len(example.passages)
    room = min(prompt.room(context, one) for one in _questions(prompt, example, context))
    costs = [prompt.cost(prompt.candidate(text, passage_tokens), count) for text in example.passages]
    if sum(costs) <= room:
        return passage_tokens
    limit = room // count - prompt.cost(Candidate((), np.empty((0, 2), np.int64), 0), count)
    if limit < LEAST_TOKENS:
        raise ModelError(
            f"A list of {count} passages has {sum(costs)} tokens, and a context of {context} tokens has room for "
            f"{max(room, 0)}. Show fewer wrong passages (--negatives), or use a model with a longer context."
        )
    return min(limit, passage_tokens)


def _questions(prompt: InContextPrompt, example: Example, context: int | None) -> list[Question]:
    """The query, cut to a quarter of the context, and the one that asks for nothing."""
    return [prompt.question(example.query, context and max(1, context // 4)), prompt.question(NULL_QUERY)]


def _masses(
    reader: AttentionReader, prompt: InContextPrompt, example: Example, limit: int, context: int | None
) -> _Masses:
    """Every head's attention to every passage, rows averaged, tokens added up."""
    candidates = [prompt.candidate(text, limit) for text in example.passages]
    shared = prompt.shared(candidates)
    questions = _questions(prompt, example, context)
    prefix = reader.read_prefix(shared.ids, shared.columns, rows=shared.rows)
    own = reader.read_tails(prefix, [Tail(one.ids) for one in questions]) if prefix is not None else None
    if prefix is None or own is None:
        raise ModelError("The reading of a list ended early")  # only work with a deadline does
    starts = [start - shared.columns.start for start, _ in shared.spans]
    stops = [stop - shared.columns.start for _, stop in shared.spans]
    raw, null = (
        _sums((prefix.sums.astype(np.float64) + tokens) / (shared.rows + len(one.ids)), starts, stops)
        for tokens, one in zip(own, questions, strict=True)
    )
    return _Masses(raw, raw - null, example.relevant)


def _sums(tokens: Floats, starts: Sequence[int], stops: Sequence[int]) -> Floats:
    """Float64 ``[heads, passages]`` from ``[heads, tokens]``."""
    return np.stack([tokens[:, start:stop].sum(axis=1) for start, stop in zip(starts, stops, strict=True)], axis=1)


def _ndcg(masses: Sequence[_Masses], heads: Sequence[int]) -> float:
    """Mean nDCG@10 of some heads added up; there is one relevant passage per list."""
    values = []
    for one in masses:
        scores = one.calibrated[list(heads)].sum(axis=0)
        rank = int((scores >= scores[one.relevant]).sum())  # ties count against it
        values.append(1.0 / np.log2(rank + 1) if rank <= 10 else 0.0)
    return float(np.mean(values))
