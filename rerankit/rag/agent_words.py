"""What the assistant says itself: answers put together from quotes, refusals, and questions back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rerankit.rag.agent_run import Aspect
from rerankit.rag.answer import Answer
from rerankit.rag.context import Context
from rerankit.rag.conversation import content_words
from rerankit.rag.extractive import ABSTENTION, ExtractiveGenerator
from rerankit.rag.terms import terms
from rerankit.rag.vocabulary import Vocabulary
from rerankit.types import Usage

__all__ = ["joined", "lacking", "missing_words", "options", "other_words", "question_back", "refusal"]

_GENERAL = 2  # content words of a question that can mean several things
_OPTIONS = 3  # passages that must share all of them


def joined(aspects: Sequence[Aspect], context: Context, judge: ExtractiveGenerator) -> Answer:
    """Quotes for every aspect that is answered, from one context; a line names the aspects that are not."""
    if len(aspects) == 1 and aspects[0].judged is not None:
        return aspects[0].judged
    found = [(aspect, judge.generate(aspect.text, context)) for aspect in aspects]
    answers = [answer for _, answer in found if not answer.abstained] or [found[0][1]]
    open_ = [aspect.text for aspect, answer in found if answer.abstained]
    texts = list(dict.fromkeys(answer.text for answer in answers))
    if open_ and len(open_) < len(found):
        texts.append(f"The documents do not seem to answer: {' / '.join(open_)}")
    return dataclasses.replace(
        answers[0],
        text=" ".join(texts),
        citations=tuple(dict.fromkeys(citation for answer in answers for citation in answer.citations)),
        confidence=max(answer.confidence or 0.0 for answer in answers),
        usage=sum((answer.usage for _, answer in found), Usage()),
    )


def missing_words(question: str, context: Context) -> tuple[str, ...]:
    """Content words of ``question`` that no block of ``context`` holds, in order."""
    held = {term for block in context.blocks for term in terms(f"{block.passage.title} {block.text}")}
    return tuple(dict.fromkeys(word for word in content_words(question) if not held.issuperset(terms(word))))


def lacking(missing: Sequence[str]) -> str:
    """One sentence on what no passage holds; empty if there is nothing to say."""
    return f"No passage that was found mentions: {', '.join(missing)}." if missing else ""


def other_words(aspect: Aspect, vocabulary: Vocabulary | None = None) -> str:
    """Another query: content words, the usual names of what they name, and the titles that came nearest."""
    usual = vocabulary.kinds(aspect.text) if vocabulary else []
    titles = " ".join(hit.passage.title for hit in aspect.ranking[:2])
    return " ".join(dict.fromkeys([*content_words(aspect.text), *usual, *content_words(titles)]))


def refusal(aspects: Sequence[Aspect], missing: Sequence[str]) -> Answer:
    """The admission, with what is missing and the nearest sentence."""
    best = max(aspects, key=lambda aspect: aspect.probability)
    nearest = best.judged or Answer(ABSTENTION, abstained=True)
    given_up = [aspect.decision.text for aspect in aspects if aspect.decision.tool == "give_up"]
    said = f"Missing: {'; '.join(given_up)}." if given_up else lacking(missing if best.candidates else ())
    if not said:
        return dataclasses.replace(nearest, abstained=True)
    text = nearest.text.replace(ABSTENTION, f"{ABSTENTION} {said}", 1)
    return dataclasses.replace(nearest, text=text, abstained=True, reason=f"{nearest.reason}. {said}".lstrip(". "))


def options(question: str, context: Context) -> list[str]:
    """Titles of the passages that a very general question fits alike; none if it is not that general.

    It is if it has at most two content words and passages of three or more titles hold them all.
    """
    words = set(terms(" ".join(content_words(question))))
    if not 0 < len(words) <= _GENERAL:
        return []
    held = [(block, set(terms(f"{block.passage.title} {block.text}"))) for block in context.blocks]
    fitting = (block.passage.title for block, found in held if words <= found)
    titles = [title for title in dict.fromkeys(fitting) if title]
    return titles if len(titles) >= _OPTIONS else []


def question_back(titles: Sequence[str]) -> str:
    """Asks which one is meant; empty if there is nothing to choose from."""
    if not titles:
        return ""
    return "That can mean several things. Which of these is it about, or what else? " + "; ".join(titles) + "."
