"""Run an encoder with PyTorch and transformers: every device, every architecture; also the source of conversions."""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import ModelError, require
from rerankit.models.backends import Choice, Task
from rerankit.models.batching import Batch
from rerankit.models.checkpoint import Checkpoint

_CPU_BUDGET, _GPU_BUDGET = 2048, 65_536


class TorchBackend:
    """See :class:`rerankit.models.backends.Backend`."""

    streams = 1

    def __init__(self, module: Any, device: str) -> None:
        self.module, self.device = module, device
        self.budget = _CPU_BUDGET if device == "cpu" else _GPU_BUDGET

    def __call__(self, batch: Batch) -> NDArray[np.float32]:
        """One forward pass."""
        import torch

        try:
            with torch.inference_mode():
                inputs = [torch.from_numpy(part).to(self.device) for part in batch]
                output: NDArray[np.float32] = self.module(*inputs).float().cpu().numpy()
                return output
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        raise MemoryError(f"torch on {self.device}: batch of shape {batch.ids.shape}")

    def close(self) -> None:
        """Free the model."""
        self.module = None
        gc.collect()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of the memory of its device, or of the machine's."""
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "can't allocate memory" in text


def load(checkpoint: Checkpoint, task: Task, choice: Choice) -> TorchBackend:
    """Load safetensors weights for a task.

    Raises:
        ModelError: the weights do not fit the architecture, or lack the classifier head that the task needs.
    """
    return TorchBackend(inference_module(checkpoint, task, choice.dtype).to(choice.device), choice.device)


def inference_module(checkpoint: Checkpoint, task: Task, dtype: str) -> Any:
    """:func:`load_module` without what no output depends on; not for training. What back ends run and convert."""
    module = load_module(checkpoint, task, dtype)
    if task == "logits":
        from rerankit.models.first_token import keep_first_token

        keep_first_token(module.model)
    return module


def load_module(checkpoint: Checkpoint, task: Task, dtype: str) -> Any:
    """A torch module ``(ids, mask, types) -> output`` in evaluation mode on the CPU."""
    torch = require("torch", extra="torch", purpose=f"Loading {checkpoint.name!r}")
    transformers = require("transformers", extra="torch", purpose=f"Loading {checkpoint.name!r}")
    loader = transformers.AutoModelForSequenceClassification if task == "logits" else transformers.AutoModel
    try:
        with quiet():
            model, report = loader.from_pretrained(
                checkpoint.folder,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(f"The model in {checkpoint.folder} cannot be loaded: {error}") from error
    _refuse_random_weights(checkpoint, task, report)
    return _wrapper(model.eval(), task)


def _refuse_random_weights(checkpoint: Checkpoint, task: Task, report: dict[str, Any]) -> None:
    """Missing weights get random numbers from transformers; a score made from those means nothing."""
    missing = [key for key in report["missing_keys"] if task == "logits" or not key.startswith("pooler.")]
    if not missing:
        return
    hint = (
        "This looks like a model without a classifier head (an embedding model or a bare language model); use a "
        "cross-encoder checkpoint, or load it as an embedder."
        if task == "logits"
        else "Download the model again."
    )
    raise ModelError(f"{checkpoint.weights[0]} lacks the weights {sorted(missing)[:4]}. {hint}")


def _wrapper(model: Any, task: Task) -> Any:
    from torch import nn

    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters and bool(
        getattr(model.config, "type_vocab_size", 0)
    )
    output = "logits" if task == "logits" else "last_hidden_state"

    class Wrapper(nn.Module):
        """One positional signature for all architectures."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            types = {"token_type_ids": token_type_ids} if takes_types else {}
            return getattr(self.model(input_ids=input_ids, attention_mask=attention_mask, **types), output)

    return Wrapper().eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep loading and export from writing progress bars, load reports and tracer warnings to the user's screen."""
    their_logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        their_logging.set_verbosity(level)
        if bars:
            their_logging.enable_progress_bar()
