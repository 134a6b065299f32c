"""What an extractive reader learns from: questions with the spans that answer them, or with the fact that none does.

From test collections (see :mod:`rerankit.evaluation.datasets`): the answer is looked for in the relevant passages.
Where a collection has no answer strings, or they cannot be found, all that is known is that the passage answers; where
its passages are single sentences, each is read among its neighbours and is itself the region that holds the answer.
Or from jsonl of ``{"question", "context", "answers": [text, ...]}`` (optionally ``title``): no answers, no answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rerankit.checks import check_whole
from rerankit.errors import InputError
from rerankit.evaluation.datasets import Dataset, Question, open_dataset
from rerankit.evaluation.formats import read_jsonl, text_field
from rerankit.rag.sentences import sentences
from rerankit.types import Passage

__all__ = ["ReaderExample", "normalised", "read_examples", "texts_of"]

NEIGHBOURS = 3
"""Single sentences are read with so many of their neighbours on either side, at most."""


@dataclass(frozen=True, slots=True)
class ReaderExample:
    """A question about a passage.

    Attributes:
        question: the question.
        context: the passage's text.
        title: its title.
        spans: characters of the context: each occurrence of an answer; none if the passage does not answer.
        exact: the spans are answers; else one region, in which the answer is somewhere.
        known: texts that are known to answer the question, wherever they stand.
    """

    question: str
    context: str
    title: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    exact: bool = True
    known: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The texts of the spans, each once."""
        return tuple(dict.fromkeys(self.context[start:end] for start, end in self.spans))


def read_examples(
    source: str | Path,
    *,
    corpus: str | Path | None = None,
    split: str = "train",
    count: int | None = None,
    exclude: Collection[str] = frozenset(),
    seed: int = 0,
) -> list[ReaderExample]:
    """Examples of one source; of a collection, answerable ones only.

    Args:
        source: a test collection, or a jsonl file.
        corpus: passages for a file of questions.
        split: of a collection with several.
        count: most examples; drawn at random, those with a marked answer first.
        exclude: from :func:`texts_of`: examples with such a question or passage are left out.
        seed: of the draw.

    Raises:
        InputError: the source cannot be read, or holds no example.
    """
    check_whole(0, seed=seed)
    check_whole(1, or_none=True, count=count)
    random = np.random.default_rng(seed)
    path = Path(source).expanduser()
    if path.is_file() and corpus is None:
        found = list(_from_file(path))
    else:
        found = list(_from_dataset(open_dataset(source, split=split, corpus=corpus), random))
    kept = [one for one in _knowing(found) if not {normalised(one.question), normalised(one.context)} & set(exclude)]
    if not kept:
        raise InputError(f"{source} has no question with a passage that answers it; {len(found)} were excluded")
    order = sorted(random.permutation(len(kept)).tolist(), key=lambda i: not kept[i].exact)
    return [kept[i] for i in sorted(order[:count])]


def texts_of(source: str | Path, *, split: str = "test") -> frozenset[str]:
    """The questions and passages of a test collection, :func:`normalised`: what must not be trained on."""
    dataset = open_dataset(source, split=split)
    texts = [question.text for question in dataset.questions.values()]
    return frozenset(map(normalised, [*texts, *(passage.text for passage in dataset.passages())]))


def normalised(text: str) -> str:
    """Letters and digits in lower case, one space between words."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _knowing(examples: Sequence[ReaderExample]) -> list[ReaderExample]:
    """The examples, each with what any of them knows to answer its question."""
    known: dict[str, dict[str, None]] = defaultdict(dict)
    for one in examples:
        if one.spans:
            known[normalised(one.question)] |= dict.fromkeys((*one.known, one.context, *one.answers))
    return [replace(one, known=tuple(known[normalised(one.question)])) for one in examples]


def _from_file(path: Path) -> Iterator[ReaderExample]:
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        question, context = text_field(row, ("question", "query"), where), text_field(row, ("context", "text"), where)
        if not question.strip() or not context.strip():
            raise InputError(f"{where}: question and context must hold text")
        answers = _answers(row, where)
        spans = _occurrences(context, answers)
        if answers and not spans:
            raise InputError(f"{where}: the context holds none of its answers, for example {answers[0][:60]!r}")
        yield ReaderExample(question, context, text_field(row, ("title",), where, default=""), spans)


def _answers(row: Mapping[str, Any], where: str) -> list[str]:
    value = row.get("answers")
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise InputError(f"{where}: 'answers' is a list of texts; an empty one says that the context does not answer")
    return value


def _from_dataset(dataset: Dataset, random: np.random.Generator) -> Iterator[ReaderExample]:
    passages = list(dataset.passages())
    places = {passage.id: place for place, passage in enumerate(passages)}
    of_sentences = np.median([len(sentences(passage.text)) for passage in passages[:200]] or [0]) <= 1
    for query, grades in dataset.qrels.items():
        question = dataset.questions[query]
        relevant = [places[name] for name, grade in grades.items() if grade > 0]
        if not relevant:
            continue
        if of_sentences:
            found = _among_neighbours(question.text, passages, relevant[0], random)
        else:
            found = _best([_example(question, passages[place]) for place in relevant])
        yield replace(found, known=tuple(passages[place].text for place in relevant))


def _example(question: Question, passage: Passage) -> ReaderExample:
    spans = _occurrences(passage.text, question.answers)
    region = ((0, len(passage.text)),)
    return ReaderExample(question.text, passage.text, passage.title, spans or region, exact=bool(spans))


def _best(examples: Sequence[ReaderExample]) -> ReaderExample:
    """The first with a marked answer, else the first."""
    return next((example for example in examples if example.exact), examples[0])


def _occurrences(text: str, answers: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Where answers stand in a text as whole words, in any case."""
    patterns = [rf"(?<!\w){re.escape(answer.strip())}(?!\w)" for answer in answers if answer.strip()]
    found = [match.span() for pattern in patterns for match in re.finditer(pattern, text, re.IGNORECASE)]
    return tuple(sorted(set(found)))


def _among_neighbours(
    question: str, passages: Sequence[Passage], place: int, random: np.random.Generator
) -> ReaderExample:
    before, after = random.integers(0, NEIGHBOURS, 2, endpoint=True)
    first = max(0, place - int(before))
    texts = [passage.text.strip() for passage in passages[first : place + int(after) + 1]]
    start = sum(len(text) + 1 for text in texts[: place - first])
    region = (start, start + len(texts[place - first]))
    return ReaderExample(question, " ".join(texts), passages[place].title, (region,), exact=False)
