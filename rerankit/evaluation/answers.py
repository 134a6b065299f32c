"""Metrics of answers that need no language model: words, facts, citations, and when to stay silent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rerankit.errors import InputError
from rerankit.evaluation.datasets import Question
from rerankit.rag.answer import Answer

__all__ = ["AbstentionQuality", "abstention_quality", "answer_metrics", "exact_match", "key_fact_recall", "token_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CITATION = re.compile(r"\s*\[\d+\]")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without citation marks, punctuation and English articles, single spaces (as SQuAD's script does)."""
    plain = _CITATION.sub(" ", text).lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals a reference after normalising, else 0."""
    return float(any(normalise(answer) == normalise(reference) for reference in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Best F1 over the references of the words shared (Rajpurkar et al., EMNLP 2016)."""
    return max((_f1(normalise(answer).split(), normalise(reference).split()) for reference in references), default=0.0)


def _f1(found: list[str], wanted: list[str]) -> float:
    shared = sum((Counter(found) & Counter(wanted)).values())
    if not shared:
        return float(not found and not wanted)
    precision, recall = shared / len(found), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def key_fact_recall(answer: str, facts: Sequence[str]) -> float:
    """Share of the key facts whose words stand in the answer, in a row."""
    if not facts:
        raise InputError("key_fact_recall needs at least one fact")
    text = f" {normalise(answer)} "
    return sum(f" {normalise(fact)} " in text for fact in facts) / len(facts)


def answer_metrics(answer: Answer, question: Question, grades: Mapping[str, int]) -> dict[str, float]:
    """What can be said of one answer to an answerable question.

    Keys: ``exact_match`` and ``token_f1`` where there are references, ``key_fact_recall`` where there are facts (else
    the references stand in as facts), ``citation_precision`` (share of citations that point to a relevant passage; 0
    without citations), ``citation_recall`` (1 if any relevant passage of the best grade is cited) and ``answered``.
    An abstention scores 0 in all of them.
    """
    text = "" if answer.abstained else answer.text
    metrics = {"answered": float(not answer.abstained)}
    if question.answers:
        metrics["exact_match"] = exact_match(text, question.answers) if text else 0.0
        metrics["token_f1"] = token_f1(text, question.answers)
    if facts := question.key_facts or question.answers:
        metrics["key_fact_recall"] = (
            key_fact_recall(text, facts) if question.key_facts else max(key_fact_recall(text, [fact]) for fact in facts)
        )
    if grades:
        cited = [] if answer.abstained else [citation.passage_id for citation in answer.citations]
        relevant = [grades.get(name, 0) > 0 for name in cited]
        best = max(grades.values())
        metrics["citation_precision"] = sum(relevant) / len(relevant) if relevant else 0.0
        metrics["citation_recall"] = float(best > 0 and any(grades.get(name, 0) == best for name in cited))
    return metrics


@dataclass(frozen=True, slots=True)
class AbstentionQuality:
    """How well silence was chosen, over questions with and without an answer in the corpus.

    Attributes:
        answered_answerable: share of answerable questions that were answered.
        abstained_unanswerable: share of unanswerable questions that were met with silence; None if there are none.
        balanced_accuracy: mean of the two.
    """

    answered_answerable: float | None
    abstained_unanswerable: float | None

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the two shares, or None if one is missing."""
        if self.answered_answerable is None or self.abstained_unanswerable is None:
            return None
        return (self.answered_answerable + self.abstained_unanswerable) / 2


def abstention_quality(abstained: Mapping[str, bool], questions: Mapping[str, Question]) -> AbstentionQuality:
    """Judge the choice to answer or not, per question id."""
    answerable = [not silent for name, silent in abstained.items() if questions[name].answerable]
    unanswerable = [silent for name, silent in abstained.items() if not questions[name].answerable]
    return AbstentionQuality(_share(answerable), _share(unanswerable))


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
