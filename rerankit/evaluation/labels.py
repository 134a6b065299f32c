"""Relevance labels made by a language model: not relevant, related, answers.

Every passage is judged alone, so its place in a list cannot matter. A reply counts only if it is exactly the JSON
object asked for; one that is not is asked for once more, and then the passage is marked as failed. Nothing is guessed.
Labels of a model are no ground truth: hold them against human ones (:mod:`rerankit.evaluation.agreement`) before they
decide anything.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rerankit.checks import check_choice, check_whole
from rerankit.errors import BackendError, InputError
from rerankit.evaluation.judge import read_object
from rerankit.evaluation.labels_file import LabelFile, Pool, Verdict
from rerankit.evaluation.labels_templates import GRADES, TEMPLATES
from rerankit.models.language import Completion, LanguageModel
from rerankit.models.prompt import ChatPrompt, Data, RawPrompt
from rerankit.models.templates import Template
from rerankit.models.work import Work
from rerankit.rag.prompts import neutral
from rerankit.types import Passage, Usage

__all__ = ["Labelled", "Labeller", "Pool", "read_verdict"]

logger = logging.getLogger(__name__)

_AGAIN = (
    "\n\nAn earlier reply to this could not be read. Reply with the JSON object alone, in exactly the form asked for."
)
_LONGEST_REASON = 500
_HOPELESS = (401, 403, 404)
_PATIENCE = 10  # failures of the server in a row, each tried several times, after which it counts as down


@dataclass
class Labelled:
    """What came of it.

    Attributes:
        new: labels made by this call.
        known: labels that the file had before.
        failed: per reason, passages that got no label in this call.
        cut: passages that were too long and judged by their beginning.
        usage: seconds, requests, tokens and money.
    """

    new: int = 0
    known: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    cut: int = 0
    usage: Usage = field(default_factory=Usage)


class Labeller:
    """Lets a language model label passages.

    Args:
        lm: the model.
        template: ``grades``, ``reasons`` (a sentence before each grade), or a template of one's own with the places
            ``{query}``, ``{passage}`` and ``{fence}``, whose ``options["schema"]`` names the keys of the reply.
        instruction: what counts as relevant here, added to the template's rules.
        max_tokens: longest reply, reasoning included; by default the template's. No part of what labels are known by.
        at_once: passages asked about before anything is written; whole queries, so a query may exceed it.

    Raises:
        InputError: no template has that name, a template has no schema, or a number is below 1.
    """

    def __init__(
        self,
        lm: LanguageModel,
        template: str | Template = "grades",
        *,
        instruction: str | None = None,
        max_tokens: int | None = None,
        at_once: int = 32,
    ) -> None:
        check_whole(1, at_once=at_once)
        check_whole(1, or_none=True, max_tokens=max_tokens)
        if isinstance(template, str):
            check_choice("template", template, TEMPLATES, InputError)
            template = TEMPLATES[template]
        if "grade" not in template.options.get("schema", {}).get("properties", {}):
            raise InputError(f"The template {template.name!r} has no options['schema'] with a property 'grade'")
        self.lm, self.at_once, self.max_tokens = lm, at_once, max_tokens or template.max_tokens
        self.template = template if instruction is None else dataclasses.replace(template, instruction=instruction)
        self._firmer = dataclasses.replace(self.template, user=self.template.user + _AGAIN)

    def label(
        self, pools: Iterable[Pool], path: str | Path, *, progress: Callable[[int], None] = lambda _: None
    ) -> Labelled:
        """Label what the file does not hold yet, and append it there, query by query.

        Failed passages are tried again by the next call.

        Args:
            pools: queries and passages; ids must differ between queries.
            path: the jsonl file, see :mod:`rerankit.evaluation.labels_file`.
            progress: called with the number of passages that are done with.

        Raises:
            BackendError: the endpoint refuses the key or the model, is down, or answered no request at all. What it
                said before is in the file.
            InputError: the file holds something else.
            StoreError: the file cannot be written.
        """
        file = LabelFile(path, self.lm.model_id, self.template.fingerprint)
        made, work, outage, started = Labelled(), Work(), _Outage(), time.monotonic()
        for batch in self._batches(pools, file, made, progress):
            pairs = [(pool, passage) for pool, passages in batch for passage in passages]
            judged = self._judge(pairs, made, work, outage)
            made.usage = _usage(work, time.monotonic() - started)
            if all(verdict.grade is None for verdict in judged):
                outage.check()
            verdicts = iter(judged)
            for pool, passages in batch:
                said = [(passage, next(verdicts)) for passage in passages]
                file.add(pool, said)
                _count(made, [verdict for _, verdict in said])
                progress(len(said))
            outage.check()
        if outage.last is not None and not file.count:
            raise outage.last
        return made

    def _batches(
        self, pools: Iterable[Pool], file: LabelFile, made: Labelled, progress: Callable[[int], None]
    ) -> Iterator[list[tuple[Pool, list[Passage]]]]:
        """Whole queries with ``at_once`` or more passages that have no label yet."""
        batch: list[tuple[Pool, list[Passage]]] = []
        for pool in pools:
            missing = file.claim(pool)
            made.known += (known := len(pool.passages) - len(missing))
            progress(known)
            if missing:
                batch.append((pool, missing))
            if sum(len(passages) for _, passages in batch) >= self.at_once:
                yield batch
                batch = []
        if batch:
            yield batch

    def _judge(
        self, pairs: Sequence[tuple[Pool, Passage]], made: Labelled, work: Work, outage: _Outage
    ) -> list[Verdict]:
        """One verdict per pair, in order; a reply that cannot be read is asked for a second time."""
        verdicts = [Verdict(None, error="an empty passage")] * len(pairs)
        texts = [_cut(self.lm, _shown(passage), self.template.passage_tokens) for _, passage in pairs]
        made.cut += sum(len(text) < len(_shown(p)) for text, (_, p) in zip(texts, pairs, strict=True))
        places = [i for i, text in enumerate(texts) if text.strip()]
        for template in (self.template, self._firmer):
            prompts = [self._prompt(template, pairs[i][0].query, texts[i]) for i in places]
            for i, reply in zip(places, self._ask(prompts, work), strict=True):
                outage.note(reply)
                verdicts[i] = self._read(reply)
            places = [i for i in places if verdicts[i].error in (_UNREADABLE, _CUT_OFF)]
        return verdicts

    def _ask(self, prompts: Sequence[ChatPrompt | RawPrompt], work: Work) -> list[Completion | BackendError | None]:
        if not prompts:
            return []
        template = self.template
        return self.lm.generate_many(
            prompts,
            work=work,
            max_tokens=self.max_tokens,
            temperature=template.temperature,
            json_schema=template.options["schema"],
        )

    def _read(self, reply: Completion | BackendError | None) -> Verdict:
        if not isinstance(reply, Completion):
            return Verdict(None, error=_what_came(reply))
        verdict = read_verdict(reply.text, tuple(self.template.options["schema"]["properties"]))
        if verdict.grade is None:
            logger.debug("No grade in the reply %.200r", reply.text)
            if reply.finish_reason == "length":
                return Verdict(None, error=_CUT_OFF)
        return verdict

    def _prompt(self, template: Template, query: str, text: str) -> ChatPrompt | RawPrompt:
        """Query and passage are data between marks that neither can know."""
        clean = functools.partial(neutral, marks=False)
        query, text = clean(_cut(self.lm, query, template.query_tokens)), clean(text)
        fence = hashlib.sha256(f"{query}\0{text}".encode("utf-8", "replace")).hexdigest()[:12]
        return template.prompt({"query": Data(query), "passage": Data(text), "fence": fence})


class _Outage:
    """Notices when the server is down or does not want us, so that nobody waits for the end to learn it."""

    def __init__(self) -> None:
        self.last: BackendError | None = None
        self._row = 0
        self._hopeless = False

    def note(self, reply: Completion | BackendError | None) -> None:
        if isinstance(reply, BackendError):
            logger.debug("%s", reply)
            self.last = self.last if self._hopeless else reply
            self._hopeless = self._hopeless or reply.status in _HOPELESS
            self._row += reply.retryable
        else:
            self._row = 0

    def check(self) -> None:
        """Raise what the server said, if there is no use in going on."""
        if self.last is not None and (self._hopeless or self._row >= _PATIENCE):
            raise self.last


_UNREADABLE = "not the JSON object asked for"
_CUT_OFF = "a reply without an end: allow longer ones (max_tokens)"


def _what_came(error: BackendError | None) -> str:
    """Why there is no reply, in words that are the same for many; what a server says of an error seldom is."""
    if error is not None and error.status == 200:
        return error.message[:200]
    return "no answer from the server" + (f" (HTTP {error.status})" if error is not None and error.status else "")


def read_verdict(reply: str, keys: Sequence[str] = ("grade",)) -> Verdict:
    """The verdict in a reply that consists of one JSON object with exactly these keys; else one without a grade."""
    found = read_object(reply)
    if found is None or set(found) != set(keys):
        return Verdict(None, error=_UNREADABLE)
    grade, reason = found["grade"], found.get("reason", "")
    if type(grade) is not int or grade not in GRADES or not isinstance(reason, str):
        return Verdict(None, error=_UNREADABLE)
    return Verdict(grade, " ".join(reason.split())[:_LONGEST_REASON])


def _count(made: Labelled, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        if verdict.grade is None:
            made.failed[verdict.error] = made.failed.get(verdict.error, 0) + 1
        else:
            made.new += 1


def _usage(work: Work, seconds: float) -> Usage:
    """Without what only local models and caches count."""
    meter = work.meter
    return Usage(seconds, 0, meter.input_tokens, meter.output_tokens, meter.llm_calls, cost=meter.cost)


def _shown(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text


def _cut(lm: LanguageModel, text: str, limit: int | None) -> str:
    return text if limit is None else lm.cut(text, limit)
