"""A cross-encoder as a low-rank adapter: seen to fit its base, merged into the weights once, kept in the cache.

What comes out is a plain sequence-classification checkpoint, so that every back end runs it like any other. The folder
of an adapter holds ``model.safetensors`` (by peft's names, so that peft is needed for training only) and
``config.json``.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rerankit.checks import is_number, is_whole
from rerankit.errors import ModelError, require
from rerankit.models import embedded
from rerankit.models.backend_torch import quiet
from rerankit.models.checkpoint import Checkpoint, find_checkpoint
from rerankit.models.convert import converted
from rerankit.models.files import check_weights_digest, share_weights
from rerankit.models.span_net import merge, read_tensors
from rerankit.models.tokens import read_object

__all__ = [
    "FORMAT",
    "RESIDUALS",
    "AdapterConfig",
    "classifier_net",
    "encoder_checkpoint",
    "head_names",
    "is_adapter",
    "merged",
    "read_adapter",
    "write_classifier",
]

FORMAT = "rerankit-cross-encoder"
"""What ``config.json`` says under ``format``."""

RESIDUALS = ("none", "default", "rrf", "dense", "lexical", "late-interaction", "compressed")
"""Rankings that an adapter may correct: none that a foreign folder could reach the network with."""

_AGAIN = "Copy or download the folder again, or train it anew with 'rerankit train cross-encoder'."
_TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter was made for.

    Attributes:
        base: sha256 of the weights of the model that it changes.
        base_name: what that model is called.
        scale: alpha / rank: what the product of its matrices is multiplied with.
        max_tokens: length of a pair in training.
        residual: spec of the ranking that it corrects, one of ``RESIDUALS``; ``none``: its logit is the score.
        weight: logits that one standard deviation of that ranking's scores is worth.
        depth: how many of that ranking's first passages are read.
        trained: what it was trained on and how, for its readers; JSON.
    """

    base: str
    base_name: str = ""
    scale: float = 1.0
    max_tokens: int = 256
    residual: str = "none"
    weight: float = 1.0
    depth: int = 100
    trained: Mapping[str, Any] = field(default_factory=dict)


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder's ``config.json`` says that it holds an adapter.

    Raises:
        ModelError: the file is damaged.
    """
    return read_object(Path(folder).expanduser() / "config.json").get("format") == FORMAT


def read_adapter(folder: Path) -> AdapterConfig:
    """The configuration of an adapter's folder.

    Raises:
        ModelError: there is none, or it makes no sense.
    """
    found = read_object(folder / "config.json")
    if found.get("format") != FORMAT:
        raise ModelError(f"{folder} holds no adapter of a cross-encoder. {_AGAIN}")
    known = {one.name: found[one.name] for one in fields(AdapterConfig) if one.name in found}
    config = AdapterConfig(**{"base": "", **known})
    if name := next((name for name, fits in _checks(config).items() if not fits), None):
        raise ModelError(f"{folder / 'config.json'} is damaged: {name} is {getattr(config, name)!r:.80}. {_AGAIN}")
    return config


def _checks(config: AdapterConfig) -> dict[str, bool]:
    """Per field whether its value can be."""
    return {
        "base": isinstance(config.base, str) and bool(config.base),
        "base_name": isinstance(config.base_name, str),
        "scale": is_number(config.scale) and math.isfinite(config.scale),
        "max_tokens": is_whole(config.max_tokens) and config.max_tokens > 0,
        "residual": config.residual in RESIDUALS,
        "weight": is_number(config.weight) and 0 < config.weight < math.inf,
        "depth": is_whole(config.depth) and config.depth > 0,
        "trained": isinstance(config.trained, Mapping),
    }


def merged(folder: Path, encoder: str | Path | None = None) -> Path:
    """The checkpoint that an adapter and its base make together; merged now if it is not in the cache.

    Args:
        folder: of the adapter.
        encoder: its base, folder or hub name; default the embedded MiniLM.

    Raises:
        ModelError: the adapter is damaged, changed, or made for another base.
        MissingExtraError: torch or transformers is not installed.
    """
    config, adapter = read_adapter(folder), find_checkpoint(folder)
    base = encoder_checkpoint(encoder)
    if base.digest != config.base:
        named = f" ({config.base_name})" if config.base_name else ""
        raise ModelError(
            f"The adapter in {folder} was made for weights with sha256 {config.base[:12]}{named}, and {base.model_id} "
            "are others. Name that model with encoder=, or train an adapter for this one: rerankit train cross-encoder"
        )
    adapter.check_weights()
    check_weights_digest(adapter.weights[0], adapter.config, _AGAIN)
    return converted(adapter, "logits", "merged", lambda target: _build(adapter, base, config.scale, target))


def encoder_checkpoint(encoder: str | Path | None) -> Checkpoint:
    """The files of a base; of the embedded MiniLM for None.

    Raises:
        ModelError: they cannot be had, or are not the published ones.
    """
    if encoder is not None:
        return find_checkpoint(encoder)
    found = find_checkpoint(embedded.model_folder(), name="all-MiniLM-L6-v2")
    embedded.verify(found.weights[0])
    return found


def _build(adapter: Checkpoint, base: Checkpoint, scale: float, target: Path) -> None:
    """Write the merged checkpoint."""
    net, random = classifier_net(base)
    tensors = read_tensors(adapter.weights[0])
    merge(net, tensors, scale, heads=tuple(f"{name}." for name in head_names(net)))
    if missing := [name for name in random if f"base_model.model.{name}" not in tensors]:
        raise ModelError(f"The adapter in {adapter.folder} lacks the head's weights {missing[:4]}. {_AGAIN}")
    write_classifier(net, base, target)


def write_classifier(net: Any, base: Checkpoint, target: Path) -> None:
    """Write a network and the tokenizer of its base as a checkpoint, into a folder that is there."""
    with quiet():
        net.save_pretrained(target)
    share_weights(target)
    for pattern in _TOKENIZER:
        for file in base.folder.glob(pattern):
            shutil.copy(file, target / file.name)


def classifier_net(checkpoint: Checkpoint, *, seed: int = 0) -> tuple[Any, list[str]]:
    """A classifier of one label, float32, in evaluation mode, and the names of its weights that are random.

    Args:
        checkpoint: an encoder, or a classifier; one of several labels loses its last layer.
        seed: of the random ones.

    Raises:
        ModelError: the weights do not fit, or more than the head is missing.
        MissingExtraError: torch or transformers is not installed.
    """
    torch = require("torch", extra="torch", purpose=f"Loading {checkpoint.name!r}")
    transformers = require("transformers", extra="torch", purpose=f"Loading {checkpoint.name!r}")
    checkpoint.check_weights()
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                checkpoint.folder,
                num_labels=1,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"The model in {checkpoint.folder} cannot be loaded: {error}") from error
    random = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    heads = tuple(f"{name}." for name in head_names(net))
    if foreign := [name for name in random if not name.startswith(heads)]:
        raise ModelError(f"{checkpoint.weights[0]} lacks the weights {foreign[:4]}. Download the model again.")
    return net.eval(), random


def head_names(net: Any) -> list[str]:
    """What stands on the encoder: the pooler if there is one, and all outside of it."""
    body = net.base_model_prefix
    pooler = [f"{body}.pooler"] if getattr(net.base_model, "pooler", None) is not None else []
    others = [name for name, part in net.named_children() if name != body and next(part.parameters(), None) is not None]
    return [*pooler, *others]
