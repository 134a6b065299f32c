"""A sentence encoder that is trained along: the same texts in, the same vectors out, through a low-rank adapter.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), arXiv:2106.09685, by peft. The adapter
starts at zero, so that an untrained encoder makes the vectors that it made before; it is merged into the weights when
they are saved.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rerankit.errors import require
from rerankit.models.backend_torch import load_module, quiet
from rerankit.models.batching import pad
from rerankit.models.checkpoint import find_checkpoint
from rerankit.models.encoder import TextEncoder
from rerankit.models.files import share_weights
from rerankit.models.layout import Entry

__all__ = ["TrainableEncoder"]

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.onnx", "onnx", "openvino", "*.md", ".*")


class TrainableEncoder(nn.Module):
    """Texts to unit vectors and unit token states, with gradients.

    Args:
        encoder: to start from.
        rank: of the adapter.
        seed: of its first values.

    Raises:
        ModelError: the weights cannot be loaded.
        MissingExtraError: peft is not installed.
    """

    def __init__(self, encoder: TextEncoder, rank: int, seed: int = 0) -> None:
        super().__init__()
        peft = require("peft", extra="train", purpose="Training an encoder")
        self.source = encoder
        self.net = load_module(encoder.engine.checkpoint, "states", "float32")
        names = {name.rpartition(".")[2] for name, part in self.net.named_modules() if isinstance(part, nn.Linear)}
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sorted(names))
        with torch.random.fork_rng(devices=[]), quiet():
            torch.manual_seed(seed)
            self.net.model = peft.get_peft_model(self.net.model, config)

    def forward(self, texts: Sequence[str], kind: Literal["passage", "query"]) -> tuple[Tensor, Tensor, Tensor]:
        """Token states ``[b, t, dim]`` of length 1, which of them count bool ``[b, t]``, vectors ``[b, dim]``."""
        device = next(self.parameters()).device
        entries = [self._entry(text, kind) for text in texts]
        ids, mask, types = (torch.from_numpy(part).to(device) for part in pad(entries, self.source.engine.pad_id))
        states = self.net(ids, mask, types).float()
        counts = mask.bool()
        vectors = functional.normalize(self._pooled(states, counts), dim=-1)
        start, prompt = len(self.source.layout.prefix.ids), self.source.prompts[kind]
        if prompt:
            counts = counts.clone()
            counts[:, start : start + self.source.count_tokens([prompt])[0]] = False
        return functional.normalize(states, dim=-1), counts, vectors

    def _pooled(self, states: Tensor, counts: Tensor) -> Tensor:
        if self.source.pooling == "cls":
            return states[:, 0]
        if self.source.pooling == "last":
            return states[torch.arange(len(states), device=states.device), counts.sum(1) - 1]
        weights = counts[..., None].to(states)
        return (states * weights).sum(1) / weights.sum(1)

    def _entry(self, text: str, kind: Literal["passage", "query"]) -> Entry:
        layout = self.source.layout
        (tokens,) = self.source.engine.tokens.encode([self.source.prompts[kind] + text])
        body = tokens.ids[: self.source.max_tokens - layout.fixed_tokens]
        return Entry(layout.prefix, body, layout.first_type, layout.suffix)

    def save(self, folder: Path) -> str:
        """Write the encoder, the adapter merged into it, with all that it is read by; returns its ``model_id``."""
        source = self.source.engine.checkpoint.folder
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*_WEIGHTS))
        with quiet():
            copy.deepcopy(self.net.model).cpu().merge_and_unload().save_pretrained(folder)
        share_weights(folder)
        self._write_settings(folder)
        return find_checkpoint(folder).model_id

    def _write_settings(self, folder: Path) -> None:
        """What the catalogue may have known by the model's name, which the folder does not have."""
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        mode = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}[self.source.pooling]
        settings = {
            "modules.json": [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds],
            "1_Pooling/config.json": {
                "word_embedding_dimension": self.source.dim,
                f"pooling_mode_{mode}": True,
            },
            "config_sentence_transformers.json": {"prompts": dict(self.source.prompts)},
            "sentence_bert_config.json": {"max_seq_length": self.source.max_tokens, "do_lower_case": False},
        }
        for name, content in settings.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
