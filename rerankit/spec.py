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

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from rerankit.checks import nearest
from rerankit.errors import MissingExtraError, RerankitError, SpecError
from rerankit.redaction import brackets_match, hidden, public_options, public_spec
from rerankit.spec_values import as_annotated, mismatch, read_value

if TYPE_CHECKING:
    from rerankit.rerankers.base import Reranker

__all__ = ["Family", "Stage", "check", "families", "load", "option_names", "parse"]

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
    """A reranker family that specs can name: where its class is, and what it does in one line.

    ``alone`` is the class that stands for the family where no model is named, if another one does; ``by_model`` the
    function that picks the class for a named model, if there are several.
    """

    name: str
    target: str
    summary: str
    alone: str = ""
    by_model: str = ""


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
           "sequence-classification models that read query and passage together; offline without a model, where an "
           "adapter corrects the default", "rerankit.rerankers.residual:Residual",
           "rerankit.rerankers.residual:cross_encoder_class"),
    Family("pointwise", "rerankit.rerankers.pointwise:Pointwise",
           "a language model judges one passage at a time: yes or no, a rating, or the likelihood of the query"),
    Family("pairwise", "rerankit.rerankers.pairwise:Pairwise",
           "a language model compares passages two at a time, in both orders (PRP)"),
    Family("in-context", "rerankit.rerankers.in_context:InContext",
           "where a language model looks in the whole list when it reads the query (ICR, retrieval heads); "
           "offline without a model", "rerankit.rerankers.token_attention:TokenAttention"),
    Family("compressed", "rerankit.rerankers.compressed:Compressed",
           "one embedding per passage and the query in one short pass: a ResRank-style model, or an E2Rank checkpoint",
           by_model="rerankit.rerankers.compressed_family:compressed_class"),
    Family("dense", "rerankit.rerankers.dense:Dense",
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
    shown = public_spec(spec)
    if not brackets_match(spec):
        raise SpecError(f"The brackets of {shown!r} do not match; write 'family:model[option=value][:k]'")
    parts = [part.strip() for part in _split(spec, "|")]
    if not all(parts):
        raise SpecError(f"The spec {shown!r} has an empty stage; write for example 'default' or 'dense[:30] | default'")
    return tuple(_expand(_parse_stage(part)) for part in parts)


def check(spec: str) -> tuple[Stage, ...]:
    """:func:`parse`, with families and options looked at too; no model is loaded.

    Raises:
        SpecError: the spec or an option is wrong; what only loading shows is not noticed.
        MissingExtraError: the family needs a package that is not installed.
    """
    stages, builder = parse(spec), _Builder(spec, {})
    for stage in stages:
        builder.check(stage)
    return stages


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
        self.spec, self.options = public_spec(spec), dict(options)  # the spec for messages
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
            raise SpecError(f"No part of {self.spec!r} knows the option {unused[0]!r}{nearest(unused[0], self.known)}")

    def _divided(self) -> tuple[dict[str, Any], dict[str, Any]]:
        outer = {name: value for name, value in self.options.items() if name in _OUTER}
        self.used |= set(outer)
        self.known |= _OUTER
        return {name: value for name, value in self.options.items() if name not in _OUTER}, outer

    def _stage(self, stage: Stage, options: Mapping[str, Any]) -> Reranker:
        factory = self._factory(stage)
        accepted = option_names(factory)
        self.known |= accepted
        written = self._all_written(stage, factory)
        chosen = {name: value for name, value in options.items() if name in accepted}
        self.used |= set(chosen)
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
            shown = public_options({name: arguments[name] for name in (*stage.options, *chosen)})
            why = hidden(str(error), arguments)
            raise SpecError(f"{stage.family!r} cannot be built with {shown}: {why}, in {self.spec!r}") from error
        return result

    def check(self, stage: Stage) -> None:
        """Of families, names of options and their kinds, without building anything."""
        self._all_written(stage, self._factory(stage))
        if stage.family == "fusion":
            for member in self._member_stages(stage):
                self.check(member)

    def _factory(self, stage: Stage) -> Callable[..., Any]:
        named = stage.model or "model" in stage.options or "model" in self.options
        model = stage.model or stage.options.get("model") or self.options.get("model")
        return _resolve(stage.family, self.spec, model, alone=not named)

    def _all_written(self, stage: Stage, factory: Callable[..., Any]) -> dict[str, Any]:
        annotations = _annotations(factory)
        for name in stage.options:
            if name not in annotations:
                near = nearest(name, annotations)
                raise SpecError(f"{stage.family!r} has no option {name!r}{near.rstrip('.')}, in {self.spec!r}")
        return {name: self._written(stage, name, annotations[name]) for name in stage.options}

    def _written(self, stage: Stage, name: str, annotation: str) -> Any:
        value = stage.options[name]
        given = as_annotated(value, annotation)
        if wanted := mismatch(given, annotation):
            text = str(value).lower() if isinstance(value, bool | None) else str(value)
            raise SpecError(f"{name} must be {wanted}, got {text!r:.80}, in {self.spec!r}")
        return given

    def _members(self, stage: Stage, options: Mapping[str, Any]) -> list[Reranker]:
        return [self._stage(member, options) for member in self._member_stages(stage)]

    def _member_stages(self, stage: Stage) -> list[Stage]:
        names = [part.strip() for part in _split(stage.model, "+")]
        if not all(names):
            raise SpecError(f"A fusion names its members: 'fusion:dense+lexical[method=rrf]', in {self.spec!r}")
        return [_expand(_parse_stage(name)) for name in names]

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


def _resolve(name: str, spec: str, model: Any, *, alone: bool) -> Callable[..., Any]:
    family = families().get(name)
    if family is None:
        known = [*families(), *ALIASES]
        hint = f"; did you mean 'cross-encoder:{spec.strip()}'?" if "/" in name else nearest(name, known)
        raise SpecError(f"Unknown reranker family {name!r} in {spec!r}{hint} Known: {', '.join(sorted(known))}")
    if model and family.by_model:
        picked: Callable[..., Any] = _imported(name, family.by_model)(model)
        return picked
    return _imported(name, (alone and family.alone) or family.target)


def _imported(name: str, target: str) -> Callable[..., Any]:
    module, _, attribute = target.partition(":")
    try:
        result: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    except MissingExtraError:
        raise
    except (ImportError, AttributeError) as error:
        raise SpecError(f"The reranker family {name!r} cannot be imported from {target!r}: {error}") from error
    return result


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
    shown = public_spec(text)
    head, groups = _brackets(text)
    match = _STAGE.fullmatch(head.strip())
    if match is None:
        raise SpecError(f"Cannot read the stage {shown!r}; write 'family:model[option=value][:k]'")
    model = (match["model"] or "").strip()
    members = match["family"] == "fusion"  # which have brackets of their own
    if not members and "[" in _HOST.sub("", model):
        raise SpecError(f"Brackets amid {shown!r}; write 'family:model[option=value][:k]'")
    options: dict[str, Any] = {}
    top_k = None
    for group in groups:
        if view := re.fullmatch(r":\s*(\d+)", group):
            if top_k is not None:
                raise SpecError(f"Two views in one stage, {shown!r}; write one [:k]")
            top_k = int(view[1])
        else:
            _add_options(options, group, shown)
    if top_k == 0:
        raise SpecError(f"A view of 0 hits lets nothing through, in {shown!r}")
    return Stage(match["family"], model, options, top_k)


_HOST = re.compile(r"(?<=://)([^/\[\]]*@)?\[[\w:.%]+\]")
"""An IPv6 address: the one place of a model where brackets mean something."""


def _brackets(text: str) -> tuple[str, list[str]]:
    """The text before the closing bracket groups, and the groups' insides in order."""
    head = text.rstrip()
    groups: list[str] = []
    while head.endswith("]"):
        start = head.rfind("[")
        groups.insert(0, head[start + 1 : -1].strip())
        head = head[:start].rstrip()
    return head, groups


def _add_options(options: dict[str, Any], group: str, shown: str) -> None:
    for item in group.split(","):
        name, sign, value = (part.strip() for part in item.partition("="))
        if not sign or not name:
            raise SpecError(f"Cannot read the brackets of {shown!r}; write [option=value, ...] or [:k]")
        if name in options:
            raise SpecError(f"The option {name!r} is given twice in {shown!r}")
        options[name] = read_value(value)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if character == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]
