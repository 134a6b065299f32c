"""ResRank-style: a small transformer reads the query's tokens and one vector per passage, and scores the whole list.

After ResRank (arXiv:2604.22180): passages enter a reranker as their embeddings, a passage's representation is its
embedding plus its contextual state, and scores are cosines with a query representation, in one step, nothing generated.
Its paper leaves prompt, query position and scaling open and there is no checkpoint, so this is a reconstruction: an
encoder without positions instead of a causal language model, which makes the order of the input irrelevant, and
projections that start at zero, so that an untrained model is plain cosine retrieval.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rerankit.errors import InputError
from rerankit.models.resrank_files import ResRankConfig

__all__ = ["ResRank"]

_QUERY, _TOKEN, _PASSAGE = range(3)
"""Rows of the type embedding."""

_LEAST = 1e-6
"""Spread below which the values of a list count as equal."""

_WORDS_AT_FIRST = -0.7
"""softplus of it, 0.40, is what word matches weigh against cosines before any training, as in ``default``."""


class ResRank(nn.Module):
    """Scores lists of passage vectors; see the module's text.

    Scores do not depend on the order of the passages, nor on padding, beyond rounding (1e-5 in float32).

    Args:
        config: its shape.
    """

    def __init__(self, config: ResRankConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.enter_tokens = _Entrance(config.query_dim or config.dim, width)
        self.enter_vectors = _Entrance(config.dim, width)
        self.enter_cosine = nn.Linear(1, width, bias=False)
        self.enter_pair = nn.Linear(2 * config.dim, width, bias=False)
        self.enter_evidence = nn.Linear(4, width, bias=False) if config.words else None
        self.types = nn.Parameter(torch.randn(3, width) * 0.02)
        self.layers = nn.ModuleList(
            _Layer(width, config.heads, config.feedforward, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.to_query = nn.Linear(width, config.dim, bias=False)
        self.to_passage = nn.Linear(width, config.dim, bias=False)
        self.to_score = nn.Linear(width, 1, bias=False) if config.score_residual else None
        self.to_words = nn.Linear(width, 1, bias=False) if config.words else None
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        """Without the residual there would be nothing left to normalise."""
        added = [self.to_query, self.to_passage] if self.config.residual else []
        for layer in (*added, self.to_score, self.to_words):
            if layer is not None:
                nn.init.zeros_(layer.weight)

    def forward(
        self,
        tokens: Tensor,
        token_mask: Tensor,
        query: Tensor,
        passages: Tensor,
        mask: Tensor,
        words: Tensor | None = None,
    ) -> Tensor:
        """Scores ``[b, n]``: cosines, -1 to 1, plus the score residual if there is one; 0 where there is no passage.

        With words, the list's cosines and word matches are both brought to mean 0 and standard deviation 1 and added.

        Args:
            tokens: the query's token states ``[b, q, query_dim]``; their lengths do not matter.
            token_mask: bool ``[b, q]``, True for real ones.
            query: unit vectors ``[b, dim]``.
            passages: unit vectors ``[b, n, dim]``.
            mask: bool ``[b, n]``, True for real ones.
            words: word matches ``[b, n]``, on any scale; needed if the model reads them.
        """
        if (words is not None) != self.config.words:
            raise InputError(f"This model was made {'with' if self.config.words else 'without'} words=True")
        states = self._states(tokens, token_mask, query, passages, mask, words)
        of_passages = states[:, -passages.shape[1] :]
        target = self._unit(query, self.to_query(states[:, 0]))
        found = self._unit(passages, self.to_passage(of_passages))
        # Products and sums, not a matrix product: mixed precision would round the cosines.
        scores = (found * target[:, None]).sum(dim=-1)
        if self.to_words is not None and words is not None:
            weight = functional.softplus(self.to_words(states[:, 0]) + _WORDS_AT_FIRST)
            scores = _standard(scores, mask) + weight * _standard(words, mask)
        if self.to_score is not None:
            scores = scores + self.to_score(of_passages).squeeze(-1)
        return scores.masked_fill(~mask, 0.0)

    def _states(
        self,
        tokens: Tensor,
        token_mask: Tensor,
        query: Tensor,
        passages: Tensor,
        mask: Tensor,
        words: Tensor | None,
    ) -> Tensor:
        """Last states ``[b, 1 + q + n, width]``: the query's vector, its tokens, the passages."""
        cosines = (passages * query[:, None]).sum(dim=-1, keepdim=True)
        parts = [
            self.enter_vectors(query[:, None]) + self.types[_QUERY],
            self.enter_tokens(tokens) + self.types[_TOKEN],
            self.enter_vectors(passages)
            + self.enter_cosine(cosines)
            + self.enter_pair(self._pair(query[:, None], passages))
            + self.types[_PASSAGE],
        ]
        if self.enter_evidence is not None and words is not None:
            evidence = [part for x in (cosines.squeeze(-1), words) for part in (_standard(x, mask), _gap(x, mask))]
            parts[2] = parts[2] + self.enter_evidence(torch.stack(evidence, dim=-1))
        states = torch.cat(parts, dim=1)
        seen = torch.cat([torch.ones_like(token_mask[:, :1]), token_mask, mask], dim=1)[:, None, None]
        for layer in self.layers:
            states = layer(states, seen)
        normed: Tensor = self.norm(states)
        return normed

    def _pair(self, query: Tensor, passages: Tensor) -> Tensor:
        """Products and distances, dimension by dimension, ``[b, n, 2 * dim]``, brought to a size of about 1."""
        dim = self.config.dim
        return torch.cat([dim * query * passages, dim**0.5 * (query - passages).abs()], dim=-1)

    def _unit(self, vectors: Tensor, change: Tensor) -> Tensor:
        return functional.normalize(vectors + change if self.config.residual else change.float(), dim=-1)


def _standard(values: Tensor, mask: Tensor) -> Tensor:
    """Each list's values with mean 0 and standard deviation 1, ``[b, n]``; 0 where all are equal."""
    values, kept = values.float(), mask.float()
    count = kept.sum(dim=1, keepdim=True).clamp(min=1.0)
    centred = (values - (values * kept).sum(dim=1, keepdim=True) / count) * kept
    spread = (centred.square().sum(dim=1, keepdim=True) / count + _LEAST**2).sqrt()  # a root has no slope at 0
    # Rounding leaves a spread above 0 in lists of equal values.
    flat = spread <= 2 * _LEAST * (1 + (values * kept).abs().amax(dim=1, keepdim=True))
    return torch.where(flat, 0.0, centred / spread)


def _gap(values: Tensor, mask: Tensor) -> Tensor:
    """How far each value is below the best of its list, in standard deviations, ``[b, n]``."""
    standard = _standard(values, mask)
    best = standard.masked_fill(~mask, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(mask, best - standard, 0.0)


class _Entrance(nn.Sequential):
    """From any width to the model's own."""

    def __init__(self, outside: int, width: int) -> None:
        super().__init__(nn.LayerNorm(outside), nn.Linear(outside, width))


class _Layer(nn.Module):
    """A pre-norm transformer layer in which every position sees every other."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward * width), nn.GELU(), nn.Linear(feedforward * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        """``states`` ``[b, t, width]``; ``seen`` bool ``[b, 1, 1, t]``: positions that may be looked at."""
        states = states + self.dropout(self._attended(self.norm_attention(states), seen))
        changed: Tensor = states + self.dropout(self.feedforward(self.norm_feedforward(states)))
        return changed

    def _attended(self, states: Tensor, seen: Tensor) -> Tensor:
        split = self.inward(states).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=seen)
        out: Tensor = self.outward(mixed.transpose(1, 2).flatten(2))
        return out
