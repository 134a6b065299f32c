"""The prompt of in-context reranking as token ids, with the exact place of every passage in it.

Each segment is tokenised by itself and the ids are put together, so that places are exact by construction, equal
passages cannot be mixed up, and cutting a passage touches nothing else. Seams lie where tokenizers cut anyway: before
white space and around control tokens. Passages and query are data: a ``<|im_end|>`` in them is plain text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rerankit.errors import SpecError
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.prompt import Data, Part, fill, text_of
from rerankit.models.templates import Template, choose_template

__all__ = ["Candidate", "InContextPrompt", "Question", "SharedPart", "fitting_template"]

_PASSAGES, _QUERY = Data("\ue000passages\ue000"), Data("\ue000query\ue000")
"""Stand for list and query while the layout is found; private use characters, so that no template trims them."""

_CONTROL = re.compile(r"<\|[^|]+\|>|\[/?INST\]")

_REMEMBERED = 4096
"""Passages whose tokens are kept between queries."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One passage as the model reads it.

    Attributes:
        ids: token ids, cut to the limit.
        offsets: int ``[tokens, 2]``: each token's characters in the text.
        cut: tokens that were left out.
    """

    ids: tuple[int, ...]
    offsets: NDArray[np.int64]
    cut: int


@dataclass(frozen=True, slots=True)
class SharedPart:
    """The prompt up to the query.

    Attributes:
        ids: token ids.
        spans: per passage ``[start, stop)`` in the prompt, its ``[i]`` included, separators not.
        rows: how many of the last tokens are instruction, which is read together with the query.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    rows: int

    @property
    def columns(self) -> slice:
        """All passages: from the first one's start to the last one's end."""
        return slice(self.spans[0][0], self.spans[-1][1])


@dataclass(frozen=True, slots=True)
class Question:
    """The prompt from the query on.

    Attributes:
        ids: token ids.
        query_tokens: how many of the first of them are the query.
        cut: query tokens that were left out.
    """

    ids: tuple[int, ...]
    query_tokens: int
    cut: int


class InContextPrompt:
    """Lays a template out for one tokenizer.

    Args:
        reader: the model's tokenizer.
        template: see :mod:`rerankit.models.templates_in_context`.
        instruction: replaces the template's.

    Raises:
        SpecError: the template lacks ``{passages}`` or ``{query}``, or names them in the wrong order.
    """

    def __init__(self, reader: PromptReader, template: Template, instruction: str | None = None) -> None:
        self.reader, self.template = reader, template
        values: dict[str, Part] = {"passages": _PASSAGES, "query": _QUERY, "bos": reader.bos}
        values["instruction"] = instruction if instruction is not None else template.instruction
        parts = reader.parts(template.prompt(values))
        before, between, after = _divided(parts, template)
        shared = text_of(between)
        self._lead = shared[len(shared.rstrip(" ")) :]
        self._after = after
        self._before = tuple(reader.located(before, starts=True)[0])
        self._between, offsets = reader.located([shared.rstrip(" ")])
        self.rows = sum(end > len(template.separator) for _, end in offsets)
        self._marker = functools.lru_cache(_REMEMBERED)(self._make_marker)
        self._tokens = functools.lru_cache(_REMEMBERED)(self._tokenise)

    def candidate(self, text: str, limit: int | None = None) -> Candidate:
        """A passage, cut to ``limit`` tokens."""
        ids, offsets = self._tokens(text)
        kept = ids if limit is None else ids[:limit]
        return Candidate(kept, offsets[: len(kept)], len(ids) - len(kept))

    def shared(self, candidates: Sequence[Candidate]) -> SharedPart:
        """The prompt up to the query, for passages in the order in which they are shown."""
        ids = list(self._before)
        spans = []
        for number, candidate in enumerate(candidates, 1):
            marker, separator_tokens = self._marker(number)
            start = len(ids) + separator_tokens
            ids += [*marker, *candidate.ids]
            spans.append((start, len(ids)))
        return SharedPart((*ids, *self._between), tuple(spans), self.rows)

    def question(self, query: str, limit: int | None = None) -> Question:
        """The prompt from the query on; a query of more than ``limit`` tokens is cut, what follows it never is."""
        kept = query if limit is None else self.reader.cut(query, limit)
        ids, offsets = self.reader.located([self._lead, Data(kept), *self._after])
        end = len(self._lead) + len(kept)
        cut = 0 if kept == query else self.reader.count(query) - self.reader.count(kept)
        return Question(tuple(ids), sum(start < end for start, _ in offsets), cut)

    def room(self, context: int, question: Question) -> int:
        """Tokens left for passages and their numbers beside everything else."""
        return context - len(self._before) - len(self._between) - len(question.ids)

    def cost(self, candidate: Candidate, count: int) -> int:
        """Tokens that a passage takes in a list of ``count``, its number included."""
        return len(candidate.ids) + len(self._marker(count)[0])

    def _make_marker(self, number: int) -> tuple[tuple[int, ...], int]:
        """Separator and number, and how many of the tokens are the separator's alone."""
        separator = self.template.separator
        words = text_of(fill(self.template.item, {"number": str(number), "passage": ""})).rstrip(" ")
        ids, offsets = self.reader.located([separator + words])
        return tuple(ids), sum(end <= len(separator) for _, end in offsets)

    def _tokenise(self, text: str) -> tuple[tuple[int, ...], NDArray[np.int64]]:
        """Ids and offsets of a passage. White space around it is dropped; the space after its number belongs to it."""
        core = text.strip()
        start = text.index(core) - 1
        ids, offsets = self.reader.located([Data(f" {core}")])
        shifted = np.array(offsets, np.int64).reshape(-1, 2) + start
        return tuple(ids), shifted.clip(0)


def fitting_template(model: str, asked: str | Template | None, reader: PromptReader) -> Template:
    """The template asked for, or else the model's; the chat template's where a tokenizer lacks its control tokens.

    Raises:
        SpecError: no template has that name.
    """
    chosen = choose_template("in_context", model, asked)
    if asked is None and chosen.raw and not _has_controls(chosen, reader):
        return choose_template("in_context", model, "chat")
    return chosen


def _has_controls(template: Template, reader: PromptReader) -> bool:
    """Whether the tokenizer knows what frames the template; otherwise it would be read as plain text."""
    return all(word in reader.controls for word in _CONTROL.findall(template.raw))


def _divided(parts: Sequence[Part], template: Template) -> tuple[tuple[Part, ...], tuple[Part, ...], tuple[Part, ...]]:
    """What lies before the list, between list and query, and after the query."""
    try:
        first, second = parts.index(_PASSAGES), parts.index(_QUERY)
    except ValueError as error:
        raise SpecError(f"The template {template.name!r} must hold {{passages}} and {{query}}") from error
    if second < first:
        raise SpecError(f"The template {template.name!r} shows the query before the passages; it must come after them")
    return tuple(parts[:first]), tuple(parts[first + 1 : second]), tuple(parts[second + 1 :])
