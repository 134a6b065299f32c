"""Listwise: a language model sees several passages at once and says how they compare.

How the questions are chosen is in ``listwise_windows.py``, ``setwise.py``, ``tournament.py``, ``groups.py`` and
``elimination.py``, each with its source; how they are put and answered in ``listwise_prompts.py``,
``listwise_panel.py`` and ``permutations.py``; the wording is data: ``rerankit/models/templates_listwise.py``.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Unpack

import numpy as np

from rerankit.checks import check_choice, check_whole
from rerankit.errors import InputError, SpecError
from rerankit.models.language import LanguageModel
from rerankit.models.templates import Template, choose_template
from rerankit.rerankers.asking import AsksLanguageModel, LanguageModelOptions
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.elimination import elimination
from rerankit.rerankers.groups import groups
from rerankit.rerankers.listwise_panel import Panel, Sheet
from rerankit.rerankers.listwise_prompts import Material, Prompts
from rerankit.rerankers.listwise_steps import Outcome, Question, Steps, Verdict, repeated, together
from rerankit.rerankers.listwise_windows import bubble, windows
from rerankit.rerankers.setwise import setwise
from rerankit.rerankers.tournament import tournament

__all__ = ["Listwise", "Method"]

Method = Literal["windows", "full", "first", "setwise", "bubble", "tournament", "groups", "elimination"]


@dataclass(frozen=True, slots=True)
class _Facts:
    """A method: the templates it can ask by, its own first, its usual window, and what its scores mean."""

    reads: tuple[str, ...]
    window: int = 20
    scale: str = "order"


METHODS: dict[Method, _Facts] = {
    "windows": _Facts(("permutation", "labels")),
    "full": _Facts(("permutation", "labels")),
    "first": _Facts(("labels",)),
    "setwise": _Facts(("best", "labels", "permutation"), window=10),
    "bubble": _Facts(("best", "labels", "permutation"), window=4),
    "tournament": _Facts(("selection", "labels", "permutation"), scale="points"),
    "groups": _Facts(("scores",), scale="rating"),
    "elimination": _Facts(("worst", "labels", "permutation")),
}

METHOD_OF: dict[str, Method] = {facts.reads[0]: method for method, facts in reversed(METHODS.items())}
"""Per template read-out, the method that is meant by it."""


class Listwise(AsksLanguageModel):
    """A language model that ranks passages by seeing several at once, local or behind an OpenAI-compatible endpoint.

    Args:
        model: local folder or hub name, ``http://host/v1#name``, or a :class:`~rerankit.models.language.LanguageModel`.
        method: ``windows`` (RankGPT), ``full`` (the whole list in one prompt, else windows), ``first`` (windows, each
            ordered by the first token's likelihoods), ``setwise`` and ``bubble`` (the best of a few), ``tournament``
            (TourRank), ``groups`` (ratings, GroupRank), ``elimination`` (IRanker). By default what the model's
            template is for, else ``windows``.
        window: most passages per prompt; default 20, for ``setwise`` 10, for ``bubble`` 4.
        stride: places between windows; default half a window.
        repeats: how often everything is asked, shuffled: rounds of a tournament, ratings per passage, else
            permutation self-consistency of every prompt.
        k: places that ``setwise`` and ``bubble`` settle; default: ``top_k``, else all, and 10 for ``bubble``.
        seed: of the shuffles, and of the sampling where a template wants some.
        template: name of a template, or a :class:`~rerankit.models.templates.Template`; by default the model's own.
        max_tokens: longest reply about 20 passages; default: the template's.
        options: see :class:`~rerankit.rerankers.asking.LanguageModelOptions`.

    Raises:
        InputError: an option is out of range, or has no meaning for the method.
        SpecError: no such method or template, or the two do not go together.
        ModelError: the model cannot be had.

    Example:
        >>> reranker = Listwise("http://localhost:11434/v1#qwen3:8b", method="tournament")  # doctest: +SKIP
        >>> reranker.rank("How deep to sow maize?", ["Sow maize 5 cm deep.", "Cows drink water."])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | LanguageModel,
        *,
        method: Method | None = None,
        window: int | None = None,
        stride: int | None = None,
        repeats: int = 1,
        k: int | None = None,
        seed: int = 0,
        template: str | Template | None = None,
        max_tokens: int | None = None,
        **options: Unpack[LanguageModelOptions],
    ) -> None:
        if method is not None:
            check_choice("method", method, METHODS, SpecError)
        check_whole(2, or_none=True, window=window)
        check_whole(1, or_none=True, stride=stride, k=k, max_tokens=max_tokens)
        check_whole(1, repeats=repeats)
        check_whole(0, seed=seed)
        super().__init__(model, **options)
        self.template, self.method = _chosen(self.lm.model_id, template, method)
        _check_meaning(self.method, k, stride)
        self.window = _window(self.method, self.template, window)
        self.stride = max(1, self.window // 2) if stride is None else stride
        if self.stride > self.window:
            raise InputError(f"stride is at most the window, {self.window}; got {stride}: passages would be left out")
        self.repeats, self.k, self.seed = repeats, k, seed
        prompts = Prompts(
            self.lm,
            self.template,
            self._query_tokens or self.template.query_tokens,
            self._passage_tokens or self.template.passage_tokens,
            max_tokens or self.template.max_tokens,
        )
        self._panel = Panel(prompts, self.window, seed)
        self.scale = METHODS[self.method].scale
        self.model = f"listwise:{self.lm.model_id}[method={self.method}]"

    @property
    def fingerprint(self) -> str:
        """Model, wording, and all that decides what is asked."""
        prompts = self._panel.prompts
        sizes = f"{self.window}/{self.stride}/{self.repeats}/{self.k}/{self.seed}"
        lengths = f"{prompts.query_tokens}/{prompts.passage_tokens}/{prompts.max_tokens}"
        return f"{self.model}|{self.template.fingerprint}|{sizes}|{lengths}|{self.max_calls}"

    def score_lists(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """Judge all lists in step: what they want to know at the same time is one batch."""
        sheets = [Sheet(request, self._panel.prompts.material(request, call), self.max_calls) for request in requests]
        running = together([_on(sheet, self._steps(sheet, call)) for sheet in sheets])
        try:
            asked = next(running)
            while True:
                asked = running.send(self._panel.ask(asked, call))
        except StopIteration as stop:
            outcomes: list[Outcome] = stop.value
        if self.on_error == "raise":
            for sheet in sheets:
                if sheet.error is not None and not sheet.judged:
                    raise sheet.error
        return [sheet.scored(outcome) for sheet, outcome in zip(sheets, outcomes, strict=True)]

    def _steps(self, sheet: Sheet, call: Call) -> Steps[Outcome]:
        """The method at work on one list, within its context and budget."""
        order = tuple(range(len(sheet.request.passages)))
        random, calls = np.random.default_rng([self.seed, *sheet.request.query.encode()]), self._affordable()
        method, window, stride = self._fitted(sheet)
        if method == "groups":
            return groups(order, window, self.repeats, random)
        if method == "tournament":
            return tournament(order, window, self.repeats, random)
        k = self.k or call.top_k or self.top_k
        steps: Steps[Outcome]
        if method == "setwise":
            steps = setwise(order, window, len(order) if k is None else k)
        elif method == "bubble":
            steps = bubble(order, window, 10 if k is None else k, calls)
        elif method == "elimination":
            steps = elimination(order, window, calls)
        else:
            steps = windows(order, window, stride, calls)
        sheet.step = self.repeats
        return steps if self.repeats == 1 else repeated(steps, self.repeats, random)

    def _affordable(self) -> int | None:
        """Questions that ``max_calls`` leaves for a list."""
        return None if self.max_calls is None else max(1, self.max_calls // self.repeats)

    def _fitted(self, sheet: Sheet) -> tuple[Method, int, int]:
        """Method, window and stride that the model's context has room for; what is less than asked is noted."""
        prompts, material, count = self._panel.prompts, sheet.material, len(sheet.request.passages)
        if material.query_cut:
            sheet.notes.append(f"{material.query_cut} tokens of the query were not shown")
        if self.method == "full":
            if self._fits_whole(material, count):
                return "full", count, count
            sheet.notes.append(f"{count} passages do not fit into one prompt, so windows of {self.window} were used")
        wanted = min(self.window, count)
        window = prompts.largest_window(material, wanted)
        if window < wanted:
            sheet.notes.append(f"the context of {self.lm.context} tokens holds {window} passages at once, not {wanted}")
            return self.method, window, max(1, window // 2)
        return self.method, max(2, min(self.window, count)), min(self.stride, max(2, count))

    def _fits_whole(self, material: Material, count: int) -> bool:
        labels = len(self.template.labels)
        return (not labels or count <= labels) and self._panel.prompts.fits(material, count)


def _on(
    sheet: Sheet, steps: Steps[Outcome]
) -> Generator[Sequence[tuple[Sheet, Question]], Sequence[Verdict | None], Outcome]:
    """The same steps, each question with the list that it belongs to."""
    try:
        batch = next(steps)
        while True:
            answers = yield [(sheet, question) for question in batch]
            batch = steps.send(answers)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome


def _chosen(model: str, template: str | Template | None, method: Method | None) -> tuple[Template, Method]:
    """Template and method, each by the other where only one is given, and by the model's name where none is."""
    own = METHODS[method].reads[0] if method is not None and template is None else ""
    chosen = choose_template("listwise", model, template, among=own)
    method = method or METHOD_OF.get(chosen.read)
    if method is None or chosen.read not in METHODS[method].reads:
        raise SpecError(
            f"The template {chosen.name!r} asks for {chosen.read or 'nothing known'!r}, which method={method!r} cannot "
            f"use; leave one of the two away"
        )
    if chosen.labels and chosen.read in ("worst", "scores"):
        raise SpecError(
            f"The template {chosen.name!r} has labels, whose likelihoods order passages best first, but asks for "
            f"{chosen.read!r}; leave its labels away, or give it read='labels' and ask for the best"
        )
    return chosen, method


def _window(method: Method, template: Template, asked: int | None) -> int:
    window = asked or int(template.options.get("window", METHODS[method].window))
    if template.labels and window > len(template.labels):
        raise InputError(
            f"The template {template.name!r} has {len(template.labels)} labels, too few for a window of {window}; take "
            "a smaller window, or a template that writes numbers"
        )
    return window


def _check_meaning(method: Method, k: int | None, stride: int | None) -> None:
    """Refuse options of other methods."""
    for name, value, methods in (("k", k, ("setwise", "bubble")), ("stride", stride, ("windows", "full", "first"))):
        if value is not None and method not in methods:
            raise InputError(f"{name} is an option of {', '.join(methods)}, not of {method}")
