"""The network of an extractive reader: an encoder, a span head, and a low-rank adapter merged into the weights.

The head gives each token two logits, for the first and for the last token of the answer (Devlin et al., NAACL 2019).
The adapter is LoRA (Hu et al., ICLR 2022, arXiv:2106.09685): ``W + alpha / rank * B @ A``, under the names that peft
writes, so that peft is needed for training only.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerankit.errors import ModelError, require
from rerankit.models.backend_torch import quiet
from rerankit.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

__all__ = ["load_net", "merge", "read_tensors", "span_module"]

_HEAD = "qa_outputs."
_PREFIX = "base_model.model."


def load_net(checkpoint: Checkpoint, *, headless: bool) -> Any:
    """A question-answering model of transformers, float32, in evaluation mode.

    Args:
        checkpoint: the weights.
        headless: whether the head may be missing; it is then all zeros.

    Raises:
        ModelError: the weights do not fit or are incomplete.
        MissingExtraError: torch or transformers is not installed.
    """
    torch = require("torch", extra="torch", purpose=f"Loading {checkpoint.name!r}")
    transformers = require("transformers", extra="torch", purpose=f"Loading {checkpoint.name!r}")
    checkpoint.check_weights()
    try:
        with quiet():
            net, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
                checkpoint.folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"The model in {checkpoint.folder} cannot be loaded: {error}") from error
    missing = [name for name in report["missing_keys"] if not (headless and name.startswith(_HEAD))]
    if missing or not hasattr(net, "qa_outputs"):
        raise ModelError(f"{checkpoint.folder} lacks the weights {sorted(missing)[:4]}; it is no span reader")
    if headless:
        torch.nn.init.zeros_(net.qa_outputs.weight)
        torch.nn.init.zeros_(net.qa_outputs.bias)
    return net.eval()


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file in float32.

    Raises:
        ModelError: it is not there, damaged, or holds a number that is not finite.
    """
    safetensors = require("safetensors.torch", extra="torch", purpose=f"Reading {path}")
    try:
        tensors = safetensors.load_file(path)
    except Exception as error:  # the library raises its own and OSError for files of all kinds of wrong
        raise ModelError(f"{path} cannot be read ({error}). Train it again, or reinstall rerankit.") from error
    found = {name: tensor.float() for name, tensor in tensors.items()}
    if wrong := [name for name, tensor in found.items() if not bool(tensor.isfinite().all())]:
        raise ModelError(f"{path} holds numbers that are not finite, in {wrong[0]}. Train it again.")
    return found


def merge(net: Any, tensors: Mapping[str, torch.Tensor], scale: float, *, heads: tuple[str, ...] = (_HEAD,)) -> None:
    """Add a low-rank adapter to the weights of ``net``, and set its head.

    Args:
        net: from :func:`load_net`; changed.
        tensors: by peft's names: ``base_model.model.<layer>.lora_A.weight`` ``[rank, in]``, ``...lora_B.weight``
            ``[out, rank]``, and whole weights of the head.
        scale: alpha / rank.
        heads: beginnings of the names of weights that are set whole.

    Raises:
        ModelError: a tensor fits nothing in ``net``.
    """
    weights = dict(net.named_parameters())
    for name, tensor in tensors.items():
        if name.endswith(".lora_B.weight"):
            continue
        target = name.removeprefix(_PREFIX).replace(".lora_A.weight", ".weight")
        change = tensor
        if name.endswith(".lora_A.weight"):
            other = tensors.get(name.replace("lora_A", "lora_B"))
            if other is None or other.ndim != 2 or tensor.ndim != 2 or other.shape[1] != tensor.shape[0]:
                raise ModelError(f"The adapter is incomplete: no lora_B that goes with {name}")
            change = scale * (other @ tensor)
        elif not target.startswith(heads):
            raise ModelError(f"The adapter holds {name!r}, which is neither low-rank nor the head")
        if target not in weights or weights[target].shape != change.shape:
            raise ModelError(f"The adapter was made for another model: {name} {tuple(change.shape)} fits no weight")
        weights[target].data.copy_(change if change is tensor else weights[target].data + change)


def span_module(net: Any) -> Any:
    """A torch module ``(ids, mask, types) -> logits [b, t, 2]``."""
    from torch import nn, stack

    takes_types = "token_type_ids" in inspect.signature(net.forward).parameters and bool(
        getattr(net.config, "type_vocab_size", 0)
    )

    class Spans(nn.Module):
        """One positional signature for all architectures."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            named = {"token_type_ids": types} if takes_types else {}
            found = self.net(input_ids=ids, attention_mask=mask, **named)
            return stack([found.start_logits, found.end_logits], dim=-1)

    return Spans().eval()
