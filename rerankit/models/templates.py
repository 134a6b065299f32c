"""Prompt templates as data: a new checkpoint is a new entry, not a new class.

The entries live in ``templates_pairwise.py``, ``templates_listwise.py``, ``templates_pointwise.py`` and
``templates_in_context.py``, each beside the source of its wording.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rerankit.checks import check_choice, nearest
from rerankit.errors import SpecError
from rerankit.models.prompt import ChatPrompt, Message, Part, RawPrompt, fill

__all__ = ["SelfTest", "Template", "choose_template", "templates"]

KINDS = ("pairwise", "listwise", "pointwise", "in_context")


@dataclass(frozen=True, slots=True)
class SelfTest:
    """A pair whose probability a sound checkpoint puts within bounds, checked when the model is loaded.

    Wrong templates, padding on the wrong side and cut-off suffixes give noise, one half everywhere, or next to nothing:
    a plainly relevant and a plainly irrelevant passage tell all of these from a model that works.
    """

    query: str
    passage: str
    at_least: float = 0.0
    at_most: float = 1.0


@dataclass(frozen=True, slots=True)
class Template:
    """How one family asks one kind of model.

    ``system``, ``user``, ``raw`` and ``item`` hold places such as ``{query}``; which ones, the family says.

    Attributes:
        name: what the option ``template=`` calls it.
        source: paper, repository or model card that the wording is from.
        models: patterns of model names that it is chosen for by itself, such as ``*Qwen3-Reranker*``.
        system, user: the two turns; no system turn where it is empty.
        reply: how the reply begins, so that a label comes next.
        raw: the whole prompt with its control tokens, instead of ``system`` and ``user``.
        item: one passage of a list.
        separator: between two of them.
        labels: what the model is asked to choose from; the first means yes, or the first passage.
        answer: regular expression whose first group is the answer within a reply that also holds reasoning.
        read: how a family reads the reply; the words are the family's.
        instruction: the default of ``{instruction}``.
        query_tokens, passage_tokens: longest query and passage shown; None for no limit but the context.
        max_tokens: longest reply.
        temperature: of the generation.
        thinking: see :class:`~rerankit.models.prompt.ChatPrompt`.
        options: what else a family wants to know of a checkpoint.
        self_tests: pairs to check at load.
    """

    name: str
    source: str
    models: tuple[str, ...] = ()
    system: str = ""
    user: str = ""
    reply: str = ""
    raw: str = ""
    item: str = ""
    separator: str = "\n\n"
    labels: tuple[str, ...] = ()
    answer: str = ""
    read: str = ""
    instruction: str = ""
    query_tokens: int | None = None
    passage_tokens: int | None = None
    max_tokens: int = 16
    temperature: float = 0.0
    thinking: bool | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    self_tests: tuple[SelfTest, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Changes with every character that a model is shown and with the way that replies are read."""
        content = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("source", "models", "self_tests")}
        return f"{self.name}:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"

    def prompt(self, values: Mapping[str, Part | Sequence[Part]]) -> ChatPrompt | RawPrompt:
        """The prompt with every place filled.

        Raises:
            InputError: a place has no value.
        """
        given = {"instruction": self.instruction, **values}
        if self.raw:
            return RawPrompt(fill(self.raw, given))
        system = (Message("system", fill(self.system, given)),) if self.system else ()
        return ChatPrompt((*system, Message("user", fill(self.user, given))), self.reply, self.thinking)


@cache
def templates(kind: str) -> dict[str, Template]:
    """The templates of one of :data:`KINDS` by name; the first is the default."""
    module = importlib.import_module(f"rerankit.models.templates_{kind}")
    return {template.name: template for template in module.TEMPLATES}


def choose_template(kind: str, model: str, asked: str | Template | None = None, *, among: str = "") -> Template:
    """The template asked for; else the one whose patterns fit the model's name; else the first.

    Args:
        kind: see :func:`templates`.
        model: name, folder or ``url#name`` of the model.
        asked: a template or the name of one.
        among: only those whose ``read`` is this, where it is given.

    Raises:
        SpecError: no template has that name, or none is read that way.
    """
    if isinstance(asked, Template):
        return asked
    entries = templates(kind)
    known = {name: t for name, t in entries.items() if not among or t.read == among}
    if not known:
        check_choice("method", among, dict.fromkeys(t.read for t in entries.values()), SpecError)
    if asked is not None:
        if not isinstance(asked, str) or asked not in known:
            hint = nearest(str(asked), known)
            raise SpecError(f"No {kind} template {asked!r:.80}{hint} Known: {', '.join(known)}")
        return known[asked]
    name = model.rpartition("#")[2]
    fitting = (t for t in known.values() if any(fnmatch.fnmatch(name.lower(), p.lower()) for p in t.models))
    return next(fitting, next(iter(known.values())))
