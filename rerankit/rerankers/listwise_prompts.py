"""Several passages in one prompt: what they are called, how they share the room, and what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rerankit.errors import ModelError
from rerankit.models.language import LanguageModel
from rerankit.models.prompt import ChatPrompt, Data, Part, RawPrompt, fill, text_of
from rerankit.models.templates import Template
from rerankit.models.work import Work
from rerankit.rerankers.asking import Framing, beginning, neutral, short_title, shown
from rerankit.rerankers.call import Request
from rerankit.rerankers.listwise_steps import Question
from rerankit.types import Passage

__all__ = ["Material", "Prompts", "fair_share"]

CHAT_FRAME = 64
"""Tokens kept free for what a chat template adds, and for the seams between pieces that are counted one by one."""

LEAST_TOKENS = 32
"""A window is made smaller rather than show less than this of a long passage."""

QUERY_SHARE = 4
"""A query may take one part in so many of the context."""

REPLY_PASSAGES = 20
"""The number of passages that a template's ``max_tokens`` allows for; more need more."""

TOKENS_PER_NAME = 8
"""Tokens of one more identifier or rating in a reply."""


@dataclass(slots=True)
class Material:
    """One list, ready to be shown.

    Attributes:
        query: harmless and short enough.
        query_cut: tokens of the query that are not shown although nobody asked for that.
        texts: harmless and within the limit per passage.
        whole: tokens of the passages.
        lengths: tokens of the texts.
        hidden: per passage, the most tokens that any prompt left out.
    """

    query: Data
    query_cut: int
    texts: list[str]
    whole: list[int]
    lengths: list[int]
    hidden: list[int]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Makes prompts for one model by one template.

    Attributes:
        lm: the model.
        template: the wording.
        query_tokens, passage_tokens: longest query and passage shown, or None.
        max_tokens: longest reply for :data:`REPLY_PASSAGES` passages.
    """

    lm: LanguageModel
    template: Template
    query_tokens: int | None
    passage_tokens: int | None
    max_tokens: int

    def names(self, count: int) -> Sequence[str]:
        """What ``count`` passages are called, in the order they are shown."""
        first = int(self.template.options.get("first", 1))
        return self.template.labels[:count] or [str(first + i) for i in range(count)]

    def reply_tokens(self, count: int) -> int:
        """Longest reply about ``count`` passages."""
        more = max(0, count - REPLY_PASSAGES) if self.template.read in ("permutation", "selection", "scores") else 0
        return self.max_tokens + more * TOKENS_PER_NAME

    def material(self, request: Request, work: Work) -> Material:
        """The list as it may be shown: neutral, the query and every passage within its own limit.

        Passages that ``work`` leaves no time for stay empty: nothing is asked about them any more.
        """
        query, _ = self._cut(neutral(request.query, self._framing).text, self.query_tokens)
        share = None if self.lm.context is None else max(1, self.lm.context // QUERY_SHARE)
        query, length = self._cut(query, share)
        texts, whole, lengths = [], [], []
        for passage in request.passages:
            text, behind, tokens = "", 0, 0
            if not work.expired:
                text, behind = self._text(passage)
                text, tokens = self._cut(text, self.passage_tokens)
            texts.append(text)
            whole.append(tokens + behind)
            lengths.append(tokens if self.passage_tokens is None else min(tokens, self.passage_tokens))
        hidden = [tokens - left for tokens, left in zip(whole, lengths, strict=True)]
        query_cut = 0 if share is None else max(0, length - share)
        return Material(Data(query), query_cut, texts, whole, lengths, hidden)

    def largest_window(self, material: Material, wanted: int) -> int:
        """The most passages, up to ``wanted``, of which a prompt within the context can show enough.

        Raises:
            ModelError: not even two passages fit.
        """
        for count in range(wanted, min(wanted, 2) - 1, -1):
            if self.fits(material, count):
                return count
        raise ModelError(
            f"{self.lm.model_id} reads {self.lm.context} tokens, too few for the template {self.template.name!r}, two "
            f"passages and a reply of {self.reply_tokens(2)}. Take another template or model, or a lower max_tokens"
        )

    def fits(self, material: Material, count: int) -> bool:
        """Whether a prompt can show enough of any ``count`` passages of the list."""
        room = self._room(material, count)
        longest = sorted(min(length, LEAST_TOKENS) for length in material.lengths)[-count:]
        return room is None or sum(longest) <= room

    def prompt(self, material: Material, question: Question) -> ChatPrompt | RawPrompt:
        """The question as a prompt that fits the context; what it leaves out is noted in ``material.hidden``."""
        lengths = [material.lengths[i] for i in question.places]
        room = self._room(material, len(lengths))
        cap = None if room is None else fair_share(lengths, room)
        shown_texts = []
        for i in question.places:
            text, length = material.texts[i], material.lengths[i]
            if cap is not None and length > cap:
                text = self.lm.cut(text, cap)
                material.hidden[i] = max(material.hidden[i], material.whole[i] - cap)
            shown_texts.append(text)
        return self._filled(material.query, shown_texts, question.pick)

    @property
    def _framing(self) -> Framing:
        return "quoted" if self.template.options.get("framing") == "quoted" else "numbered"

    def _text(self, passage: Passage) -> tuple[str, int]:
        """The beginning of title and text, the title no longer than its share, and the tokens left out."""
        lost = 0
        if passage.title and self.passage_tokens is not None:
            passage, lost = short_title(self.lm, passage, self.passage_tokens)
        text, behind = beginning(shown(passage), self.passage_tokens or self.lm.context)
        return neutral(text, self._framing).text, behind + lost

    def _cut(self, text: str, limit: int | None) -> tuple[str, int]:
        """The text within the limit, and the tokens of the whole."""
        length = self.lm.count_tokens(text)
        return text if limit is None or length <= limit else self.lm.cut(text, limit), length

    def _filled(self, query: Data, texts: Sequence[str], pick: int) -> ChatPrompt | RawPrompt:
        passages: list[Part] = []
        for name, text in zip(self.names(len(texts)), texts, strict=True):
            passages += [self.template.separator] if passages else []
            passages += fill(self.template.item, {"id": name, "passage": Data(text)})
        values: dict[str, Part | Sequence[Part]] = {
            "query": query,
            "passages": passages,
            "count": str(len(texts)),
            "pick": str(pick),
        }
        return self.template.prompt(values)

    def _room(self, material: Material, count: int) -> int | None:
        """Tokens for the text of ``count`` passages; None where the context is not known."""
        if self.lm.context is None:
            return None
        frame = self._filled(material.query, [""] * count, count)
        if isinstance(frame, RawPrompt):
            text = text_of(frame.parts)
        else:
            text = "\n".join(message.text for message in frame.messages) + frame.reply
        return self.lm.context - self.reply_tokens(count) - CHAT_FRAME - self.lm.count_tokens(text) - count


def fair_share(lengths: Sequence[int], room: int) -> int:
    """The longest that each passage may be for all to fit in ``room`` tokens: what short ones leave, long ones get."""
    left = len(lengths)
    for length in sorted(lengths):
        if length * left > room:
            return max(1, room // left)
        room -= length
        left -= 1
    return max(lengths, default=0)
