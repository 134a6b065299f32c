"""Reranker: everything that all families share, once.

A family implements one hook. List-wise families subclass :class:`Reranker` and implement ``score_lists``; families
whose score of a passage depends on the query and that passage alone subclass :class:`PointwiseReranker` (in
``pairs.py``) and implement ``score_pairs``. The rest, from input checks to tracing, lives here:

* the permutation law: every candidate comes back exactly once, by position; ``top_k`` cuts only the returned view;
* duplicates are scored once and fanned out; empty passages get the list's floor score, last place and a mark;
* ties keep the input order;
* non-finite scores are tried once more in float32, then refused with the passage's name;
* ``on_error="keep_order"`` returns the input order with status ``fallback`` and the reason;
* a deadline returns the best order so far, the unscored tail in input order and marked.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import functools
import logging
import operator
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypedDict

import numpy as np

from rerankit.checks import check_choice
from rerankit.errors import InputError, ModelError
from rerankit.models.work import deadline_after
from rerankit.rerankers.call import Call, Request, Scored, split_usage
from rerankit.rerankers.prepare import Prepared, prepare
from rerankit.rerankers.results import build_ranking, fallback_ranking, non_finite, validated
from rerankit.rerankers.tracing import rerank_span
from rerankit.rerankers.worker import Worker
from rerankit.types import Passage, Ranking

if TYPE_CHECKING:
    from rerankit.rerankers.calibration import Calibrator
    from rerankit.rerankers.compose import Cascade

logger = logging.getLogger(__name__)

Candidates = Sequence[Passage | str]
OnError = Literal["raise", "keep_order"]


class RerankerOptions(TypedDict, total=False):
    """Keyword options that every family takes.

    Attributes:
        top_k: how many hits to return when ``rank`` is not told; None returns all.
        on_error: ``raise``, or ``keep_order`` to return the input order with the reason.
        calibrator: a fitted :class:`~rerankit.rerankers.calibration.Calibrator`, or the file it was saved to.
    """

    top_k: int | None
    on_error: OnError
    calibrator: Calibrator | str | Path | None


class Reranker(ABC):
    """Orders a list of passages for a query.

    Attributes:
        model: names family, model and revision; what ``Ranking.model`` says.
        scale: the meaning of a score.
        fingerprint: everything that the score of a text depends on; score caches are bound to it.
    """

    model: str
    scale: str
    by_text: ClassVar[bool] = True
    """The order depends on query, titles and texts alone, so equal texts may be merged."""
    rearranges: bool = False
    """It only reorders: in a cascade its hits keep score, evidence and all else from the stage before."""

    def __init__(
        self,
        *,
        top_k: int | None = None,
        on_error: OnError = "raise",
        calibrator: Calibrator | str | Path | None = None,
    ) -> None:
        check_choice("on_error", on_error, ("raise", "keep_order"))
        self.top_k = _checked_top_k(top_k)
        self.on_error: OnError = on_error
        self._calibrator_source = calibrator
        self._worker = Worker()

    @abstractmethod
    def score_lists(self, requests: Sequence[Request], call: Call) -> Sequence[Scored]:
        """The hook: judge each request; one :class:`Scored` per request, in their order.

        Every request holds at least one passage. Implementations look at ``call.deadline`` between pieces of work.
        """

    @property
    def fingerprint(self) -> str:
        """Everything that the score of a text depends on."""
        return self.model

    @property
    def passage_fingerprint(self) -> str:
        """Everything that the score of a whole passage depends on; calibrators and composites are bound to it."""
        return self.fingerprint

    @functools.cached_property
    def calibrator(self) -> Calibrator | None:
        """The calibrator, checked against this model.

        Raises:
            ModelError: it was fitted for another model, revision or setting.
        """
        if self._calibrator_source is None:
            return None
        from rerankit.rerankers.calibration import Calibrator

        source = self._calibrator_source
        fitted = source if isinstance(source, Calibrator) else Calibrator.load(source)
        fitted.check(self.passage_fingerprint)
        return fitted

    def rank(
        self, query: str, passages: Candidates, *, top_k: int | None = None, deadline_s: float | None = None
    ) -> Ranking:
        """Order ``passages`` for ``query``.

        Args:
            query: the question; not empty.
            passages: candidates in first-stage order, as passages or plain strings.
            top_k: how many hits to return; None means the reranker's own default, else all.
            deadline_s: seconds from now; what is not scored by then comes last, marked ``unscored``.

        Raises:
            InputError: query or passages are unusable.
            RerankitError: the model failed and ``on_error`` is ``raise``.
        """
        return self.rank_many([(query, passages)], top_k=top_k, deadline_s=deadline_s)[0]

    def rank_many(
        self,
        requests: Sequence[tuple[str, Candidates]],
        *,
        top_k: int | None = None,
        deadline_s: float | None = None,
    ) -> list[Ranking]:
        """Order many lists in one call, batching across them; one ranking per request, in their order.

        Arguments and errors are those of :meth:`rank`.
        """
        return self._rank_until(requests, top_k, deadline_after(deadline_s))

    def rank_whole(
        self,
        requests: Sequence[tuple[str, Candidates]],
        deadline: float | None,
        cancelled: threading.Event | None = None,
    ) -> list[Ranking]:
        """For composites: :meth:`rank_many` up to ``time.monotonic() == deadline``, whatever the default view."""
        return self._rank(requests, None, deadline, cancelled)

    async def arank(
        self, query: str, passages: Candidates, *, top_k: int | None = None, deadline_s: float | None = None
    ) -> Ranking:
        """:meth:`rank` without blocking the event loop."""
        return (await self.arank_many([(query, passages)], top_k=top_k, deadline_s=deadline_s))[0]

    async def arank_many(
        self,
        requests: Sequence[tuple[str, Candidates]],
        *,
        top_k: int | None = None,
        deadline_s: float | None = None,
    ) -> list[Ranking]:
        """:meth:`rank_many` on this reranker's one worker thread.

        The deadline counts from the call, so time spent waiting for the worker is part of it. A task cancelled while
        it waits never reaches the model; one cancelled at work stops at the model's next batch or request.
        """
        deadline, cancelled = deadline_after(deadline_s), threading.Event()
        context = contextvars.copy_context()
        job = functools.partial(context.run, self._rank_until, requests, top_k, deadline, cancelled)
        try:
            return await asyncio.wrap_future(self._worker.submit(job))
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def __getitem__(self, view: slice) -> Self:
        """``reranker[:10]``: the same reranker and model, returning ten hits (or its fewer) unless told otherwise."""
        if not isinstance(view, slice) or view.start not in (None, 0) or view.step not in (None, 1):
            raise InputError(f"A reranker is sliced from the front, reranker[:k]; got {view!r}")
        other = copy.copy(self)
        asked = _checked_top_k(view.stop)
        other.top_k = min((k for k in (self.top_k, asked) if k is not None), default=None)
        return other

    def __or__(self, other: Reranker) -> Cascade:
        """``first[:30] | second``: the second stage reorders what the first one lets through."""
        from rerankit.rerankers.compose import Cascade

        if not isinstance(other, Reranker):
            return NotImplemented
        return Cascade([self, other])

    def close(self) -> None:
        """Stop the worker thread and free the model; the reranker and its views are not used after that."""
        self._worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        view = f"[:{self.top_k}]" if self.top_k is not None else ""
        return f"<{type(self).__name__} {self.model}{view}>"

    def _rank_until(
        self,
        requests: Sequence[tuple[str, Candidates]],
        top_k: int | None,
        deadline: float | None,
        cancelled: threading.Event | None = None,
    ) -> list[Ranking]:
        return self._rank(requests, self.top_k if top_k is None else _checked_top_k(top_k), deadline, cancelled)

    def _rank(
        self,
        requests: Sequence[tuple[str, Candidates]],
        view: int | None,
        deadline: float | None,
        cancelled: threading.Event | None,
    ) -> list[Ranking]:
        started = time.monotonic()
        _ = self.calibrator  # one that does not fit is a mistake in the set-up: say so before the model works
        checked = _checked_requests(requests)
        prepared = [prepare(query, passages, by_text=self.by_text) for query, passages in checked]
        with rerank_span(self.model, [item.query for item in prepared], view) as record:
            call = Call(deadline=deadline, cancelled=cancelled or threading.Event(), top_k=view)
            outcomes = self._judge([item.request for item in prepared], call)
            shares = [len(item.request.passages) for item in prepared]
            usages = split_usage(call.meter, time.monotonic() - started, shares) if prepared else []
            rankings = [
                self._ranking(item, outcome).with_usage(usage)
                for item, outcome, usage in zip(prepared, outcomes, usages, strict=True)
            ]
            record(rankings)
        return [ranking if view is None else ranking[:view] for ranking in rankings]

    def _ranking(self, item: Prepared, outcome: Scored | Exception) -> Ranking:
        if isinstance(outcome, Exception):
            logger.warning("%s failed, keeping the input order: %s", self.model, outcome)
            return fallback_ranking(item, self.model, self.scale, outcome)
        return build_ranking(item, outcome, self.model, self.scale, self.calibrator)

    def _judge(self, requests: Sequence[Request], call: Call) -> list[Scored | Exception]:
        """Run the hook for the requests that hold anything, each with its outcome or, under keep_order, its error."""
        busy = [i for i, request in enumerate(requests) if request.passages]
        outcomes: list[Scored | Exception] = [Scored(np.empty(0))] * len(requests)
        if not busy:
            return outcomes
        try:
            results: Sequence[Scored | Exception] = self._attempt([requests[i] for i in busy], call)
        except Exception as error:  # whatever a model or an endpoint throws, keep_order promises an answer
            if self.on_error == "raise":
                raise
            alone = [[requests[i]] for i in busy] if len(busy) > 1 else []
            results = [self._attempt_alone(one, call) for one in alone] or [error]
        for i, result in zip(busy, results, strict=True):
            outcomes[i] = result
        return outcomes

    def _attempt_alone(self, request: Sequence[Request], call: Call) -> Scored | Exception:
        """One request of a failed batch, so that only the guilty one loses its order."""
        try:
            return self._attempt(request, call)[0]
        except Exception as error:
            return error

    def _attempt(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        """The hook, checked, with the one retry in float32."""
        results = self._checked(requests, call)
        bad = [i for i, result in enumerate(results) if non_finite(result) is not None]
        if not bad:
            return results
        logger.warning(
            "%s gave non-finite scores for %d of %d lists; trying float32", self.model, len(bad), len(results)
        )
        again = self._checked([requests[i] for i in bad], replace(call, float32=True))
        for i, result in zip(bad, again, strict=True):
            if (position := non_finite(result)) is not None:
                culprit = requests[i].passages[position]
                raise ModelError(
                    f"{self.model} gave the score {result.scores[position]} for passage {culprit.id!r} "
                    f"(query {requests[i].query!r:.80}), in float32 too. Check the checkpoint, or leave it out."
                )
            results[i] = result
        return results

    def _checked(self, requests: Sequence[Request], call: Call) -> list[Scored]:
        results = list(self.score_lists(requests, call))
        if len(results) != len(requests):
            raise ModelError(f"{self.model} answered {len(results)} lists when asked for {len(requests)}")
        return [
            validated(result, len(request.passages), self.model)
            for request, result in zip(requests, results, strict=True)
        ]


def _checked_top_k(top_k: int | None) -> int | None:
    if top_k is None:
        return None
    if isinstance(top_k, bool) or not hasattr(top_k, "__index__") or (number := operator.index(top_k)) < 1:
        raise InputError(f"top_k must be a positive whole number or None, got {top_k!r}")
    return number


def _checked_requests(requests: Sequence[tuple[str, Candidates]]) -> list[tuple[str, Candidates]]:
    try:
        return [(query, passages) for query, passages in requests]
    except (TypeError, ValueError) as error:
        raise InputError("rank_many takes a list of (query, passages) pairs") from error
