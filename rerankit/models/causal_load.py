"""Language models from disk: stock classes, safe weights, nothing random."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankit.errors import ModelError, require
from rerankit.models.backend_torch import quiet
from rerankit.models.backends import Choice
from rerankit.models.checkpoint import Checkpoint, find_checkpoint

__all__ = ["Loaded", "is_encoder_decoder", "load_language_model"]

logger = logging.getLogger(__name__)

_SPEAKS = re.compile("CausalLM|LMHead|ConditionalGeneration|DoubleHeads")
"""In the names of classes that predict tokens."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, its tokenizer, and what they are.

    Attributes:
        model: of transformers, in evaluation mode, on its device.
        tokenizer: of transformers.
        checkpoint: the files.
        dtype: of the weights.
    """

    model: Any
    tokenizer: Any
    checkpoint: Checkpoint
    dtype: str

    @property
    def model_id(self) -> str:
        """Names weights and precision: ``org/name@53aa51172d14:float32``."""
        return f"{self.checkpoint.model_id}:{self.dtype}"

    @property
    def fingerprint(self) -> str:
        """Changes with everything on disk that a score depends on, sha256, hex."""
        template = json.dumps(self.tokenizer.chat_template)
        parts = self.checkpoint.digest, self.checkpoint.reading_digest, template, self.dtype
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def context(self) -> int | None:
        """The longest input, in tokens; None where neither model nor tokenizer has a limit."""
        config = self.model.config.get_text_config(decoder=True)
        limits = [getattr(config, "max_position_embeddings", None), self.tokenizer.model_max_length]
        return min((n for n in limits if isinstance(n, int) and 0 < n < 100_000_000), default=None)

    @property
    def pad_id(self) -> int:
        """A token id to fill up with; which one does not matter, since it is masked."""
        known = self.tokenizer.pad_token_id
        return 0 if known is None else int(known)

    @property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end a reply."""
        stated = getattr(self.model.generation_config, "eos_token_id", None)
        ids = stated if isinstance(stated, list) else [stated]
        return frozenset(int(i) for i in [*ids, self.tokenizer.eos_token_id] if i is not None)


def is_encoder_decoder(model: str | Path, revision: str | None = None) -> bool:
    """Whether a checkpoint is T5-shaped, so that its prompts go to an encoder.

    Raises:
        ModelError: there is no such checkpoint.
    """
    return bool(find_checkpoint(model, revision).config.get("is_encoder_decoder"))


def load_language_model(
    model: str | Path,
    *,
    device: str,
    dtype: str,
    revision: str | None,
    encoder_decoder: bool = False,
    headless: bool = False,
) -> Loaded:
    """Load a causal (or encoder-decoder) model with its tokenizer.

    With ``headless`` it comes without its output layer, which embedding checkpoints do not have.

    Raises:
        ModelError: there is none, its weights are pickles, damaged or incomplete, or it is of another kind.
        InputError: there is no such device or precision.
        MissingExtraError: torch or transformers is not installed.
    """
    if not isinstance(model, str | Path) or not str(model).strip():
        raise ModelError(f"A model is a local folder or a hub name such as org/name; got {model!r:.80}")
    checkpoint = find_checkpoint(model, revision)
    _check_kind(checkpoint, encoder_decoder, headless)
    checkpoint.check_weights()
    purpose = f"Loading {checkpoint.name!r}"
    torch = require("torch", extra="torch", purpose=purpose)
    transformers = require("transformers", extra="torch", purpose=purpose)
    choice = Choice("torch", device, dtype).resolve(checkpoint)
    if dtype == "auto" and choice.device.startswith("cuda"):
        choice = dataclasses.replace(choice, dtype=_own_dtype(checkpoint))
    speaking = transformers.AutoModelForSeq2SeqLM if encoder_decoder else transformers.AutoModelForCausalLM
    loader = transformers.AutoModel if headless else speaking
    safe = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.folder, **safe)
            loaded, report = loader.from_pretrained(
                checkpoint.folder,
                dtype=getattr(torch, choice.dtype),
                use_safetensors=True,
                output_loading_info=True,
                **safe,
            )
            loaded = loaded.eval().to(choice.device)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        raise ModelError(f"The model in {checkpoint.folder} cannot be loaded: {error}") from error
    _check_whole(checkpoint, report, headless)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(f"{checkpoint.folder} has no tokenizer.json, and its tokenizer cannot be converted to one")
    return Loaded(loaded, tokenizer, checkpoint, choice.dtype)


def _own_dtype(checkpoint: Checkpoint) -> str:
    """The half precision that a model was trained in; most language models overflow in any other."""
    config = checkpoint.config.get("text_config") or checkpoint.config
    stated = str(config.get("dtype") or config.get("torch_dtype"))
    return stated if stated in ("bfloat16", "float16") else "bfloat16"


def _check_kind(checkpoint: Checkpoint, encoder_decoder: bool, headless: bool) -> None:
    if checkpoint.is_onnx:
        raise ModelError(f"{checkpoint.name!r} has ONNX weights only; a language model needs model.safetensors")
    is_one = bool(checkpoint.config.get("is_encoder_decoder"))
    if is_one != encoder_decoder:
        fitting = "Seq2SeqLM" if is_one else "LocalLM"
        raise ModelError(f"{checkpoint.name!r} is {'an' if is_one else 'no'} encoder-decoder; load it with {fitting}")
    names = require("transformers.models.auto.modeling_auto", extra="torch", purpose="Loading a language model")
    kind = checkpoint.config.get("model_type")
    if not is_one and kind in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not checkpoint.config.get("is_decoder"):
        raise ModelError(
            f"{checkpoint.name!r} is a masked language model ({kind}), which sees what comes after; use a causal one, "
            "or a cross-encoder of this kind"
        )
    known = {
        *names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(),
        *names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values(),
    }
    stated = [str(name) for name in checkpoint.config.get("architectures") or ()]
    if headless and any(name.endswith("Model") for name in stated):
        return
    if stated and not any(name in known or _SPEAKS.search(name) for name in stated):
        raise ModelError(
            f"{checkpoint.name!r} was saved as {', '.join(stated)[:80]}, which predicts no next token; use a "
            "checkpoint of a ...ForCausalLM class, or load it as an embedder or cross-encoder"
        )


def _check_whole(checkpoint: Checkpoint, report: dict[str, Any], headless: bool) -> None:
    """Missing weights get random numbers from transformers; what those say means nothing."""
    if missing := sorted(report["missing_keys"]):
        looks = (
            "This looks like an embedding model or a classifier; use a checkpoint with a language-model head, or load "
            "it as an embedder or cross-encoder."
        )
        hint = "Download it again." if headless else looks
        raise ModelError(f"{checkpoint.weights[0]} lacks the weights {missing[:4]}. {hint}")
    if unread := sorted(key for key in report["unexpected_keys"] if not (headless and "head" in key)):
        logger.warning(
            "%s holds %d weights that its configuration has no place for, such as %s: is config.json the one that "
            "belongs to them?",
            checkpoint.weights[0], len(unread), ", ".join(unread[:3]),
        )  # fmt: skip
