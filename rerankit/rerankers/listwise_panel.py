"""Putting the questions of many lists to the model at once, and keeping the books of each list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rerankit.errors import BackendError
from rerankit.models.language import Completion, GenerateOptions, LabelScores
from rerankit.rerankers.call import Call, Request, Scored
from rerankit.rerankers.listwise_prompts import Material, Prompts
from rerankit.rerankers.listwise_steps import Outcome, Question, Verdict
from rerankit.rerankers.permutations import completed, read_identifiers, read_ratings, split_reasoning

__all__ = ["Panel", "Sheet"]

PATIENCE = 3
"""Failed prompts in a row after which a list is not asked about any more."""

HIGHEST = 10.0
"""The best rating."""

SHOWN_REPLY = 60
"""Characters of an unreadable reply that the reason quotes."""


@dataclass(slots=True)
class Sheet:
    """The books of one list.

    Attributes:
        request, material: the list, and what of it is shown.
        left: prompts that may still be asked, or None for any number.
        step: prompts that one question of the method takes.
        judged: passages of which some verdict speaks.
        notes: what is less than planned from the start.
        trace: what the model wrote beside its answers.
    """

    request: Request
    material: Material
    left: int | None
    step: int = 1
    judged: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    asked: int = 0
    failed: int = 0
    unread: int = 0
    cut_off: int = 0
    short: int = 0
    repaired: int = 0
    dropped: int = 0
    missing: int = 0
    late: bool = False
    spent: bool = False
    error: BackendError | None = None
    sample: str = ""
    _in_a_row: int = 0

    def takes(self, call: Call) -> bool:
        """Whether one more prompt may be asked; counts it if so."""
        if self._in_a_row >= PATIENCE:
            return False
        self.late = self.late or call.expired
        self.spent = self.spent or self.left == 0
        if self.late or self.left == 0:
            return False
        self.left = None if self.left is None else self.left - 1
        self.asked += 1
        return True

    def put_back(self) -> None:
        """A prompt that was not asked after all, because time was up."""
        self.late = True
        self.asked -= 1
        self.left = None if self.left is None else self.left + 1

    def note_error(self, error: BackendError) -> None:
        """The prompt failed."""
        self.failed += 1
        self._in_a_row += 1
        self.error = self.error or error

    def note_reply(self, reply: str) -> None:
        """The prompt was answered; ``reply`` if nothing could be read in it."""
        self._in_a_row = 0
        if reply:
            self.unread += 1
            self.sample = self.sample or " ".join(reply.split())[:SHOWN_REPLY]

    def note_repair(self, missing: int, dropped: int) -> None:
        """Identifiers that an answer left out, and those it should not hold."""
        self.repaired += bool(missing or dropped)
        self.missing += missing
        self.dropped += dropped

    def scored(self, outcome: Outcome) -> Scored:
        """The verdict on the list."""
        count = len(self.request.passages)
        if count == 1 and not self.asked and not self.late:
            self.judged.add(0)  # a list of one has one order
        scored = np.array([i in self.judged for i in range(count)])
        scores = outcome.scores
        if scores is None:
            scores = {passage: float(count - place) for place, passage in enumerate(outcome.order)}
        self.spent = self.spent or (self.left is not None and self.left < self.step and not scored.all())
        reasons = [*self.notes, *self._reasons()]
        if not scored.all():
            reasons = [f"{'; '.join(reasons) or 'not every passage was judged'}: {count - scored.sum()} unscored"]
        repaired = (
            f"repaired {self.repaired} of {self.asked} replies: {self.missing} identifiers were missing, "
            f"{self.dropped} repeated or unknown"
        )
        return Scored(
            np.array([scores.get(i, 0.0) for i in range(count)]),
            scored,
            order=np.array(outcome.order, np.int64),
            truncated=np.array(self.material.hidden, np.int64),
            partial="; ".join(reasons),
            fell_back=not scored.any() and bool(self.failed or self.unread),
            trace=(*([repaired] if self.repaired else []), *self.trace),
        )

    def _reasons(self) -> list[str]:
        """Why the verdict is less than planned."""
        said = []
        if self.failed:
            given_up = ", and the list was given up" if self._in_a_row >= PATIENCE else ""
            said.append(f"{self.failed} of {self.asked} prompts failed{given_up} ({self.error})")
        if self.unread:
            cut_off = f"; {self.cut_off} were cut off, so raise max_tokens" if self.cut_off else ""
            said.append(
                f"{self.unread} of {self.asked} replies could not be read (the first: {self.sample!r}{cut_off})"
            )
        if self.short:
            said.append(f"{self.short} of {self.asked} replies answered less than half of what was asked")
        if self.spent:
            said.append("max_calls was spent")
        if self.late:
            said.append("the deadline passed")
        return said


class _Answer(NamedTuple):
    """What a reply holds: the verdict, or None and the reply."""

    verdict: Verdict | None
    reply: str = ""
    reasoning: str = ""
    expected: int = 0
    told: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Panel:
    """Asks one model by one template.

    Attributes:
        prompts: makes the prompts.
        window: most passages that are shown at once.
        seed: of the sampling, for templates that want some.
    """

    prompts: Prompts
    window: int
    seed: int

    def ask(self, questions: Sequence[tuple[Sheet, Question]], call: Call) -> list[Verdict | None]:
        """One verdict per question, or None: not asked, failed, or unreadable. The sheets say which."""
        asked = [(place, sheet, q) for place, (sheet, q) in enumerate(questions) if sheet.takes(call)]
        verdicts: list[Verdict | None] = [None] * len(questions)
        results = self._results([(sheet, question) for _, sheet, question in asked], call)
        for (place, sheet, question), result in zip(asked, results, strict=True):
            verdicts[place] = self._noted(sheet, question, result)
        return verdicts

    def _results(
        self, asked: Sequence[tuple[Sheet, Question]], call: Call
    ) -> Sequence[LabelScores | Completion | BackendError | None]:
        if not asked:
            return []
        prompts = [self.prompts.prompt(sheet.material, question) for sheet, question in asked]
        labels = self.prompts.template.labels
        sizes = [len(question.window) for _, question in asked]
        if labels:
            return self.prompts.lm.label_logprobs(prompts, labels[: max(self.window, *sizes)], work=call)
        limits = [self.prompts.reply_tokens(size) for size in sizes]
        results: list[Completion | BackendError | None] = [None] * len(prompts)
        for limit in sorted(set(limits)):  # nearly always one: a prompt leaves room for its own reply only
            places = [i for i, own in enumerate(limits) if own == limit]
            replies = self.prompts.lm.generate_many([prompts[i] for i in places], work=call, **self._sampling(limit))
            for i, reply in zip(places, replies, strict=True):
                results[i] = reply
        return results

    def _sampling(self, max_tokens: int) -> GenerateOptions:
        template = self.prompts.template
        options: GenerateOptions = {"max_tokens": max_tokens, "temperature": template.temperature}
        if template.temperature:
            options["seed"] = self.seed
        if (top_p := template.options.get("top_p")) is not None:
            options["top_p"] = float(top_p)
        return options

    def _noted(
        self, sheet: Sheet, question: Question, result: LabelScores | Completion | BackendError | None
    ) -> Verdict | None:
        if result is None:
            sheet.put_back()
            return None
        if isinstance(result, BackendError):
            sheet.note_error(result)
            return None
        answer = (
            self._by_labels(question, result) if isinstance(result, LabelScores) else self._by_text(question, result)
        )
        sheet.note_reply("" if answer.verdict else answer.reply or "(empty)")
        sheet.cut_off += answer.verdict is None and getattr(result, "finish_reason", "") == "length"
        if answer.reasoning:
            names = ", ".join(sheet.request.passages[i].id for i in question.places)
            sheet.trace.append(f"{names}: {answer.reasoning}")
        if answer.verdict is None:
            return None
        sheet.note_repair(max(0, answer.expected - answer.told), answer.dropped)
        sheet.short += 2 * answer.told < answer.expected
        rated = answer.verdict.ratings
        sheet.judged.update(rated if self.prompts.template.read == "scores" else question.window)
        return answer.verdict

    def _by_labels(self, question: Question, scores: LabelScores) -> _Answer:
        """The window by the likelihood of its labels; a written reply tells only the first."""
        window, said = question.window, dict(zip(question.places, scores.logprobs, strict=False))
        if scores.source == "none" or (scores.source == "text" and scores.logprobs.argmax() >= len(window)):
            return _Answer(None, scores.reply)
        order = tuple(sorted(window, key=lambda passage: -said[passage]))
        whole = scores.source == "logprobs"
        wanted = len(window) if self.prompts.template.read == "labels" else 1
        return _Answer(Verdict(order, complete=whole), expected=wanted, told=wanted if whole else 1)

    def _by_text(self, question: Question, reply: Completion) -> _Answer:
        thought, said = split_reasoning(reply.text)
        reasoning = "\n".join(part for part in (reply.reasoning.strip(), thought) if part)
        template, window, places = self.prompts.template, question.window, question.places
        names = self.prompts.names(len(window))
        if template.read == "scores":
            ratings = read_ratings(said, names, HIGHEST, template.answer)
            rated = {places[place]: value for place, value in ratings.by_place.items()}
            order = completed(sorted(rated, key=lambda passage: -rated[passage]), window)
            verdict = Verdict(order, complete=len(rated) == len(window), ratings=rated) if rated else None
            return _Answer(verdict, reply.text, reasoning, len(window), len(rated), ratings.dropped)
        reading = read_identifiers(said, names, template.answer)
        expected = {"permutation": len(window), "selection": question.pick}.get(template.read, 1)
        named = [places[place] for place in reading.named]
        if template.read in ("best", "worst"):
            named = named[:1]
        order = completed(named, window)
        if template.read == "worst":
            order = (*order[1:], *order[:1])
        complete = template.read == "permutation" and len(named) == len(window)
        return _Answer(
            Verdict(order, complete) if named else None, reply.text, reasoning, expected, len(named), reading.dropped
        )
