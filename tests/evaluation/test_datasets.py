from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rerankit.errors import InputError
from rerankit.evaluation.datasets import open_dataset, read_corpus
from rerankit.evaluation.formats import read_qrels, read_run, write_run

SHARED = Path(__file__).parents[3] / "shared" / "data"

CORPUS = [{"_id": "p1", "title": "Wheat", "text": "Sow wheat in May."}, {"_id": "p2", "text": "Sheep eat grass."}]
QUERIES = [{"_id": "q1", "text": "when to sow wheat"}, {"_id": "q2", "text": "what do sheep eat", "answers": ["grass"]}]


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(data.encode()) if path.suffix == ".gz" else data.encode())


def beir(folder, qrels="query-id\tcorpus-id\tscore\nq1\tp1\t2\nq2\tp2\t1\n"):
    jsonl(folder / "corpus.jsonl", CORPUS)
    jsonl(folder / "queries.jsonl", QUERIES)
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def test_a_beir_folder(tmp_path):
    dataset = open_dataset(beir(tmp_path))
    assert dataset.qrels == {"q1": {"p1": 2}, "q2": {"p2": 1}}
    assert dataset.questions["q2"].answers == ("grass",)
    assert [passage.title for passage in dataset.passages()] == ["Wheat", ""]
    assert [passage.id for passage in dataset.passages({"p2"})] == ["p2"]
    assert dataset.problems == ()


def test_one_folder_with_runs_and_compression(tmp_path):
    jsonl(tmp_path / "corpus.jsonl.gz", CORPUS)
    jsonl(tmp_path / "queries.jsonl", QUERIES)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp1\t1\n")
    (tmp_path / "run.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tp2\t3.5\nq1\tp1\t2\n")
    dataset = open_dataset(tmp_path)
    assert dataset.runs == {"run": {"q1": {"p2": 3.5, "p1": 2.0}}}
    assert "1 queries have no judgement" in dataset.problems[0]


def test_a_trec_folder(tmp_path):
    jsonl(tmp_path / "corpus.jsonl", CORPUS)
    (tmp_path / "topics.tsv").write_text("q1\twhen to sow wheat\n")
    (tmp_path / "qrels.txt").write_text("q1 0 p1 1\nq1 0 p2 0\n")
    (tmp_path / "bm25.run").write_text("q1 Q0 p1 1 9.1 bm25\n")
    dataset = open_dataset(tmp_path)
    assert dataset.qrels == {"q1": {"p1": 1, "p2": 0}}
    assert dataset.runs == {"bm25": {"q1": {"p1": 9.1}}}


def test_a_file_of_questions_over_a_corpus_of_ones_own(tmp_path):
    jsonl(tmp_path / "corpus.jsonl", CORPUS)
    rows = [{"id": "a", "question": "when to sow?", "relevant": ["p1"], "synthetic": True}]
    jsonl(tmp_path / "mine.jsonl", [*rows, {"id": "b", "question": "grass?", "relevant": {"p2": 2}}])
    dataset = open_dataset(tmp_path / "mine.jsonl", corpus=tmp_path / "corpus.jsonl")
    assert dataset.qrels == {"a": {"p1": 1}, "b": {"p2": 2}}
    assert dataset.synthetic
    with pytest.raises(InputError, match="--corpus"):
        open_dataset(tmp_path / "mine.jsonl")


@pytest.mark.parametrize("relevant", [[{"id": "p1"}], [["p1"]], [None], [True], "p1", 3, {"p1": 0.5}, {"p1": None}])
def test_relevant_passages_are_ids_or_grades(tmp_path, relevant):
    jsonl(tmp_path / "corpus.jsonl", CORPUS)
    jsonl(tmp_path / "mine.jsonl", [{"id": "a", "question": "when to sow?", "relevant": relevant}])
    with pytest.raises(InputError, match=r"mine.jsonl, line 1, id 'a': 'relevant' is a list of passage ids"):
        open_dataset(tmp_path / "mine.jsonl", corpus=tmp_path / "corpus.jsonl")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, pack):
    """Windows' editors and Excel write one."""
    end = "" if pack is bytes else ".gz"
    for name, text in (
        ("c.jsonl", '{"id": "a", "text": "b"}\n'),
        ("b.qrels", "q1 0 a 1\n"),
        ("b.run", "q1 Q0 a 1 3 x\n"),
    ):
        (tmp_path / f"{name}{end}").write_bytes(pack(text.encode("utf-8-sig")))
    assert [passage.id for passage in read_corpus(tmp_path / f"c.jsonl{end}")] == ["a"]
    assert read_qrels(tmp_path / f"b.qrels{end}") == {"q1": {"a": 1}}
    assert read_run(tmp_path / f"b.run{end}") == {"q1": {"a": 3.0}}


def test_ids_that_lead_nowhere_are_reported_and_left_out(tmp_path):
    dataset = open_dataset(beir(tmp_path, "q1\tp1\t1\nq1\tgone\t1\nq9\tp1\t1\n"))
    assert dataset.qrels == {"q1": {"p1": 1}}
    assert any("'gone'" in problem for problem in dataset.problems)
    assert any("'q9'" in problem for problem in dataset.problems)
    assert any("'q2'" in problem for problem in dataset.problems)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", '{"_id": "p1", "text": "a"}\n{oops\n', r"corpus.jsonl, line 2: not valid JSON"),
        ("corpus.jsonl", "[" * 200_000 + "\n", r"corpus.jsonl, line 1: nested too deeply"),
        ("queries.jsonl", '{"_id": ' * 200_000 + "\n", r"queries.jsonl, line 1: nested too deeply"),
        ("corpus.jsonl", "[1]\n", r"line 1: expected an object"),
        ("corpus.jsonl", '{"_id": "p1"}\n', r"line 1, id 'p1': has no 'text'"),
        ("corpus.jsonl", '{"_id": "p1", "text": "a", "metadata": 3}\n', r"metadata is not an object"),
        ("corpus.jsonl", '{"_id": "p1", "text": "a"}\n{"_id": "p1", "text": "b"}\n', r"'p1' occurs 2 times"),
        ("queries.jsonl", '{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "b"}\n', r"line 2: the query id 'q1'"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', r"query 'q1' is empty"),
        ("queries.jsonl", '{"_id": "q1", "text": "a", "answers": 3}\n', r"answers is not a list"),
        ("qrels/test.tsv", "q1\tp1\n", r"test.tsv, line 1: a judgement has 3 or 4 columns"),
        ("qrels/test.tsv", "q1\tp1\tgood\n", r"line 1: the grade 'good'"),
        ("qrels/test.tsv", "q1\tp1\t1\nq1\tp1\t2\n", r"line 2: passage 'p1' of query 'q1' was judged 1 before"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_line_and_id(tmp_path, name, content, message):
    beir(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        list(open_dataset(tmp_path).passages())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q1 Q0 p1 1 2.0 t\nq1 Q0 p1 2 1.0 t\n", "line 2: passage 'p1' occurs twice for query 'q1'"),
        ("q1 Q0 p1 1 high t\n", "the score 'high'"),
        ("q1 p1\n", "3 or 6 columns"),
    ],
)
def test_broken_runs_are_refused(tmp_path, content, message):
    (tmp_path / "x.run").write_text(content)
    with pytest.raises(InputError, match=message):
        read_run(tmp_path / "x.run")


def test_files_that_are_not_text(tmp_path):
    (tmp_path / "qrels.tsv").write_bytes(b"q1\tp1\t1\n\xff\xfe\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_qrels(tmp_path / "qrels.tsv")
    (tmp_path / "c.gz").write_bytes(b"not gzip")
    with pytest.raises(InputError, match="UTF-8"):
        read_qrels(tmp_path / "c.gz")
    with pytest.raises(InputError, match="No such file"):
        read_qrels(tmp_path / "missing.tsv")


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_no_more_is_read_than_allowed(tmp_path, pack):
    path = tmp_path / ("c.jsonl" if pack is bytes else "c.jsonl.gz")
    rows = '{"id": "a", "text": "caf\u00e9"}\n{"id": "b", "text": "x"}\n'.encode()
    path.write_bytes(pack(rows))
    assert len(list(read_corpus(path, most_bytes=len(rows)))) == 2
    with pytest.raises(InputError, match=rf"more than {len(rows) - 1} bytes"):
        list(read_corpus(path, most_bytes=len(rows) - 1))
    path.write_bytes(pack(b"a" * 10_000_000 + b"\xff"))  # what is not read cannot be found wrong
    with pytest.raises(InputError, match=r"more than 1,000 bytes"):
        list(read_corpus(path, most_bytes=1000))


def test_a_run_survives_writing_and_reading(tmp_path):
    run = {"q1": {"b": 2.5, "a": 2.5, "c": -1.0}}
    write_run(run, tmp_path / "x.run", "mine")
    again = read_run(tmp_path / "x.run")
    assert again == run
    assert list(again["q1"]) == ["b", "a", "c"]


def test_folders_that_are_no_collection(tmp_path):
    with pytest.raises(InputError, match="No test collection at"):
        open_dataset(tmp_path / "missing")
    with pytest.raises(InputError, match=r"holds none of corpus\.jsonl, corpus\.jsonl\.gz$"):
        open_dataset(tmp_path)
    for name in (".secret.jsonl", "salaries.xlsx", "passages.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz; found: passages\.jsonl$"):
        open_dataset(tmp_path)
    beir(tmp_path)
    with pytest.raises(InputError, match=r"no split 'dev'; it has \['test'\]"):
        open_dataset(tmp_path, split="dev")


def test_a_sample_is_spread_over_the_questions(tmp_path):
    dataset = open_dataset(beir(tmp_path))
    assert list(dataset.sample(1).questions) == ["q1"]
    assert dataset.sample(None) is dataset
    assert dataset.sample(9) is dataset
    with pytest.raises(InputError):
        dataset.sample(0)


def test_the_farm_sample():
    dataset = open_dataset("farm")
    assert dataset.problems == ()
    assert set(dataset.qrels) == {name for name, question in dataset.questions.items() if question.answerable}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the test collections are not part of the repository")
@pytest.mark.parametrize("name", ["agask_dev", "covidfaq"])
def test_real_collections_open(name):
    dataset = open_dataset(SHARED / name)
    assert dataset.qrels
    assert len(list(dataset.passages())) > 50
