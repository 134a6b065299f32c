"""CrossEncoder: sequence-classification models that read query and passage together.

Nogueira and Cho, "Passage Re-ranking with BERT" (arXiv:1901.04085). Which output is the score, and what frames the
pair, are data: ``rerankit/models/catalog.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from rerankit.models.catalog import ReadOut
from rerankit.models.pair_encoder import PairEncoder
from rerankit.rerankers.call import Call
from rerankit.rerankers.pairs import Pair, PointwiseOptions, PointwiseReranker
from rerankit.rerankers.windows import TITLE_SHARE, Windows
from rerankit.types import Passage


class CrossEncoder(PointwiseReranker):
    """Any Hugging Face cross-encoder, by hub name or local folder.

    The title is shown before the text, with a space between, as in the BEIR benchmark. A passage longer than the
    model is read in overlapping windows; the query is never cut.

    Args:
        model: local folder, or a name on the Hugging Face hub.
        backend: ``auto``, ``torch``, ``onnxruntime``, ``openvino``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        dtype: ``auto``, ``float32``, ``bfloat16``, ``float16``, ``int8``. In float32 a score does not depend on the
            passage's company to 1e-5.
        revision: of a hub model: commit, tag or branch.
        max_tokens: length limit of a pair, special tokens included.
        batch_tokens: padded tokens per batch; bounds the peak memory.
        read_out: overrules the catalogue, see :class:`rerankit.models.catalog.Facts`.
        options: see :class:`~rerankit.rerankers.pairs.PointwiseOptions`.

    Raises:
        ModelError: the model cannot be had, is damaged, or has no trained classifier head.
        MissingExtraError: the back end is not installed.

    Example:
        >>> reranker = CrossEncoder("cross-encoder/ms-marco-MiniLM-L6-v2")  # doctest: +SKIP
        >>> reranker.rank("How deep to sow maize?", ["Sow maize 5 cm deep.", "Cows drink water."])  # doctest: +SKIP
    """

    scale = PairEncoder.scale

    def __init__(
        self,
        model: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        read_out: ReadOut | None = None,
        **options: Unpack[PointwiseOptions],
    ) -> None:
        super().__init__(**options)
        self.encoder = PairEncoder(
            model,
            backend=backend,
            device=device,
            dtype=dtype,
            revision=revision,
            max_tokens=max_tokens,
            batch_tokens=batch_tokens,
            read_out=read_out,
        )
        self.model = f"cross-encoder:{self.encoder.model_id}"

    @property
    def fingerprint(self) -> str:
        """Weights, precision, pair frame, read-out and length limit."""
        return f"cross-encoder:{self.encoder.fingerprint}"

    def score_pairs(self, pairs: Sequence[Pair], call: Call) -> NDArray[np.float64]:
        """Logits, float64 ``[len(pairs)]``."""
        texts = [(query, self.shown(query, passage)) for query, passage in pairs]
        return self.encoder.score(texts, meter=call.meter, float32=call.float32)

    def windows(self, query: str, passage: Passage) -> Windows:
        """Windows of the text that the model can read whole beside query and title."""
        title = self._title(query, passage.title)
        reserve = self.encoder.count_tokens([title])[0] if title else 0
        kept = tuple(self.encoder.windows(query, passage.text, reserve=reserve, limit=self.max_windows))
        lost = passage.text[kept[-1][1] :], passage.title[len(title) :]
        return Windows(kept, sum(map(self.encoder.estimate_tokens, lost)))

    def close(self) -> None:
        """Free the model."""
        super().close()
        self.encoder.close()

    def shown(self, query: str, passage: Passage) -> str:
        """What the model is given of a passage that fits: title and text."""
        title = self._title(query, passage.title)
        return f"{title} {passage.text}" if title else passage.text

    def _title(self, query: str, title: str) -> str:
        """The title, or as much of its beginning as leaves most of the room to the text."""
        if not title:
            return ""
        most = max(1, self.encoder.room(query) // TITLE_SHARE)
        return self.encoder.beginning(title, most)
