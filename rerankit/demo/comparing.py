"""Several rerankers on one question and one retrieval, shown blind, and the vote between their answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerankit.demo.choice import Choice
from rerankit.demo.desk import Desk
from rerankit.demo.html import linked, milliseconds, note, text
from rerankit.demo.view import figures
from rerankit.errors import InputError
from rerankit.evaluation.arena import Arena, Ballot
from rerankit.evaluation.ratings import Ratings
from rerankit.rag.answer import Answer
from rerankit.rag.citations import PLAIN_MARK
from rerankit.rag.context import pack
from rerankit.rag.extractive import ExtractiveGenerator
from rerankit.types import Ranking

__all__ = ["Comparison", "compare", "leaderboard", "revealed", "shown_blind"]

FEWEST, MOST = 2, 4
SAME = "No difference"
_TOP = 10


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one reranker led to."""

    ranking: Ranking
    answer: Answer
    rerank_s: float
    answer_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """All of them, and the ballot; no ballot where all answers are the same."""

    question: str
    outcomes: Mapping[str, Outcome]
    ballot: Ballot | None

    @property
    def letters(self) -> list[str]:
        """What the answers on the ballot are called."""
        return [chr(ord("A") + place) for place in range(len(self.ballot.answers))] if self.ballot else []


def compare(desk: Desk, arena: Arena, question: str, names: Sequence[str], depth: int, top_k: int) -> Comparison:
    """Retrieve once, rerank and answer with each.

    Raises:
        RerankitError: the question or a choice is wrong, or a stage failed.
    """
    question = desk.check_question(question)
    chosen = list(dict.fromkeys(names))
    if not FEWEST <= len(chosen) <= MOST:
        raise InputError(f"Choose {FEWEST} to {MOST} rerankers to compare; {len(chosen)} are chosen.")
    if unknown := [name for name in chosen if name not in desk.settings.rerankers]:
        raise InputError(f"There is no reranker {unknown[0]!r:.80} here")
    Choice(chosen[0], depth, top_k).check(desk.settings)
    candidates = desk.corpus.retrieve(question, k=depth)
    writer = ExtractiveGenerator()
    outcomes = {}
    for name in chosen:
        reranker = desk.reranker(name)
        started = time.perf_counter()
        ranking = reranker.rank(question, candidates, top_k=max(1, depth), deadline_s=desk.settings.limits.seconds)
        ranked = time.perf_counter()
        answer = writer.generate(question, pack(ranking.hits, limit=top_k))
        outcomes[name] = Outcome(ranking, answer, ranked - started, time.perf_counter() - ranked)
    return Comparison(question, outcomes, _ballot(arena, outcomes))


def _ballot(arena: Arena, outcomes: Mapping[str, Outcome]) -> Ballot | None:
    # Without citation marks: their numbers are places in each reranker's own order.
    answers = {name: PLAIN_MARK.sub("", outcome.answer.text).strip() for name, outcome in outcomes.items()}
    if len(set(answers.values())) < FEWEST:
        return None
    return arena.ballot(answers, k=len(answers))


def shown_blind(comparison: Comparison) -> str:
    """The answers without names, in the ballot's random order."""
    if comparison.ballot is None:
        return note("All of them led to the same answer, so there is nothing to vote on. The orders differ as below.")
    cards = [
        f'<section class="rk-card"><h3>{letter}</h3><p dir="auto">{text(answer)}</p></section>'
        for letter, answer in zip(comparison.letters, comparison.ballot.answers, strict=True)
    ]
    left_out = len(comparison.outcomes) - len(cards)
    same = note(f"{left_out} of the rerankers gave one of these answers too.") if left_out else ""
    return f'<div class="rk-cards">{"".join(cards)}</div>{same}'


def order_of(comparison: Comparison, choice: str) -> list[list[int]]:
    """A visitor's choice as the arena takes it.

    Raises:
        InputError: it is none of those offered.
    """
    if choice == SAME:
        return [list(range(len(comparison.letters)))]
    if choice not in comparison.letters:
        raise InputError("Choose one of the answers, or that there is no difference, and then vote.")
    return [[comparison.letters.index(choice)]]


def revealed(comparison: Comparison) -> str:
    """Names, orders, times and differences."""
    rows, ballot = {}, comparison.ballot
    letters = dict(zip(ballot.arms, comparison.letters, strict=True)) if ballot else {}
    first = next(iter(comparison.outcomes.values())).ranking
    for name, outcome in comparison.outcomes.items():
        shared = len({hit.prior_rank for hit in outcome.ranking[:_TOP]} & {hit.prior_rank for hit in first[:_TOP]})
        rows[name] = [
            letters.get(name, ""),
            milliseconds(outcome.rerank_s),
            milliseconds(outcome.answer_s),
            f"{shared} of {len(first[:_TOP])}",
        ]
    name = next(iter(comparison.outcomes))
    table = figures(rows, ("Reranker", "Answer", "Reranking", "Writing", f"Same top {_TOP} as {name}"))
    cards = "".join(_card(name, outcome, letters.get(name, "")) for name, outcome in comparison.outcomes.items())
    return f'{table}<div class="rk-cards">{cards}</div>'


def _card(name: str, outcome: Outcome, letter: str) -> str:
    items = "".join(
        f'<li><span class="rk-rank">{hit.rank}</span><bdi class="rk-title">'
        f'{text(hit.passage.title or hit.text[:80])}</bdi><span class="rk-move">was {hit.prior_rank}</span></li>'
        for hit in outcome.ranking[:_TOP]
    )
    answer = linked(outcome.answer.text, {})
    return (
        f'<section class="rk-card"><h3>{text(f"{letter} " if letter else "")}{text(name)}</h3>'
        f'<p dir="auto">{answer}</p><ol class="rk-list">{items}</ol></section>'
    )


def leaderboard(ratings: Ratings, votes: int) -> str:
    """Ratings from all votes so far, with their uncertainty."""
    if not votes:
        return note("No votes yet.")
    rows = {}
    for name in ratings.leaderboard():
        low, high = ratings.interval(name)
        rows[name] = [f"{ratings.strengths[ratings.arms.index(name)]:+.2f}", f"{low:+.2f} to {high:+.2f}"]
    word = "vote" if votes == 1 else "votes"
    return f"<h3>After {votes} {word}</h3>" + figures(rows, ("Reranker", "Log-strength", "95 % interval"))
