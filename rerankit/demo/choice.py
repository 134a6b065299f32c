"""One visitor's settings of a question: read from the controls or from a link, and never trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rerankit.demo.allowed import check_spec
from rerankit.demo.settings import EXTRACTIVE, Settings
from rerankit.errors import InputError, RerankitError
from rerankit.rag.bounds import all_of

__all__ = ["DEPTH", "TOP_K", "Choice", "Linked", "facets", "read_link"]

DEPTH, TOP_K = 30, 5
_MOST_VALUES = 30
_MOST_PASSAGES = 5000


@dataclass(frozen=True, slots=True)
class Choice:
    """The controls beside a question.

    Attributes:
        reranker: a name of ``Settings.rerankers``, or a spec of offline families.
        depth: candidates to retrieve and rerank.
        top_k: passages in the context.
        filters: ``field: value`` pairs as :func:`facets` lists them.
        writer: a name of ``Settings.writers``, or the embedded one.
    """

    reranker: str = "default"
    depth: int = DEPTH
    top_k: int = TOP_K
    filters: tuple[str, ...] = ()
    writer: str = EXTRACTIVE

    def check(self, settings: Settings) -> Choice:
        """Itself, if this app allows it.

        Raises:
            InputError, SpecError: it does not.
        """
        limits = settings.limits
        if self.reranker not in settings.rerankers:
            check_spec(self.reranker)
        if self.writer != EXTRACTIVE and self.writer not in settings.writers:
            raise InputError(f"There is no model endpoint {self.writer!r:.80} here")
        if not 1 <= self.top_k <= limits.top_k:
            raise InputError(f"The context takes 1 to {limits.top_k} passages, got {self.top_k}")
        if not self.top_k < self.depth <= limits.depth:
            raise InputError(
                f"Retrieve more than the {self.top_k} passages of the context, and at most {limits.depth}, "
                f"or reranking has nothing to choose; got {self.depth}"
            )
        return self

    def where(self) -> Mapping[str, Any] | None:
        """Chroma's filter: any of the values of one field, and that for every field."""
        fields: dict[str, list[str]] = {}
        for item in self.filters:
            name, sign, value = item.partition(": ")
            if not sign:
                raise InputError(f"A filter is written FIELD: VALUE, got {item!r:.80}")
            fields.setdefault(name, []).append(value)
        return all_of({name: {"$in": values}} for name, values in fields.items())


@dataclass(frozen=True, slots=True)
class Linked:
    """What a link carries."""

    question: str = ""
    choice: Choice = field(default_factory=Choice)


def read_link(query: Mapping[str, str], settings: Settings, known_filters: Iterable[str]) -> Linked:
    """The settings in a link's query parameters; whatever this app does not allow is left at its default."""
    limits, known = settings.limits, set(known_filters)
    first = next(iter(settings.rerankers))
    top_k = _number(query.get("k"), TOP_K, 1, limits.top_k)
    depth = _number(query.get("depth"), DEPTH, top_k + 1, limits.depth)
    filters = tuple(item for item in query.get("f", "").split("|") if item in known)
    reranker = _allowed(Choice(query.get("r", first)), settings, Choice(first)).reranker
    writer = _allowed(Choice(first, writer=query.get("w", EXTRACTIVE)), settings, Choice(first)).writer
    choice = Choice(reranker, depth, top_k, filters, writer)
    return Linked(query.get("q", "")[: limits.question], choice)


def _allowed(choice: Choice, settings: Settings, default: Choice) -> Choice:
    try:
        return choice.check(settings)
    except RerankitError:
        return default


def facets(metadata: Iterable[Mapping[str, Any]]) -> list[str]:
    """``field: value`` of every text field with few enough values to choose from."""
    values: dict[str, set[str]] = {}
    for number, row in enumerate(metadata):
        if number >= _MOST_PASSAGES:
            break
        for name, value in row.items():
            if isinstance(value, str) and value:
                values.setdefault(name, set()).add(value)
    few = {name: found for name, found in values.items() if 2 <= len(found) <= _MOST_VALUES}
    return [f"{name}: {value}" for name, found in sorted(few.items()) for value in sorted(found)]


def _number(text: str | None, default: int, low: int, high: int) -> int:
    try:
        number = int(text) if text is not None else default
    except ValueError:
        number = default
    return min(max(number, low), high)
