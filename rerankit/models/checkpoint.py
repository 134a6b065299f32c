"""A model's files: where they are, what they say, and what may not be loaded."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankit.errors import ModelError, require
from rerankit.models.files import sha256_of
from rerankit.models.tokens import read_object

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_WANTED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "1_*/*", "2_*/*", "3_*/*"]
_UNWANTED = ["onnx/*", "openvino/*", "*optimizer*", "*.md"]
_TOKENIZER_FILES = ("tokenizer*.json", "vocab.*", "merges.txt", "*.model")
_SHIFTED_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}
"""Model types whose positions count from ``pad_token_id + 1``."""


@dataclass(frozen=True)
class Checkpoint:
    """A local folder with ``config.json`` and safe weights.

    Attributes:
        folder: where the files are.
        name: what the user calls the model; the folder's name for a local path.
        weights: safetensors files, or where there are none an ONNX graph and then the files that belong to it.
    """

    folder: Path
    name: str
    weights: tuple[Path, ...]

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``."""
        return read_object(self.folder / "config.json")

    @functools.cached_property
    def digest(self) -> str:
        """Names the exact weights: sha256, hex."""
        digests = [_digest(path) for path in self.weights]
        return digests[0] if len(digests) == 1 else _hash_text("\n".join(digests))

    @property
    def model_id(self) -> str:
        """Name and weights: ``org/name@53aa51172d14``."""
        return f"{self.name}@{self.digest[:12]}"

    @property
    def is_onnx(self) -> bool:
        """Whether the weights come as a ready ONNX graph."""
        return self.weights[0].suffix == ".onnx"

    @functools.cached_property
    def reading_digest(self) -> str:
        """Names what turns texts into the weights' input: configuration and tokenizer files, sha256, hex."""
        names = {"config.json", *(path.name for pattern in _TOKENIZER_FILES for path in self.folder.glob(pattern))}
        return _hash_text("\n".join(f"{name} {sha256_of(self.folder / name)}" for name in sorted(names)))

    def json(self, *parts: str) -> dict[str, Any]:
        """The object in a JSON file of the folder, ``{}`` if there is no such file."""
        return read_object(self.folder.joinpath(*parts))

    def check_weights(self) -> None:
        """See that no safetensors file was cut short.

        Raises:
            ModelError: one is damaged.
        """
        for path in self.weights:
            if path.suffix == ".safetensors" and not _whole(path):
                raise ModelError(f"{path} is damaged (cut short, or not a safetensors file); download it again")

    def pad_id(self, default: int | None) -> int:
        """Token id of the padding."""
        known = self.config.get("pad_token_id")
        return known if isinstance(known, int) and known >= 0 else default or 0

    def longest_input(self) -> int:
        """Tokens that positions and tokenizer allow, special tokens included."""
        limits = [512] if not self.config else []
        positions = self.config.get("max_position_embeddings")
        if isinstance(positions, int) and positions > 0:
            shifted = self.config.get("model_type") in _SHIFTED_POSITIONS
            limits.append(positions - (self.pad_id(1) + 1 if shifted else 0))
        stated = self.json("tokenizer_config.json").get("model_max_length")
        if isinstance(stated, int) and 0 < stated < 1_000_000:
            limits.append(stated)
        return min(limits, default=512)


def _whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says: 8 bytes of header length, header, numbers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return bool(8 + length + max(ends, default=0) == size)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return False


def _digest(path: Path) -> str:
    """The file's sha256. The hub's cache already stores large files under that name."""
    name = path.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else sha256_of(path)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def find_checkpoint(model: str | Path, revision: str | None = None, name: str | None = None) -> Checkpoint:
    """The files of a local folder or of a model on the Hugging Face hub (downloaded if need be).

    A snapshot that the hub cache already holds is used without asking the network.

    Raises:
        ModelError: there is no such folder, the hub does not give the model, or its only weights are pickles.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Checkpoint(folder, name or folder.resolve().name, _weights(folder))
    if folder.exists():
        raise ModelError(f"{folder} is a file; name the folder that holds config.json, tokenizer.json and the weights")
    hub_name = str(model)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", hub_name) or hub_name.startswith("."):
        raise ModelError(
            f"There is no model folder {hub_name!r}; give an existing folder or a hub name such as org/name"
        )
    folder = _snapshot(hub_name, revision)
    return Checkpoint(folder, name or hub_name, _weights(folder))


def _weights(folder: Path) -> tuple[Path, ...]:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no model: config.json is missing")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _shards(folder, index)
    found = sorted(folder.glob("*.safetensors"))
    preferred = [path for path in found if path.name == "model.safetensors"] or found
    if preferred:
        return tuple(preferred[:1])
    graphs = [folder / "model.onnx", folder / "onnx" / "model.onnx"]
    if ready := [path for path in graphs if path.is_file()]:
        return (ready[0], *sorted(ready[0].parent.glob("model.onnx?*")))  # large graphs keep their numbers beside them
    if pickles := [path for pattern in _PICKLES for path in sorted(folder.glob(pattern))]:
        raise ModelError(
            f"{pickles[0]} is a pickle, which can run any code when loaded, so it is refused. Use a revision of the "
            "model with model.safetensors, or convert the file once in a place you trust."
        )
    raise ModelError(f"{folder} holds no weights: expected model.safetensors or onnx/model.onnx")


def _shards(folder: Path, index: Path) -> tuple[Path, ...]:
    names = sorted(set(read_object(index).get("weight_map", {}).values()))
    paths = tuple(folder / name for name in names)
    outside = [path for path in paths if path.parent != folder]
    if not paths or outside or (missing := [path for path in paths if not path.is_file()]):
        wrong = outside or (missing if paths else [])
        raise ModelError(f"{index} names weights that are not there: {[path.name for path in wrong]}. Download again.")
    return paths


def _snapshot(name: str, revision: str | None) -> Path:
    hub = require("huggingface_hub", extra="torch", purpose=f"Loading {name!r} from the Hugging Face hub")
    try:
        folder = Path(hub.snapshot_download(name, revision=revision, local_files_only=True))
        _weights(folder)
    except (OSError, ValueError, ModelError):
        return _download(hub, name, revision)
    return folder


def _download(hub: Any, name: str, revision: str | None) -> Path:
    try:
        folder = Path(hub.snapshot_download(name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
        if not any(folder.glob("*.safetensors")):
            hub.snapshot_download(name, revision=revision, allow_patterns=["onnx/model.onnx*"])
    except (OSError, ValueError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"The model {name!r}{at} is neither a local folder nor in the hub cache, and the hub did not give it "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). Check the name and the network (and "
            "HF_HUB_OFFLINE), or download it elsewhere and pass the folder."
        ) from error
    return folder
