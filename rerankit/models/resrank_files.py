"""A ResRank-style model on disk: ``model.safetensors`` beside a ``config.json`` that names its encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rerankit.checks import check_bool, check_whole, is_number
from rerankit.errors import InputError, ModelError, require
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.files import check_weights_digest, write_atomically
from rerankit.models.tokens import read_object

if TYPE_CHECKING:
    from rerankit.models.resrank import ResRank

__all__ = ["FORMAT", "ResRankConfig", "is_resrank", "load_resrank", "read_config", "save_resrank"]

FORMAT = "rerankit-resrank"
"""What ``config.json`` says under ``format``."""

_AGAIN = "Copy or download the folder again, or train it anew with 'rerankit train compressed'."


@dataclass(frozen=True, slots=True)
class ResRankConfig:
    """The shape of a ResRank-style model, and what its vectors have to be.

    Attributes:
        encoder: ``model_id`` of the encoder whose vectors the model reads.
        dim: length of those vectors.
        query_dim: width of the encoder's token states; 0: the same.
        normalised: the vectors have length 1.
        width: of the model's own states.
        layers: bidirectional transformer layers.
        heads: attention heads; they divide the width.
        feedforward: inner width of a layer's second half, in widths.
        dropout: share of a layer's output that is dropped in training.
        residual: the encoder's vectors take part in the final representations; without, only states do (ablation).
        score_residual: a learned number per passage is added to its score.
        words: how well each passage matches the query's words (BM25) enters and is added, weighed by a learned number;
            scores are then in standard deviations of their list.
        trained: what it was trained on and how, for its readers; JSON.
    """

    encoder: str
    dim: int
    query_dim: int = 0
    normalised: bool = True
    width: int = 256
    layers: int = 2
    heads: int = 4
    feedforward: int = 2
    dropout: float = 0.0
    residual: bool = True
    score_residual: bool = False
    words: bool = False
    trained: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, str):
            raise InputError(f"encoder must be the model_id of an encoder, got {self.encoder!r:.80}")
        check_whole(
            1, dim=self.dim, width=self.width, layers=self.layers, heads=self.heads, feedforward=self.feedforward
        )
        check_whole(0, query_dim=self.query_dim)
        check_bool(normalised=self.normalised, residual=self.residual)
        check_bool(score_residual=self.score_residual, words=self.words)
        if self.width % self.heads:
            raise InputError(f"heads must divide the width, got {self.heads} heads for width {self.width}")
        if not isinstance(self.trained, Mapping):
            raise InputError(f"trained must be facts by name, got {self.trained!r:.80}")
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise InputError(f"dropout must be a number from 0 to below 1, got {self.dropout!r:.80}")


def is_resrank(model: str | Path) -> bool:
    """Whether ``model`` is a folder with a model of this format."""
    config = Path(model).expanduser() / "config.json"
    return config.is_file() and read_object(config).get("format") == FORMAT


def read_config(folder: Path) -> ResRankConfig:
    """The configuration in a folder.

    Raises:
        ModelError: there is none, it is of another format, or its values make no model.
    """
    file = folder / "config.json"
    found = read_object(file)
    if not found:
        raise ModelError(f"{folder} holds no ResRank-style model: there is no config.json. {_AGAIN}")
    found.pop("weights_sha256", None)  # of the weights, not of the shape
    if (form := found.pop("format", None)) != FORMAT:
        raise ModelError(
            f"{file} says format {form!r}, a ResRank-style model has {FORMAT!r}. An E2Rank checkpoint is loaded as "
            "'compressed:FOLDER' too, an encoder as 'dense:FOLDER'."
        )
    try:
        return ResRankConfig(**found)
    except (TypeError, InputError) as error:
        raise ModelError(f"{file} describes no model: {error}. {_AGAIN}") from error


def save_resrank(
    module: ResRank, folder: str | Path, *, dtype: Literal["float32", "float16"] = "float32", **trained: Any
) -> Path:
    """Write a model; ``load_resrank`` reads it.

    Args:
        module: to save.
        folder: made if it is not there; files in it are replaced.
        dtype: ``float16`` halves the file; scores change in the third or fourth digit.
        trained: facts for its readers, added to those in its configuration; JSON.

    Raises:
        ModelError: a weight is not finite.
        StoreError: a file cannot be written.
    """
    import hashlib
    import json

    import torch
    from safetensors.torch import save

    target = Path(folder).expanduser()
    weights = {name: value.detach().cpu().to(getattr(torch, dtype)) for name, value in module.state_dict().items()}
    _check_finite(weights, target)
    config = dataclasses.asdict(module.config)
    config["trained"] = {**config["trained"], **trained}
    data = save({name: value.contiguous() for name, value in weights.items()})
    written = {"format": FORMAT, "weights_sha256": hashlib.sha256(data).hexdigest(), **config}
    write_atomically(target / "model.safetensors", data)
    write_atomically(target / "config.json", json.dumps(written, indent=2) + "\n")
    return target


def load_resrank(folder: str | Path, *, device: str = "cpu") -> ResRank:
    """A saved model in float32, ready to score.

    Raises:
        ModelError: a file is missing, damaged or changed; a weight is missing, of the wrong shape, or not finite.
        MissingExtraError: torch is not installed.
    """
    place = Path(folder).expanduser()
    torch = require("torch", extra="torch", purpose="A compressed reranker")
    from safetensors.torch import load_file

    from rerankit.models.resrank import ResRank

    config = read_config(place)
    checkpoint = find_checkpoint(place)
    checkpoint.check_weights()
    weights = {name: value.float() for name, value in load_file(checkpoint.weights[0]).items()}
    if config.layers != len({name.split(".")[1] for name in weights if name.startswith("layers.")}):
        raise ModelError(f"The weights in {place} do not have the {config.layers} layers of its config.json. {_AGAIN}")
    try:
        with torch.device("meta"):  # nothing is allocated for a shape that the weights do not have
            module = ResRank(config)
    except RuntimeError as error:
        raise ModelError(f"{place / 'config.json'} describes no model: {error}. {_AGAIN}") from error
    _check_shapes({name: tuple(value.shape) for name, value in module.state_dict().items()}, weights, place)
    _check_finite(weights, place)
    check_weights_digest(checkpoint.weights[0], checkpoint.config, _AGAIN)
    module.load_state_dict(weights, assign=True)
    return module.to(device).eval()


def _check_shapes(wanted: Mapping[str, tuple[int, ...]], weights: Mapping[str, Any], folder: Path) -> None:
    wrong = [name for name in sorted({*wanted, *weights}) if _shape(weights, name) != wanted.get(name)]
    if wrong:
        raise ModelError(
            f"The weights in {folder} do not fit its config.json: {wrong[0]!r} has shape {_shape(weights, wrong[0])}, "
            f"expected {wanted.get(wrong[0])} ({len(wrong)} such). {_AGAIN}"
        )


def _shape(weights: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def _check_finite(weights: Mapping[str, Any], folder: Path) -> None:
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise ModelError(f"The weight {name!r} of the model for {folder} holds NaN or infinite numbers. {_AGAIN}")
