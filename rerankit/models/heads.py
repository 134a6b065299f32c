"""Which heads of a model to read: all, published ones, a window of middle layers, a file, or the caller's own list.

Published lists are data (``published_heads.json``), each with its source and the models that it was found on.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.resources
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankit.checks import is_whole, nearest
from rerankit.errors import InputError, ModelError
from rerankit.models.attention_layers import Head, Shape

__all__ = ["Heads", "choose_heads", "middle_heads", "parse_head", "published_heads", "read_heads"]

FORMAT = "rerankit-heads/1"

MIDDLE_START, MIDDLE_LAYERS = 10 / 28, 4
"""Selective-ICR (arXiv:2602.22591) reads layers 10 to 13 of the 28 of Qwen3-0.6B: no head list is needed."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Some heads of a model, and where the choice comes from.

    Attributes:
        name: what the option ``heads=`` or the file calls it.
        heads: (layer, head) pairs from 0, best first where an order is known.
        source: paper, repository or file.
    """

    name: str
    heads: tuple[Head, ...]
    source: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes with the heads, not with their order or name."""
        return "/".join(f"{layer}-{head}" for layer, head in sorted(set(self.heads)))


@dataclass(frozen=True, slots=True)
class Published:
    """One published list."""

    name: str
    models: tuple[str, ...]
    shape: Shape
    heads: tuple[Head, ...]
    source: str

    def fits(self, model: str, shape: Shape) -> bool:
        """Whether it was found on a model of this name and shape (a checkpoint may come with fewer layers)."""
        deepest = max(layer for layer, _ in self.heads)
        same = shape.heads == self.shape.heads and deepest < shape.layers <= self.shape.layers
        return same and any(fnmatch.fnmatch(model.lower(), pattern.lower()) for pattern in self.models)


@functools.cache
def published_heads() -> tuple[Published, ...]:
    """All published lists; of several that fit a model, the first is the default."""
    text = importlib.resources.files("rerankit.models").joinpath("published_heads.json").read_text("utf-8")
    return tuple(
        Published(
            row["name"],
            tuple(row["models"]),
            Shape(row["layers"], row["heads_per_layer"]),
            tuple(parse_head(head) for head in row["heads"].split()),
            row["source"],
        )
        for row in json.loads(text)
    )


def choose_heads(asked: str | Path | Sequence[str | Head], *, model: str, shape: Shape, weights: str = "") -> Heads:
    """The heads that ``asked`` means for a model.

    Args:
        asked: ``all``; ``middle``; ``auto`` (a published list for this model, else ``middle``); the name of a published
            list; a heads file; or heads themselves: ``"13-18/14-20"``, or a sequence of such or of pairs.
        model: name of the model.
        shape: its layers and heads.
        weights: names its exact weights; a heads file must have been made for them.

    Raises:
        InputError: no such list, or it cannot be read.
        ModelError: a file was made for other weights, or a head does not exist.
    """
    chosen = _chosen(asked, model, shape, weights)
    if not chosen.heads:
        raise InputError("No head was given to read; give at least one, such as '13-18'")
    for layer, head in chosen.heads:
        if not (0 <= layer < shape.layers and 0 <= head < shape.heads):
            raise ModelError(
                f"{model} has no head {layer}-{head} (heads: {chosen.name}): it has {shape.layers} layers of "
                f"{shape.heads} heads, counted from 0"
            )
    return chosen


def _chosen(asked: str | Path | Sequence[str | Head], model: str, shape: Shape, weights: str) -> Heads:
    if isinstance(asked, Path) or (isinstance(asked, str) and asked.endswith(".json")):
        return read_heads(Path(asked), weights)
    if not isinstance(asked, str | Iterable):
        raise InputError(f"heads takes a name, a file, or heads such as '13-18/14-20'; got {asked!r:.80}")
    if not isinstance(asked, str):
        return Heads("given", tuple(parse_head(head) for head in asked))
    if asked == "all":
        return Heads("all", tuple(shape.all_heads()))
    if asked == "middle":
        return middle_heads(shape)
    if asked == "auto":
        fitting = [item for item in published_heads() if item.fits(model, shape)]
        return Heads(fitting[0].name, fitting[0].heads, fitting[0].source) if fitting else middle_heads(shape)
    if re.match(r"\d", asked):
        return Heads("given", tuple(parse_head(head) for head in re.split(r"[\s/,]+", asked.strip(" /,"))))
    return _by_name(asked, model, shape)


def _by_name(name: str, model: str, shape: Shape) -> Heads:
    fitting = [item for item in published_heads() if item.fits(model, shape)]
    for item in fitting:
        if item.name == name:
            return Heads(item.name, item.heads, item.source)
    names = ["all", "middle", "auto", *(item.name for item in fitting)]
    there = ", ".join(names[3:]) or "none"
    raise InputError(
        f"No heads {name!r:.80} for {model}{nearest(name, names)} Write all, middle, auto, a published list (for this "
        f"model: {there}), a .json file made by 'rerankit train heads', or heads such as 13-18/14-20"
    )


def middle_heads(shape: Shape) -> Heads:
    """Every head of four layers a third of the way up, where relevance shows most (arXiv:2602.22591)."""
    start = min(round(shape.layers * MIDDLE_START), max(0, shape.layers - MIDDLE_LAYERS))
    layers = range(start, min(start + MIDDLE_LAYERS, shape.layers))
    heads = tuple((layer, head) for layer in layers for head in range(shape.heads))
    return Heads(f"middle:{layers.start}-{layers.stop - 1}", heads, "arXiv:2602.22591")


def parse_head(text: str | Head | Sequence[int]) -> Head:
    """``"13-18"`` or a pair as layer and head.

    Raises:
        InputError: it is neither.
    """
    if isinstance(text, str):
        if match := re.fullmatch(r"(\d+)-(\d+)", text.strip()):
            return int(match[1]), int(match[2])
    elif isinstance(text, Sequence) and len(text) == 2 and all(is_whole(number) for number in text):
        layer, head = map(int, text)
        if layer >= 0 and head >= 0:
            return layer, head
    raise InputError(f"A head is 'layer-head' or (layer, head), both from 0, such as 13-18; got {text!r:.80}")


def read_heads(path: Path, weights: str) -> Heads:
    """Heads from a file that ``rerankit train heads`` wrote.

    Args:
        path: the file.
        weights: names the weights that the heads are wanted for; empty to take any.

    Raises:
        InputError: the file is not there or is no heads file.
        ModelError: it was made for other weights.
    """
    data = _heads_file(path)
    made_for = str(data.get("weights", ""))
    if weights and made_for != weights:
        raise ModelError(
            f"The heads in {path} were found on {data.get('model', 'another model')} (weights {made_for[:12]}), and "
            f"this model's weights are {weights[:12]}. Run 'rerankit train heads' on this model."
        )
    try:
        return Heads(path.name, tuple(parse_head(row["head"]) for row in data["heads"]), str(path))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is no heads file: its 'heads' cannot be read") from error


def _heads_file(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.expanduser().read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The heads file {path} cannot be read: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError(f"{path} is no heads file of the format {FORMAT}; make one with 'rerankit train heads'")
    return data
