"""Test collections: passages, questions, judgements, and the first stage's results where they exist.

``open_dataset`` knows four layouts and tells them apart by the files that are there:

* BEIR: ``corpus.jsonl``, ``queries.jsonl``, ``qrels/<split>.tsv``;
* one folder: ``corpus.jsonl[.gz]``, ``queries.jsonl``, ``qrels.tsv``, optionally ``run*.tsv`` with candidates;
* TREC: ``qrels*.txt`` or ``*.qrels``, ``topics.tsv`` or ``queries.tsv``, ``corpus.jsonl[.gz]``, ``*.run``;
* one jsonl file of questions over a corpus of your own: ``{"id", "question", "relevant": {passage id: grade},
  "answers": [...]}``, with ``corpus=`` naming the passages.

``"farm"`` is the sample corpus that comes with rerankit.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from rerankit.errors import InputError
from rerankit.evaluation.formats import Qrels, Run, lines, read_jsonl, read_qrels, read_run, text_field
from rerankit.types import Passage

__all__ = ["Corpus", "Dataset", "Question", "corpus_file", "open_dataset", "read_corpus"]

_DATA = (".jsonl", ".tsv", ".gz")
_NAMED = 6  # files that a message names

Corpus = Callable[[], Iterator[Passage]]
"""Gives the passages, one at a time, from the start at every call."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query of a test collection.

    Attributes:
        answers: reference answers, any of which is right; empty if the collection has none.
        key_facts: short texts that a right answer must hold.
        answerable: whether the corpus holds the answer.
    """

    id: str
    text: str
    answers: tuple[str, ...] = ()
    key_facts: tuple[str, ...] = ()
    answerable: bool = True


@dataclass(frozen=True)
class Dataset:
    """A test collection.

    Attributes:
        name: for tables and folders.
        questions: by id, in file order.
        qrels: judgements of these questions.
        read_corpus: gives the passages, one at a time, from the start at every call.
        runs: first-stage results by name.
        synthetic: the questions were made by a model, not asked by people; reports say so.
        problems: what is odd but can be lived with, each in one sentence.
    """

    name: str
    questions: Mapping[str, Question]
    qrels: Qrels
    read_corpus: Corpus = field(repr=False)
    runs: Mapping[str, Run] = field(default_factory=dict, repr=False)
    synthetic: bool = False
    problems: tuple[str, ...] = ()

    def passages(self, ids: set[str] | None = None) -> Iterator[Passage]:
        """The corpus, streamed; only the passages with these ids if given."""
        for passage in self.read_corpus():
            if ids is None or passage.id in ids:
                yield passage

    def digest(self) -> str:
        """Changes when anything changes that results depend on: questions, judgements, passages. Reads the corpus."""
        digest = hashlib.sha256()
        for question in self.questions.values():
            digest.update(json.dumps(astuple(question)).encode())
        digest.update(json.dumps(self.qrels, sort_keys=True).encode())
        for passage in self.passages():
            digest.update(json.dumps([passage.id, passage.title, passage.text]).encode())
        return digest.hexdigest()[:32]

    def sample(self, count: int | None) -> Dataset:
        """The same collection with at most ``count`` questions, evenly spread over the file."""
        if count is None or count >= len(self.questions):
            return self
        if count < 1:
            raise InputError(f"A sample needs at least 1 question, got {count}")
        ids = list(self.questions)
        kept = [ids[i * len(ids) // count] for i in range(count)]
        return Dataset(
            self.name,
            {name: self.questions[name] for name in kept},
            {name: self.qrels[name] for name in kept if name in self.qrels},
            self.read_corpus,
            self.runs,
            self.synthetic,
            self.problems,
        )


def open_dataset(source: str | Path, *, split: str = "test", corpus: str | Path | Corpus | None = None) -> Dataset:
    """Open a test collection.

    Args:
        source: ``"farm"``, a folder, or a jsonl file of questions.
        split: which ``qrels/<split>.tsv`` of a BEIR folder.
        corpus: passages (jsonl, or a function that reads them) for a file of questions, or in place of the folder's
            own.

    Raises:
        InputError: the layout is not known or a line cannot be read; the message names file, line and id.
    """
    if str(source) == "farm":
        return _farm()
    path = Path(source).expanduser()
    if path.is_file():
        return _questions_file(path, _reader(corpus) if corpus is not None else None)
    if not path.is_dir():
        raise InputError(f"No test collection at {path}: expected 'farm', a folder or a jsonl file of questions")
    passages = _reader(corpus if corpus is not None else corpus_file(path))
    qrels_path = _qrels_path(path, split)
    return _checked(
        path.resolve().name,
        dict(_queries(_one_of(path, "queries.jsonl", "queries.tsv", "topics.tsv"))),
        read_qrels(qrels_path),
        passages,
        {run.stem: read_run(run) for run in sorted([*path.glob("run*.tsv"), *path.glob("*.run")])},
    )


def _checked(
    name: str,
    questions: dict[str, Question],
    qrels: Qrels,
    read_corpus: Corpus,
    runs: Mapping[str, Run],
    *,
    synthetic: bool = False,
) -> Dataset:
    """Look for ids that lead nowhere; each kind of oddity is one sentence in ``problems``."""
    ids = Counter(passage.id for passage in read_corpus())
    if twice := [passage for passage, count in ids.items() if count > 1]:
        raise InputError(f"{name}: the passage id {twice[0]!r} occurs {ids[twice[0]]} times in the corpus")
    judged = [(query, passage) for query, grades in qrels.items() for passage in grades]
    problems = [
        _problem([query for query in qrels if query not in questions], "judged queries are not among the queries"),
        _problem([passage for _, passage in judged if passage not in ids], "judged passages are not in the corpus"),
        _problem(_unjudged(questions, qrels), "queries have no judgement and are left out"),
        *(
            _problem([p for results in run.values() for p in results if p not in ids],
                     f"passages of {label!r} are not in the corpus and are left out")
            for label, run in runs.items()
        ),
    ]  # fmt: skip
    known = {query: {p: g for p, g in grades.items() if p in ids} for query, grades in qrels.items()}
    return Dataset(
        name,
        questions,
        {query: grades for query, grades in known.items() if query in questions and grades},
        read_corpus,
        {label: {q: {p: s for p, s in r.items() if p in ids} for q, r in run.items()} for label, run in runs.items()},
        synthetic,
        tuple(problem for problem in problems if problem),
    )


def _unjudged(questions: Mapping[str, Question], qrels: Qrels) -> list[str]:
    return [name for name, question in questions.items() if question.answerable and name not in qrels]


def _problem(ids: list[str], what: str) -> str:
    return f"{len(ids)} {what}, for example {ids[0]!r}" if ids else ""


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    # Others than the folder's owner may read this: only what could be meant is named.
    near = sorted(p.name for p in folder.iterdir() if p.suffix in _DATA and not p.name.startswith("."))
    found = f"; found: {', '.join(near[:_NAMED])}" if near else ""
    raise InputError(f"{folder} holds none of {', '.join(names)}{found}")


def _qrels_path(folder: Path, split: str) -> Path:
    split_path = folder / "qrels" / f"{split}.tsv"
    if split_path.is_file():
        return split_path
    if (folder / "qrels").is_dir():
        there = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
        raise InputError(f"{folder} has no split {split!r}; it has {there}")
    for path in [folder / "qrels.tsv", folder / "qrels.txt", *sorted(folder.glob("*.qrels"))]:
        if path.is_file():
            return path
    raise InputError(f"{folder} has no judgements: expected qrels.tsv, qrels.txt, *.qrels or qrels/{split}.tsv")


def _reader(corpus: str | Path | Corpus) -> Corpus:
    return corpus if callable(corpus) else functools.partial(read_corpus, Path(corpus))


def corpus_file(folder: Path) -> Path:
    """The passages of a folder.

    Raises:
        InputError: it has none.
    """
    return _one_of(folder, "corpus.jsonl", "corpus.jsonl.gz")


def read_corpus(path: Path, *, most_bytes: int | None = None) -> Iterator[Passage]:
    """Passages of a jsonl file (``.gz`` too): ``_id`` or ``id``, ``text`` or ``contents``, optionally ``title``.

    Args:
        path: the file.
        most_bytes: how many may be read of it, unpacked; None for all that are there.

    Raises:
        InputError: a line cannot be read, or there is more to read; the message names the line or the file.
    """
    for number, row in read_jsonl(path, most_bytes=most_bytes):
        where = f"{path}, line {number}"
        name = text_field(row, ("_id", "id"), where)
        text = text_field(row, ("text", "contents"), f"{where}, id {name!r}")
        metadata = row.get("metadata")
        if metadata is not None and not isinstance(metadata, Mapping):
            raise InputError(f"{where}, id {name!r}: metadata is not an object")
        yield Passage(name, text, text_field(row, ("title",), where, default=""), metadata or {})


def _queries(path: Path) -> Iterator[tuple[str, Question]]:
    seen: set[str] = set()
    for number, question in _rows(path):
        if question.id in seen:
            raise InputError(f"{path}, line {number}: the query id {question.id!r} occurs twice")
        if not question.text.strip():
            raise InputError(f"{path}, line {number}: query {question.id!r} is empty")
        seen.add(question.id)
        yield question.id, question


def _rows(path: Path) -> Iterator[tuple[int, Question]]:
    if path.suffix == ".tsv":
        for number, line in lines(path):
            name, sign, text = line.partition("\t")
            if not sign:
                raise InputError(f"{path}, line {number}: expected a query id, a tab and the query")
            yield number, Question(name.strip(), text)
        return
    for number, row in read_jsonl(path):
        yield number, _question(row, f"{path}, line {number}")


def _question(row: Mapping[str, Any], where: str) -> Question:
    name = text_field(row, ("_id", "id"), where)
    where = f"{where}, id {name!r}"
    return Question(
        name,
        text_field(row, ("text", "question", "query"), where),
        _texts(row, "answers", where) or _texts(row, "answer", where),
        _texts(row, "key_facts", where),
        bool(row.get("answerable", True)),
    )


def _texts(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = row.get(name) or []
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {name} is not a list of texts")
    return tuple(value)


def _questions_file(path: Path, corpus: Corpus | None) -> Dataset:
    if corpus is None:
        raise InputError(f"{path} holds questions; name their passages too: corpus=... (--corpus, or --store)")
    qrels: Qrels = {}
    synthetic = False
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        name = text_field(row, ("_id", "id"), where)
        qrels[name] = _relevant(row.get("relevant"), f"{where}, id {name!r}")
        synthetic = synthetic or bool(row.get("synthetic"))
    return _checked(path.stem, dict(_queries(path)), qrels, corpus, {}, synthetic=synthetic)


def _relevant(value: Any, where: str) -> dict[str, int]:
    """Grades from a list of ids (all grade 1) or an object of id: grade."""
    are_ids = isinstance(value, list) and all(type(item) in (str, int, float) for item in value)
    grades = dict.fromkeys(value, 1) if are_ids else value or {}
    if not isinstance(grades, dict) or not all(isinstance(grade, int) for grade in grades.values()):
        raise InputError(f"{where}: 'relevant' is a list of passage ids or an object of id: grade")
    return {str(passage): grade for passage, grade in grades.items()}


def _farm() -> Dataset:
    from rerankit.samples import farm

    questions = {
        item.id: Question(item.id, item.text, (item.answer,) if item.answer else (), item.key_facts, item.answerable)
        for item in farm.questions()
    }
    qrels = {query: grades for query, grades in farm.qrels().items() if questions[query].answerable}
    return Dataset("farm", questions, qrels, lambda: iter(farm.passages()))
