"""label: files in, labels and their agreement with people out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from judge_server import JudgeServer, worths
from typer.testing import CliRunner

from rerankit.cli.app import app
from rerankit.evaluation.formats import read_qrels
from rerankit.training.lists import read_lists

ROOT = Path(__file__).parents[1]
QUERIES = 24


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def grade(query, passage):
    return (query + passage) % 3


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("RERANKIT_API_KEY", "")
    with JudgeServer(lambda prompt: json.dumps({"grade": int(worths(prompt)[0])})) as server:
        yield server


@pytest.fixture
def lists(tmp_path):
    path = tmp_path / "lists.jsonl"
    with path.open("w") as file:
        for q in range(QUERIES):
            passages = [{"id": f"p{p}", "text": f"passage {p} of {q}, worth={grade(q, p)}"} for p in range(4)]
            file.write(json.dumps({"id": f"q{q}", "query": f"query {q}", "passages": passages}) + "\n")
    return path


@pytest.fixture
def collection(tmp_path):
    """Two queries, three passages, judgements in four grades, two runs."""
    folder = tmp_path / "crops"
    folder.mkdir()
    texts = {"a": "worth=2", "b": "worth=1", "c": "worth=0"}
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": k, "text": v}) + "\n" for k, v in texts.items()))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n')
    (folder / "qrels.txt").write_text("q1 0 a 3\nq1 0 b 1\nq1 0 c 0\nq2 0 a 2\nq2 0 c 0\n")
    for name, order in {"good": "abc", "bad": "cba"}.items():
        lines = [f"{q} Q0 {p} {i + 1} {3 - i} x\n" for q in ("q1", "q2") for i, p in enumerate(order)]
        (folder / f"{name}.run").write_text("".join(lines))
    return folder


def test_labels_judgements_and_agreement(server, collection, tmp_path):
    out, qrels = tmp_path / "labels.jsonl", tmp_path / "labels.txt"
    fixed = ("label", "--data", collection, "--model", server.url, "--candidates", "good", "--out", out)
    result = run(*fixed, "--qrels", qrels, "--price", "1,2", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (found["new"], found["labels"], found["grades"]) == (6, 6, {"0": 2, "1": 2, "2": 2})
    assert found["usage"]["cost"] > 0
    assert found["agreement"]["graded"]["confusion"] == [[2, 0, 0], [0, 1, 0], [0, 0, 2]]
    assert found["agreement"]["binary"]["figures"]["kappa"]["value"] == 1.0
    assert found["agreement"]["tau"] == pytest.approx(1.0)
    assert set(found["agreement"]["ndcg"]) == {"good", "bad"}
    assert read_qrels(qrels) == {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"a": 2, "b": 1, "c": 0}}
    page = run(*fixed).stdout
    assert "0 labels added" in page
    assert "5 pairs of 2 queries" in page
    assert "kappa, quadratic 1.000" in page
    assert len(server.prompts) == 6


def test_what_is_written_can_be_trained_on(server, lists, tmp_path):
    run("label", "--data", lists, "--model", server.url, "--out", tmp_path / "l.jsonl")
    lists = read_lists(tmp_path / "l.jsonl")
    found = {item.query: {p.id: g for p, g in zip(item.passages, item.grades, strict=True)} for item in lists}
    assert found == {f"query {q}": {f"p{p}": grade(q, p) for p in range(4)} for q in range(QUERIES)}


def test_judged_pairs_against_other_judgements(server, collection, tmp_path):
    (tmp_path / "mine.txt").write_text("q1 0 a 1\nq1 0 c 0\nq2 0 a 1\nq2 0 c 1\n")
    fixed = ("label", "--data", collection, "--model", server.url, "--out", tmp_path / "l.jsonl", "--json")
    found = json.loads(run(*fixed, "--candidates", "judged", "--against", tmp_path / "mine.txt").stdout)
    assert found["labels"] == 5
    assert found["agreement"]["graded"] is None
    assert found["agreement"]["binary"]["confusion"] == [[1, 0], [1, 2]]
    assert "candidates" not in found["agreement"]["ndcg"]


@pytest.mark.slow
def test_candidates_from_the_corpus(server, collection, tmp_path):
    fixed = ("label", "--data", collection, "--model", server.url, "--out", tmp_path / "l.jsonl", "--json")
    found = json.loads(run(*fixed, "--depth", 2, "--max-queries", 1).stdout)
    assert found["labels"] == 2
    assert "candidates" in found["agreement"]["ndcg"]


def test_lists_without_judgements(server, lists, tmp_path):
    fixed = ("label", "--data", lists, "--model", server.url, "--out", tmp_path / "l.jsonl")
    assert "No human judgement" in run(*fixed, "--max-queries", 2).stdout
    (tmp_path / "bm25.run").write_text("".join(f"q0 Q0 p{p} {p} {-p} x\n" for p in range(4)))
    (tmp_path / "qrels.txt").write_text("q0 0 p2 2\nq0 0 p1 1\n")
    against = ("--against", tmp_path / "qrels.txt", "--run", tmp_path / "bm25.run", "--json")
    found = json.loads(run(*fixed, *against).stdout)
    assert found["known"] == 8
    assert found["agreement"]["ndcg"]["candidates"] == found["agreement"]["ndcg"]["bm25"]


@pytest.mark.slow
def test_a_killed_call_loses_nothing_and_writes_nothing_twice(server, lists, tmp_path):
    fixed = ["--data", str(lists), "--model", server.url, "--concurrency", "2", "--out"]
    command = [sys.executable, "-m", "rerankit.cli", "label", *fixed, str(tmp_path / "killed.jsonl")]
    server.delay_s = 0.02
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    out, limit = tmp_path / "killed.jsonl", time.monotonic() + 120
    while process.poll() is None and time.monotonic() < limit and not (out.exists() and b"\n" in out.read_bytes()):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.delay_s = 0.0
    kept, asked = out.read_bytes(), len(server.prompts)
    assert 0 < kept.count(b"\n") < QUERIES
    with out.open("ab") as file:
        file.write(b'{"labeller": "llm", "query_id": "q')
    found = json.loads(run("label", *fixed, out, "--json").stdout)
    assert out.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert (found["labels"], found["known"] + found["new"]) == (4 * QUERIES, 4 * QUERIES)
    assert len(server.prompts) == asked + found["new"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    written = Counter((row["query_id"], p["id"], p["grade"]) for row in rows for p in row["passages"])
    right = {(f"q{q}", f"p{p}", grade(q, p)) for q in range(QUERIES) for p in range(4)}
    assert written == Counter(right)


def test_failures_are_reported_and_no_label_at_all_is_an_error(server, lists, tmp_path):
    judge = server.judge
    server.judge = lambda prompt: "grade: 2" if "passage 0 of" in prompt else judge(prompt)
    fixed = ("label", "--data", lists, "--model", server.url, "--max-queries", 3, "--out")
    result = run(*fixed, tmp_path / "l.jsonl")
    assert result.exit_code == 0
    assert "3 failed, marked, and asked again next time: not the JSON object asked for" in " ".join(
        result.stdout.split()
    )
    server.judge = lambda prompt: "no"
    result = run(*fixed, tmp_path / "none.jsonl", "--json")
    assert (result.exit_code, json.loads(result.stdout)["failed"]) == (1, {"not the JSON object asked for": 12})
    server.status = lambda number, prompt: 401
    result = run(*fixed, tmp_path / "refused.jsonl", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["type"] == "BackendError"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--template", "grade"), "grades"),
        (("--price", "cheap"), "--price"),
        (("--candidates", "dense"), "leave --candidates away"),
        (("--model", "qwen"), "base_url#model"),
        (("--against", "nowhere"), "nowhere"),
        (("--qrels", "nowhere/qrels.txt"), "no folder"),
        (("--data", "nowhere"), "No test collection"),
    ],
)
def test_wrong_options_are_explained_before_anything_is_asked(server, lists, tmp_path, wrong, message):
    result = run("label", "--data", lists, "--model", server.url, "--out", tmp_path / "l.jsonl", *wrong)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert not server.prompts
    assert not (tmp_path / "l.jsonl").exists()


def test_a_file_of_something_else_is_left_alone(server, lists):
    before = lists.read_text()
    result = run("label", "--data", lists, "--model", server.url, "--out", lists)
    assert result.exit_code == 1
    assert "another file" in result.stderr
    assert lists.read_text() == before
    assert not server.prompts
