"""What a late-interaction checkpoint says about itself: markers, query expansion, projection, tokens that do not count.

Four kinds of folder are known: the original ColBERT (``artifact.metadata`` and a ``linear.weight`` beside the encoder's
weights; Khattab and Zaharia, SIGIR 2020; Santhanam et al., NAACL 2022), PyLate (``config_sentence_transformers.json``
and ``1_Dense/``), XTR (``*_Dense/`` without markers; Lee et al., NeurIPS 2023), and any plain sentence encoder, whose
last-layer states are used as they are.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError, require
from rerankit.models.checkpoint import Checkpoint
from rerankit.models.encoder import PLAIN, Frame
from rerankit.models.tokens import read_json

if TYPE_CHECKING:
    import tokenizers

_ACTIVATIONS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "identity": lambda states: states,
    "tanh": np.tanh,
    "relu": lambda states: np.maximum(states, 0.0),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A dense layer on top of the encoder: weight ``[out, in]``, bias ``[out]`` or None, activation by name."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    activation: str = "identity"

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """States ``[t, in]`` to ``[t, out]``."""
        out = states @ self.weight.T
        if self.bias is not None:
            out = out + self.bias
        return np.asarray(_ACTIVATIONS[self.activation](out), np.float32)


@dataclass(frozen=True, slots=True)
class Style:
    """How texts become token vectors, and token similarities a score.

    Attributes:
        name: ``plain``, ``colbert`` or ``xtr``.
        query, passage: markers, expansion and length of each side.
        layers: projection, in order; none for plain encoders.
        skipped_ids: passage tokens that no query token may match (punctuation).
        frame_counts: whether the passage's own special tokens may be matched.
        mean: the score is the mean over query tokens; else their sum, as ColBERT publishes it.
        window: passage tokens within which the best matches should also lie; 0 if nearness does not count.
    """

    name: str = "plain"
    query: Frame = PLAIN
    passage: Frame = PLAIN
    layers: tuple[Layer, ...] = ()
    skipped_ids: frozenset[int] = frozenset()
    frame_counts: bool = False
    mean: bool = True
    window: int = 32

    @property
    def fingerprint(self) -> str:
        """What token vectors depend on besides the encoder, in few characters."""
        skipped = sorted(self.skipped_ids)
        digest = hashlib.sha256(repr((self.query, self.passage, skipped, self.frame_counts, self.mean)).encode())
        for layer in self.layers:
            digest.update(layer.weight.tobytes() + (b"" if layer.bias is None else layer.bias.tobytes()))
            digest.update(layer.activation.encode())
        return f"{self.name}:{digest.hexdigest()[:12]}"


def style_of(checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer) -> Style:
    """The style that the files of a checkpoint ask for.

    Raises:
        ModelError: the projection is missing, damaged, a pickle, or of a kind that is not supported.
    """
    stated = _object(checkpoint, "config_sentence_transformers.json"), _object(checkpoint, "artifact.metadata")
    folders = sorted(checkpoint.folder.glob("*_Dense"), key=lambda path: (len(path.name), path.name))
    if "query_prefix" in stated[0] or stated[1] or not folders:
        layers = tuple(_dense(folder) for folder in folders) or _own_layer(checkpoint)
        return _colbert(checkpoint, tokenizer, layers, *stated) if layers else Style()
    if "xtr" in checkpoint.name.lower():
        return Style("xtr", layers=tuple(_dense(folder) for folder in folders), frame_counts=True, window=0)
    return Style()


def _colbert(
    checkpoint: Checkpoint,
    tokenizer: tokenizers.Tokenizer,
    layers: tuple[Layer, ...],
    pylate: dict[str, Any],
    original: dict[str, Any],
) -> Style:
    known = _facts(pylate, original)
    markers = [_marker(tokenizer, known[side], checkpoint) for side in ("query_marker", "passage_marker")]
    mask = tokenizer.token_to_id("[MASK]")
    mask = tokenizer.token_to_id("<mask>") if mask is None else mask
    return Style(
        "colbert",
        query=Frame(
            markers[0],
            expand_to=known["query_tokens"] if mask is not None and known["expand"] else 0,
            expand_id=mask or 0,
            attend=known["attend"],
        ),
        passage=Frame(markers[1], max_tokens=known["passage_tokens"]),
        layers=layers,
        skipped_ids=_ids(tokenizer, known["skipped"]),
        frame_counts=True,
        mean=False,
        window=0,
    )


def _object(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    if not isinstance(found := checkpoint.json(name), dict):
        raise ModelError(f"{checkpoint.folder / name} is not a JSON object. Download the model again.")
    return found


def _facts(pylate: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    """Markers and lengths: what PyLate or the original ColBERT wrote down, else the original's defaults."""
    lengths = {
        "query_tokens": pylate.get("query_length") or original.get("query_maxlen") or 32,
        "passage_tokens": pylate.get("document_length") or original.get("doc_maxlen") or 180,
    }
    if any(not isinstance(length, int) or length < 4 for length in lengths.values()):
        raise ModelError(f"The checkpoint's query_maxlen or doc_maxlen is no length: {lengths}. Download it again.")
    punctuation = string.punctuation if original.get("mask_punctuation", True) else ""
    return lengths | {
        "query_marker": pylate.get("query_prefix", original.get("query_token_id", "[unused0]")),
        "passage_marker": pylate.get("document_prefix", original.get("doc_token_id", "[unused1]")),
        "expand": pylate.get("do_query_expansion", True),
        "attend": bool(pylate.get("attend_to_expansion_tokens", original.get("attend_to_mask_tokens", False))),
        "skipped": pylate.get("skiplist_words", punctuation),
    }


def _marker(tokenizer: tokenizers.Tokenizer, text: str | None, checkpoint: Checkpoint) -> tuple[int, ...]:
    if not text:
        return ()
    if (found := tokenizer.token_to_id(text)) is None:
        raise ModelError(f"The tokenizer of {checkpoint.name!r} does not know the marker {text!r} that its files name")
    return (int(found),)


def _ids(tokenizer: tokenizers.Tokenizer, words: Sequence[str]) -> frozenset[int]:
    found = (tokenizer.token_to_id(word) for word in words)
    return frozenset(int(token) for token in found if token is not None)


def _own_layer(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    """The original ColBERT's projection, which lies in the encoder's own file."""
    weights = checkpoint.weights[0]
    if weights.suffix != ".safetensors":
        return ()
    return tuple(Layer(weight) for weight in _tensors(weights, ["linear.weight"]).values())


def _dense(folder: Path) -> Layer:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(
            f"{folder} has no model.safetensors, so the projection cannot be read (pickles are refused: they can run "
            "any code). Use a revision with safetensors, or convert the file once in a place you trust."
        )
    config = read_json(folder / "config.json")
    activation = str(config.get("activation_function") or "identity").rpartition(".")[2].lower()
    if activation not in _ACTIVATIONS or config.get("use_residual"):
        raise ModelError(f"{folder / 'config.json'} asks for a layer that is not supported: {config}")
    tensors = _tensors(weights, ["linear.weight", "linear.bias"])
    if "linear.weight" not in tensors:
        raise ModelError(f"{weights} holds no linear.weight. Download the model again.")
    return Layer(tensors["linear.weight"], tensors.get("linear.bias"), activation)


def _tensors(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Those of ``names`` that the file holds, as float32."""
    safetensors = require("safetensors", extra="torch", purpose=f"Reading {path.name}")
    try:
        return _read(safetensors, path, names, "numpy")
    except TypeError:  # numpy has no bfloat16, torch has
        require("torch", extra="torch", purpose=f"Reading {path.name}")
        return _read(safetensors, path, names, "pt")


def _read(library: Any, path: Path, names: Sequence[str], framework: str) -> dict[str, NDArray[np.float32]]:
    try:
        with library.safe_open(str(path), framework=framework) as file:
            present = {name: file.get_tensor(name) for name in names if name in set(file.keys())}
    except (library.SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}. Download the model again.") from error
    if framework == "pt":
        present = {name: tensor.float().numpy() for name, tensor in present.items()}
    return {name: np.asarray(tensor, np.float32) for name, tensor in present.items()}
