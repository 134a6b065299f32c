"""From a spec string to a reranker: ``"late-interaction[:30] | cross-encoder:org/name[dtype=int8][:10] | mmr[:5]"``.

Grammar::

    spec     = stage *( "|" stage )                    ; stages of a cascade
    stage    = family [ ":" model ] *( options | view )
    options  = "[" name "=" value *( "," name "=" value ) "]"
    view     = "[" ":" number "]"                      ; how many hits the stage lets through
    value    = true | false | none | number | number "/" number ... | text

``fusion`` takes its members as its model, joined by ``+``: ``fusion:dense+lexical[method=rrf]``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from rerankit.errors import MissingExtraError, RerankitError, SpecError

if TYPE_CHECKING:
    from rerankit.rerankers.base import Reranker

__all__ = ["Family", "Stage", "families", "load", "option_names", "parse"]

ENTRY_POINT_GROUP = "rerankit.rerankers"

ALIASES = {
    "default": "fusion:late-interaction+dense+lexical[method=z-score,weights=1/0.6/0.4]",
    "rrf": "fusion:dense+lexical[method=rrf]",
}
"""Short names for whole stages."""

_OUTER = frozenset({"top_k", "on_error", "calibrator"})
"""Options that belong to the whole of a cascade, not to each of its stages."""


@dataclass(frozen=True, slots=True)
class Family:
    """A reranker family that specs can name: where its class is, and what it does in one line."""

    name: str
    target: str
    summary: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One parsed stage of a spec."""

    family: str
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    top_k: int | None = None


_BUILT_IN = [
    Family("late-interaction", "rerankit.rerankers.late_interaction:LateInteraction",
           "MaxSim over token vectors; offline without a model, else ColBERT and XTR checkpoints"),
    Family("cross-encoder", "rerankit.rerankers.cross_encoder:CrossEncoder",
           "sequence-classification models that read query and passage together"),
    Family("pointwise", "rerankit.rerankers.pointwise:Pointwise",
           "a language model judges one passage at a time: yes or no, a rating, or the likelihood of the query"),
    Family("pairwise", "rerankit.rerankers.pairwise:Pairwise",
           "a language model compares passages two at a time, in both orders (PRP)"),
    Family("in-context", "rerankit.rerankers.in_context:InContext",
           "where a language model looks in the whole list when it reads the query (ICR, retrieval heads)"),
    Family("dense", "rerankit.rerankers.compressed:Dense",
           "cosine of one embedding per passage, taken from the store where it is there"),
    Family("listwise", "rerankit.rerankers.listwise:Listwise",
           "a language model sees several passages at once: windows, setwise, tournaments, ratings in groups"),
    Family("remote", "rerankit.rerankers.remote:Remote",
           "rerank endpoints over HTTP: Cohere, Jina, Voyage, TEI, and servers that speak as they do"),
    Family("lexical", "rerankit.rerankers.lexical:Lexical", "BM25 over the candidates"),
    Family("none", "rerankit.rerankers.compose:Prior", "keeps the first stage's order: the baseline to beat"),
    Family("fusion", "rerankit.rerankers.compose:Fusion", "several families, scores or ranks put together"),
    Family("mmr", "rerankit.rerankers.diversify:MMR", "maximal marginal relevance: relevant, but not again the same"),
    Family("dpp", "rerankit.rerankers.diversify:DPP", "determinantal point process: a diverse set, greedily"),
    Family("cap", "rerankit.rerankers.diversify:SourceCap", "at most so many hits per source in front"),
    Family("freshness", "rerankit.rerankers.diversify:Freshness", "older passages decay by a half-life"),
]  # fmt: skip


def load(spec: str | Reranker = "default", **options: Any) -> Reranker:
    """Build a reranker from its spec.

    Args:
        spec: see the module's text; a reranker is returned as it is.
        options: as in the spec's brackets. In a cascade or fusion, ``top_k``, ``on_error`` and ``calibrator`` belong
            to the whole; any other option goes to every part that knows it (``device="cuda"``).

    Raises:
        SpecError: the spec or an option is wrong; the message names the nearest valid one.
        MissingExtraError: the family needs a package that is not installed.
        ModelError: the model cannot be loaded.
    """
    if not isinstance(spec, str):
        from rerankit.rerankers.base import Reranker

        if not isinstance(spec, Reranker):
            raise SpecError(f"load takes a spec such as 'default', or a reranker; got {type(spec).__name__}")
        if options:
            raise SpecError(f"Options {sorted(options)} cannot be applied to a reranker that is already built")
        return spec
    builder = _Builder(spec, options)
    reranker = builder.build(parse(spec))
    builder.check_all_used()
    return reranker


def parse(spec: str) -> tuple[Stage, ...]:
    """The stages of a spec, aliases replaced.

    Raises:
        SpecError: the text does not follow the grammar.
    """
    parts = [part.strip() for part in _split(spec, "|")]
    if not all(parts):
        raise SpecError(f"The spec {spec!r} has an empty stage; write for example 'default' or 'dense[:30] | default'")
    return tuple(_expand(_parse_stage(part)) for part in parts)


@cache
def families() -> dict[str, Family]:
    """Every family that a spec can name: the built-in ones and those of installed plug-ins."""
    known = {family.name: family for family in _BUILT_IN}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        known.setdefault(entry.name, Family(entry.name, entry.value, _plug_in_summary(entry)))
    return known


def option_names(factory: Callable[..., Any]) -> set[str]:
    """The options that a family's class takes: its own and those it passes on to its bases."""
    return set(_annotations(factory))


def _annotations(factory: Callable[..., Any]) -> dict[str, str]:
    """Per option its annotation, as text."""
    classes = [c for c in inspect.getmro(factory) if c is not object] if inspect.isclass(factory) else [factory]
    found: dict[str, str] = {}
    for item in classes:
        parameters = inspect.signature(item.__init__ if inspect.isclass(item) else item).parameters
        for name, p in parameters.items():
            if name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                found.setdefault(name, str(p.annotation))
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    return found


class _Builder:
    """Builds the stages of one ``load`` call and remembers which options found a taker."""

    def __init__(self, spec: str, options: Mapping[str, Any]) -> None:
        self.spec, self.options = spec, dict(options)
        self.used: set[str] = set()
        self.known: set[str] = set()

    def build(self, stages: tuple[Stage, ...]) -> Reranker:
        if len(stages) == 1:
            return self._stage(stages[0], self.options)
        from rerankit.rerankers.compose import Cascade

        inner, outer = self._divided()
        return Cascade([self._stage(stage, inner) for stage in stages], **outer)

    def check_all_used(self) -> None:
        if unused := sorted(set(self.options) - self.used):
            raise SpecError(f"No part of {self.spec!r} knows the option {unused[0]!r}{_hint(unused[0], self.known)}")

    def _divided(self) -> tuple[dict[str, Any], dict[str, Any]]:
        outer = {name: value for name, value in self.options.items() if name in _OUTER}
        self.used |= set(outer)
        self.known |= _OUTER
        return {name: value for name, value in self.options.items() if name not in _OUTER}, outer

    def _stage(self, stage: Stage, options: Mapping[str, Any]) -> Reranker:
        factory = _resolve(stage.family, self.spec)
        annotations = _annotations(factory)
        accepted = set(annotations)
        self.known |= accepted
        for name in stage.options:
            if name not in accepted:
                raise SpecError(f"{stage.family!r} has no option {name!r}{_hint(name, accepted)}, in {self.spec!r}")
        chosen = {name: value for name, value in options.items() if name in accepted}
        self.used |= set(chosen)
        written = {name: _as_annotated(value, annotations[name]) for name, value in stage.options.items()}
        arguments = {"top_k": stage.top_k, **written, **chosen}
        if stage.family == "fusion":
            rest = {name: value for name, value in options.items() if name not in accepted}
            arguments["members"] = self._members(stage, rest)
        else:
            arguments |= self._model(stage, factory, accepted, arguments)
        try:
            result: Reranker = factory(**arguments)
        except (TypeError, ValueError) as error:
            if isinstance(error, RerankitError):
                raise
            shown = {name: value for name, value in arguments.items() if name in (*stage.options, *chosen)}
            raise SpecError(f"{stage.family!r} cannot be built with {shown}: {error}, in {self.spec!r}") from error
        return result

    def _members(self, stage: Stage, options: Mapping[str, Any]) -> list[Reranker]:
        names = [part.strip() for part in _split(stage.model, "+")]
        if not all(names):
            raise SpecError(f"A fusion names its members: 'fusion:dense+lexical[method=rrf]', in {self.spec!r}")
        return [self._stage(_expand(_parse_stage(name)), options) for name in names]

    def _model(
        self, stage: Stage, factory: Callable[..., Any], accepted: set[str], given: Mapping[str, Any]
    ) -> dict[str, str]:
        if stage.model:
            if "model" not in accepted:
                raise SpecError(f"{stage.family!r} takes no model; write {stage.family!r}, in {self.spec!r}")
            return {"model": stage.model}
        parameter = inspect.signature(factory).parameters.get("model")
        if parameter is not None and parameter.default is parameter.empty and "model" not in given:
            raise SpecError(f"{stage.family!r} needs a model: '{stage.family}:NAME-OR-FOLDER', in {self.spec!r}")
        return {}


def _resolve(name: str, spec: str) -> Callable[..., Any]:
    family = families().get(name)
    if family is None:
        known = [*families(), *ALIASES]
        hint = f"; did you mean 'cross-encoder:{spec.strip()}'?" if "/" in name else _hint(name, known)
        raise SpecError(f"Unknown reranker family {name!r} in {spec!r}{hint} Known: {', '.join(sorted(known))}")
    module, _, attribute = family.target.partition(":")
    try:
        result: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except MissingExtraError:
        raise
    except (ImportError, AttributeError) as error:
        raise SpecError(f"The reranker family {name!r} cannot be imported from {family.target!r}: {error}") from error
    return result


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.replace("_", "-"), list(known), 1, 0.5) or difflib.get_close_matches(
        name, list(known), 1, 0.5
    )
    return f"; did you mean {near[0]!r}?" if near else "."


def _plug_in_summary(entry: EntryPoint) -> str:
    return f"plug-in from {entry.dist.name}" if entry.dist is not None else "plug-in"


def _expand(stage: Stage) -> Stage:
    if stage.family not in ALIASES:
        return stage
    if stage.model:
        raise SpecError(f"{stage.family!r} is a short name for {ALIASES[stage.family]!r} and takes no model")
    full = _parse_stage(ALIASES[stage.family])
    return replace(full, options={**full.options, **stage.options}, top_k=stage.top_k)


_STAGE = re.compile(r"(?P<family>[^\s:\[\]]+)\s*(?::(?P<model>.+))?", re.DOTALL)


def _parse_stage(text: str) -> Stage:
    head, groups = _brackets(text)
    match = _STAGE.fullmatch(head.strip())
    if match is None:
        raise SpecError(f"Cannot read the stage {text!r}; write 'family', 'family:model' or 'family[option=value][:k]'")
    options: dict[str, Any] = {}
    top_k = None
    for group in groups:
        if view := re.fullmatch(r":\s*(\d+)", group):
            if top_k is not None:
                raise SpecError(f"Two views in one stage, {text!r}; write one [:k]")
            top_k = int(view[1])
        else:
            _add_options(options, group, text)
    if top_k == 0:
        raise SpecError(f"A view of 0 hits lets nothing through, in {text!r}")
    return Stage(match["family"], (match["model"] or "").strip(), options, top_k)


def _brackets(text: str) -> tuple[str, list[str]]:
    """The text before the closing bracket groups, and the groups' insides in order."""
    head = text.rstrip()
    groups: list[str] = []
    while head.endswith("]"):
        start = head.rfind("[")
        if start < 0:
            raise SpecError(f"A ']' without its '[' in {text!r}")
        groups.insert(0, head[start + 1 : -1].strip())
        head = head[:start].rstrip()
    return head, groups


def _add_options(options: dict[str, Any], group: str, text: str) -> None:
    for item in group.split(","):
        name, sign, value = (part.strip() for part in item.partition("="))
        if not sign or not name:
            raise SpecError(f"Cannot read '[{group}]' in {text!r}; write [option=value, ...] or [:k]")
        if name in options:
            raise SpecError(f"The option {name!r} is given twice in {text!r}")
        options[name] = _value(value)


class _Written(str):
    """An option as it was written; what it means depends on what the option takes."""

    __slots__ = ()


def _value(text: str) -> Any:
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    return words.get(text.lower(), _Written(text))


def _as_annotated(value: Any, annotation: str) -> Any:
    """A written value as the option takes it: text where it takes text, else a number or several."""
    if not isinstance(value, _Written):
        return value
    takes_text = re.search(r"\b(str|Path|Literal|Any)\b", annotation) is not None
    takes_numbers = re.search(r"\b(int|float|Sequence|tuple)\b", annotation) is not None
    parts = [_number(part) for part in value.split("/")]
    if (takes_text and not takes_numbers) or any(part is None for part in parts):
        return str(value)
    return tuple(parts) if len(parts) > 1 else parts[0]


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        return number if math.isfinite(number) else None
    return None


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
