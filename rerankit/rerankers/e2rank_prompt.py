"""The listwise prompt of E2Rank as token ids, cut to what the model can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerankit.errors import InputError
from rerankit.models.causal_vectors import CausalVectors
from rerankit.models.prompt import Data, Part, fill
from rerankit.models.templates import Template

__all__ = ["PROMPT", "Fitted", "ListPrompt"]

PROMPT = Template(
    name="e2rank",
    source="Liu et al., arXiv:2510.22733, eval.py of Alibaba-NLP/E2Rank",
    user="{instruction}:\nDocuments:\n{passages}\nSearch Query: {query}",
    item="[{number}] {passage}",
    separator="\n",
    thinking=False,
    instruction="Given a web search query and some relevant documents, rerank the documents that answer the query",
)
"""The published prompt, one user turn in the checkpoint's own chat template; no end of text follows it."""

SHARE = 4
"""A query takes at most one part in so many of the prompt."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that the model can read.

    Attributes:
        ids: token ids.
        cut: per passage, tokens that were left out.
        query_cut: tokens of the query that were left out.
    """

    ids: list[int]
    cut: list[int]
    query_cut: int


class ListPrompt:
    """Lays the prompt out for one model.

    Args:
        embedder: the model.
        instruction: what the prompt asks for, without the colon.
        passage_tokens: longest passage shown, or None.
        max_tokens: longest prompt, or None for the model's context.
    """

    def __init__(
        self, embedder: CausalVectors, instruction: str, passage_tokens: int | None, max_tokens: int | None
    ) -> None:
        self.embedder, self.instruction, self.passage_tokens = embedder, instruction, passage_tokens
        limits = [limit for limit in (embedder.context, max_tokens) if limit is not None]
        self.limit = min(limits, default=1 << 30)

    def ids(self, query: str, lines: Sequence[str]) -> list[int]:
        """Token ids of the prompt, whatever their number, for passages of one line each, best first."""
        parts: list[Part] = []
        for number, line in enumerate(lines, 1):
            separator = PROMPT.separator if number > 1 else ""
            parts += fill(separator + PROMPT.item, {"number": str(number), "passage": Data(line)})
        values: dict[str, Part | Sequence[Part]] = {
            "instruction": self.instruction,
            "passages": parts,
            "query": Data(query),
        }
        return self.embedder.ids([PROMPT.prompt(values)])[0]

    def fitted(self, query: str, lines: Sequence[str]) -> Fitted:
        """The prompt within its limit: passages cut to a length that all of them have at most.

        Raises:
            InputError: there is no room for a token of each.
        """
        reader = self.embedder.reader
        asked = reader.cut(query, max(1, self.limit // SHARE))
        kept = lines if self.passage_tokens is None else [reader.cut(line, self.passage_tokens) for line in lines]
        ids = self.ids(asked, kept)
        if len(ids) > self.limit:
            ids, kept = self._shortened(asked, kept)
        cut = [self._left_out(line, shown) for line, shown in zip(lines, kept, strict=True)]
        return Fitted(ids, cut, self._left_out(query, asked))

    def _shortened(self, query: str, lines: Sequence[str]) -> tuple[list[int], list[str]]:
        reader = self.embedder.reader
        frame = len(self.ids(query, [""] * len(lines)))
        longest = _level([reader.count(line) for line in lines], self.limit - frame)
        for level in range(longest + 1, 0, -1):  # tokens join and part where passages meet the frame: try
            kept = [reader.cut(line, level) for line in lines]
            if len(ids := self.ids(query, kept)) <= self.limit:
                return ids, kept
        raise InputError(
            f"A prompt of {self.limit} tokens has no room for {len(lines)} passages: template and query take {frame}. "
            "Raise max_tokens, or lower prompt_passages."
        )

    def _left_out(self, whole: str, kept: str) -> int:
        reader = self.embedder.reader
        return 0 if kept == whole else reader.count(whole) - reader.count(kept)


def _level(sizes: Sequence[int], room: int) -> int:
    """The length to which the longest must be cut so that all together have at most ``room``."""
    for left, size in zip(range(len(sizes), 0, -1), sorted(sizes), strict=True):
        if size * left > room:
            return room // left
        room -= size
    return max(sizes, default=0)
