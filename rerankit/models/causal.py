"""LocalLM: a causal language model of transformers as a judge."""

from __future__ import annotations

from pathlib import Path

from rerankit.models.causal_batches import Limits
from rerankit.models.causal_engine import CausalEngine
from rerankit.models.causal_load import load_language_model
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.local import LocalModel

__all__ = ["LocalLM"]


class LocalLM(LocalModel):
    """A causal language model from a folder or the Hugging Face hub, run by transformers.

    Stock classes and safetensors only: nothing that comes with the weights is executed. Safe to call from several
    threads; forward passes take turns.

    Args:
        model: local folder, or a name on the Hugging Face hub (downloaded then; HF_HUB_OFFLINE is honoured).
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto`` (float32 on a CPU, the model's own half precision on a GPU), ``float32``, ``bfloat16``,
            ``float16``. In float32 a log-probability does not depend on batch, order or reuse to 1e-4.
        revision: of a hub model: commit, tag or branch.
        batch_tokens: padded tokens per forward pass; bounds the peak memory. Default: what suits the device, or no
            limit where ``batch_size`` is given.
        batch_size: most prompts per forward pass; n prompts then take at most ``ceil(n / batch_size)`` passes.

    Attributes:
        model, tokenizer: the ones of transformers.
        lock: hold it while using ``model`` directly.

    Raises:
        ModelError: the model cannot be had, is damaged, or is no causal language model.
        InputError: a limit is below 1, or there is no such device.
        MissingExtraError: torch or transformers is not installed.

    Example:
        >>> lm = LocalLM("Qwen/Qwen3-0.6B")  # doctest: +SKIP
        >>> lm.label_logprobs(["Is water wet? Answer Yes or No."], ["Yes", "No"])[0].probabilities  # doctest: +SKIP
        array([0.93, 0.07])
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        batch_tokens: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        limits = Limits.of(batch_tokens, batch_size)
        loaded = load_language_model(model, device=device, dtype=dtype, revision=revision)
        reader = PromptReader(loaded.tokenizer, loaded.checkpoint.name)
        super().__init__(loaded, CausalEngine(loaded.model, loaded.pad_id, limits), reader)
