"""compare, explain, eval, questions: files in, verdicts and exit statuses out."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import ChatServer, completion, say
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import rerankit.spec
from rerankit.cli.app import app
from rerankit.errors import InputError
from rerankit.evaluation.arms import read_arms
from rerankit.evaluation.experiment import Arm
from rerankit.evaluation.gate import Condition, worse_than

ROOT = Path(__file__).parents[1]
CROPS = ["wheat", "barley", "canola", "oats", "lupins", "chickpeas", "sorghum", "maize", "rice", "rye", "hemp", "flax"]
SUMMARY = {
    "data": "a",
    "data_sha256": "1",
    "metric": "RR",
    "arms": {"x": {"per_query": {"q": 1.0}, "failed": 0}},
    "dead": {},
}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def data(tmp_path):
    """A collection whose first stage puts the right passage second, and whose words give it away."""
    folder = tmp_path / "crops"
    folder.mkdir()
    texts = "Nothing much about farming here, {}.", "Sow {} at three centimetres depth into moist soil."
    corpus = [{"_id": f"{crop}-{i}", "text": texts[i].format(crop[: 2 + 9 * i])} for crop in CROPS for i in (0, 1)]
    queries = [{"_id": crop, "text": f"depth to sow {crop}", "answers": ["three centimetres"]} for crop in CROPS]
    (folder / "corpus.jsonl").write_text(lines(*corpus))
    (folder / "queries.jsonl").write_text(lines(*queries))
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{c}\t{c}-1\t1\n" for c in CROPS))
    run_lines = [f"{c} Q0 {c}-{i} {i + 1} {2 - i} bm25\n" for c in CROPS for i in (0, 1)]
    (folder / "run.tsv").write_text("".join(run_lines))
    return folder


def compare(data, out, *more):
    fixed = ("--data", data, "--candidates", "run", "--no-answers", "--out", out, "--metric", "nDCG@10", "-m", "RR")
    return run("compare", *fixed, *more)


class TestCompare:
    def test_the_verdict_the_report_and_the_summary(self, data, tmp_path):
        result = compare(data, tmp_path / "out", "--arm", "lexical", "--json")
        found = json.loads(result.stdout)
        assert result.exit_code == 0
        assert found["arms"]["none"]["figures"]["RR"] == 0.5
        assert found["arms"]["lexical"]["figures"]["RR"] == 1.0
        assert found["arms"]["lexical"]["verdict"]["word"] == "better"
        assert (tmp_path / "out" / "report.html").is_file()
        assert (tmp_path / "out" / "runs" / "lexical.run").read_text().startswith("wheat Q0 wheat-1 1 ")
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert all(found[key] == value for key, value in summary.items())

    def test_the_page_says_it_in_words(self, data, tmp_path):
        page = " ".join(compare(data, tmp_path / "out", "--arm", "words=lexical").stdout.split())
        assert "12 judged questions, decided by nDCG@10" in page
        assert "words Better: nDCG@10 is 0.3691 higher" in page
        assert "report.html" in page

    def test_a_second_call_goes_on_with_more_arms(self, data, tmp_path):
        compare(data, tmp_path / "out", "--arm", "lexical")
        before = (tmp_path / "out" / "arms" / "lexical.jsonl").read_text()
        result = compare(data, tmp_path / "out", "--arm", "lexical", "--arm", "same=none", "--json")
        assert list(json.loads(result.stdout)["arms"]) == ["none", "lexical", "same"]
        assert (tmp_path / "out" / "arms" / "lexical.jsonl").read_text() == before
        alone = compare(data, tmp_path / "out", "--arm", "same=none", "--json")
        assert list(json.loads(alone.stdout)["arms"]) == ["none", "same"]

    @pytest.mark.slow
    def test_a_killed_run_ends_as_an_unbroken_one(self, data, tmp_path):
        arms = ("--arm", "lexical", "--arm", "again=lexical[k1=0.9]")
        fixed = ["--data", data, "--candidates", "run", "--no-answers", "-m", "nDCG@10", "-m", "RR", *arms, "--out"]
        command = [sys.executable, "-m", "rerankit.cli", "compare", *map(str, fixed), str(tmp_path / "killed")]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        record, limit = tmp_path / "killed" / "arms" / "lexical.jsonl", time.monotonic() + 120
        while not record.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with record.open("a") as file:
            file.write('{"query": "ry')
        resumed = json.loads(compare(data, tmp_path / "killed", *arms, "--json").stdout)
        whole = json.loads(compare(data, tmp_path / "whole", *arms, "--json").stdout)
        assert quality(resumed) == quality(whole)

    def test_another_setup_or_arm_under_a_known_name_is_refused(self, data, tmp_path):
        compare(data, tmp_path / "out", "--arm", "a=lexical")
        result = compare(data, tmp_path / "out", "--arm", "a=lexical", "--depth", 1)
        assert result.exit_code == 1
        assert "['depth'] differ" in result.stderr
        assert "The arm 'a'" in compare(data, tmp_path / "out", "--arm", "a=none").stderr
        (data / "qrels.tsv").write_text("wheat\twheat-0\t1\nrye\trye-0\t1\n")
        assert "['data_sha256'] differ" in compare(data, tmp_path / "out", "--arm", "a=lexical").stderr

    def test_an_alias_that_changed_its_meaning_is_noticed(self, data, tmp_path, monkeypatch):
        monkeypatch.setitem(rerankit.spec.ALIASES, "words", "lexical[k1=0.9]")
        assert compare(data, tmp_path / "out", "--arm", "words").exit_code == 0
        monkeypatch.setitem(rerankit.spec.ALIASES, "words", "lexical[k1=1.2]")
        assert "The arm 'words'" in compare(data, tmp_path / "out", "--arm", "words").stderr

    def test_depths_and_context_sizes(self, data, tmp_path):
        result = compare(data, tmp_path / "out", "--arm", "lexical", "--depths", "1,2", "--json")
        figures = {name: arm["figures"]["RR"] for name, arm in json.loads(result.stdout)["arms"].items()}
        assert figures == {"none": 0.5, "lexical @1": 0.5, "lexical @2": 1.0}
        wrong = compare(data, tmp_path / "out", "--top-ks", "3,x")
        assert "--top-ks takes whole numbers" in wrong.stderr

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (("--arm", "lexicl"), "lexical"),
            (("--metric", "nonsense"), "Unknown metric"),
            (("--candidates", "bm25"), "no run 'bm25'"),
            (("--judge", "http://x#m"), "--no-answers"),
            (("--fail-if", "nonsense"), "Cannot read the condition"),
            (("--fail-if-worse-than", "nowhere"), "No summary"),
        ],
    )
    def test_wrong_values_are_explained_before_anything_runs(self, data, tmp_path, wrong, message):
        result = compare(data, tmp_path / "out", *wrong)
        assert result.exit_code == 1
        assert message in result.stderr
        assert not list(tmp_path.glob("out/arms/*.jsonl"))

    def test_a_seed_below_zero_is_refused(self, data, tmp_path):
        result = compare(data, tmp_path / "out", "--seed", -1)
        assert result.exit_code == 2
        assert "--seed" in re.sub(r"\x1b\[[0-9;]*m", "", result.stderr)

    def test_data_without_judgements_are_named(self, data, tmp_path):
        (data / "qrels.tsv").write_text("wheat\tunknown\t1\n")
        assert "No question of crops has a judged passage" in compare(data, tmp_path / "out").stderr


def quality(summary):
    """What must not depend on how often a run was stopped: everything but times."""
    timed = ("ms p50", "ms p95", "unified")
    arms = {
        name: {**arm, "figures": {key: value for key, value in arm["figures"].items() if key not in timed}}
        for name, arm in summary["arms"].items()
    }
    return {**{k: v for k, v in summary.items() if k not in ("html", "markdown", "summary")}, "arms": arms}


class TestGates:
    def test_conditions_decide_the_exit_status(self, data, tmp_path):
        def status(*conditions, arm="lexical"):
            gates = [part for text in conditions for part in ("--fail-if", text)]
            return compare(data, tmp_path / "out", "--arm", arm, *gates).exit_code

        assert status("nDCG@10 < 0.9", "RR <= 0.5") == 0
        assert status("nDCG@10 < 0.9", "RR >= 1") == 3
        assert status("none: RR < 0.6") == 3
        assert status("nDCG@10 < 0.9", arm="same=none") == 3
        assert status("other: RR < 1") == 1
        assert status("AP < 1") == 1

    def test_the_sentence_names_figure_and_bound(self, data, tmp_path):
        result = compare(data, tmp_path / "out", "--arm", "lexical", "--fail-if", "RR > 0.5")
        assert "FAILS  lexical: RR is 1.0000, fails if > 0.5" in result.stdout
        as_json = compare(data, tmp_path / "out", "--arm", "lexical", "--fail-if", "RR > 0.5", "--json")
        assert as_json.exit_code == 3
        assert json.loads(as_json.stdout)["gates"][0]["passed"] is False

    def test_an_earlier_run_is_the_bar(self, data, tmp_path):
        good, bad, main = tmp_path / "good", tmp_path / "bad", tmp_path / "main.json"
        compare(data, good, "--arm", "candidate=lexical")
        main.write_text((good / "summary.json").read_text())
        assert compare(data, bad, "--arm", "candidate=none", "--fail-if-worse-than", main).exit_code == 3
        assert compare(data, good, "--arm", "candidate=lexical", "--fail-if-worse-than", good).exit_code == 0
        assert compare(data, good, "--arm", "candidate=lexical", "--fail-if-worse-than", bad).exit_code == 0

    def test_what_cannot_be_held_against_each_other_is_an_error(self):
        for change, message in (({"data_sha256": "2"}, "other data"), ({"metric": "AP"}, "decided by"), (
            {"arms": {"y": {"per_query": {}}}}, "none of them")):  # fmt: skip
            with pytest.raises(InputError, match=message):
                worse_than(SUMMARY, {**SUMMARY, **change}, margin=0.0)

    def test_few_queries_go_by_the_mean_and_a_dead_arm_fails(self):
        now = {**SUMMARY, "arms": {"x": {"per_query": {"q": 0.98}, "failed": 0}}}
        assert worse_than(now, SUMMARY, margin=0.05)[0].passed
        assert not worse_than(now, SUMMARY, margin=0.01)[0].passed
        assert not worse_than({**SUMMARY, "arms": {}, "dead": {"x": "why"}}, SUMMARY, margin=1.0)[0].passed

    @given(st.text(alphabet="abR@1 :<>=.-+e", max_size=20))
    def test_any_text_is_a_condition_or_an_error(self, text):
        with contextlib.suppress(InputError):
            assert isinstance(Condition.parse(text).bound, float)

    def test_an_arm_may_have_colons(self):
        assert Condition.parse("cross-encoder:a/b: ms p95 > 2e2") == Condition(
            "ms p95", ">", 200.0, "cross-encoder:a/b"
        )


class TestArmsFile:
    def test_lists_and_names(self, tmp_path):
        path = tmp_path / "arms.yaml"
        path.write_text('- lexical\n- "fast=dense[:20]"\n- {name: deep, spec: default, depth: 20, deadline_s: 0.5}\n')
        deep = Arm("deep", "default", depth=20, deadline_s=0.5)
        assert read_arms(path) == [Arm("lexical", "lexical"), Arm("fast", "dense[:20]"), deep]
        path.write_text("fast: dense\ndeep: {spec: default, top_k: 3}\n")
        assert read_arms(path) == [Arm("fast", "dense"), Arm("deep", "default", top_k=3)]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("- lexical\n- {name: x}\n", "arm 2: expected a spec"),
            ("- {spec: dense, depht: 3}\n", "unknown setting 'depht'"),
            ("x: {spec: dense, depth: many}\n", "depth must be int"),
            ("- {spec: dense, depth: -1}\n", "above zero"),
            ("- 7\n", "arm 1"),
            ("", "names no arms"),
            ("[", "Cannot read arms"),
            ("!!python/object/apply:os.system ['true']", "Cannot read arms"),
        ],
    )
    def test_wrong_entries_are_named(self, tmp_path, text, message):
        path = tmp_path / "arms.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(message)):
            read_arms(path)

    def test_compare_takes_it(self, data, tmp_path):
        path = tmp_path / "arms.yaml"
        path.write_text("words: lexical\n")
        assert "words" in json.loads(compare(data, tmp_path / "out", path, "--json").stdout)["arms"]


class TestExplain:
    @pytest.fixture
    def finished(self, data, tmp_path):
        compare(data, tmp_path / "out", "--arm", "lexical", "--top-k", 1)
        return tmp_path / "out"

    def test_by_id_and_by_text(self, finished):
        found = json.loads(run("explain", finished, "rye", "--json").stdout)
        assert found["arms"][0]["entered"] == [
            {"id": "rye-1", "grade": 1, "text": "Sow rye at three centimetres depth into moist soil."}
        ]
        page = run("explain", finished, "Depth to sow RYE", "--arm", "lexical").stdout
        assert "nDCG@10 +0.3691" in page
        assert "entered the context: rye-1 (grade 1)" in page
        assert "left the context: rye-0 (not judged)" in page

    def test_what_is_unknown_is_explained(self, finished, data, tmp_path):
        assert "did you mean 'rye'?" in run("explain", finished, "ryee").stderr
        assert "No arm 'x'" in run("explain", finished, "rye", "--arm", "x").stderr
        assert "No experiment" in run("explain", tmp_path, "rye").stderr
        data.rename(tmp_path / "moved")
        assert run("explain", finished, "rye").exit_code == 1
        assert run("explain", finished, "rye", "--data", tmp_path / "moved").exit_code == 0
        (tmp_path / "moved" / "qrels.tsv").write_text("rye\trye-0\t1\n")
        assert "changed" in run("explain", finished, "rye", "--data", tmp_path / "moved").stderr


class TestEval:
    def test_metrics_of_runs(self, data):
        runs = (data / "run.tsv", "--qrels", data / "qrels.tsv", "-m", "RR", "-m", "P@1")
        found = json.loads(run("eval", *runs, "--json", "--per-query").stdout)
        assert found["runs"] == {str(data / "run.tsv"): {"RR": 0.5, "P@1": 0.0}}
        assert found["per_query"][str(data / "run.tsv")]["RR"]["rye"] == 0.5
        assert f"0.5000  0.0000  {data / 'run.tsv'}" in run("eval", *runs).stdout

    def test_equal_scores_count_as_trec_eval_counts_them(self, tmp_path):
        (tmp_path / "x.run").write_text("q Q0 a 1 1.0 t\nq Q0 b 2 1.0 t\n")
        (tmp_path / "q.qrels").write_text("q 0 a 1\n")
        found = run("eval", tmp_path / "x.run", "--qrels", tmp_path / "q.qrels", "-m", "RR", "--json")
        assert list(json.loads(found.stdout)["runs"].values()) == [{"RR": 0.5}]

    def test_nothing_in_common_is_an_error(self, data, tmp_path):
        (tmp_path / "q.qrels").write_text("other 0 a 1\n")
        assert "No query of" in run("eval", data / "run.tsv", "--qrels", tmp_path / "q.qrels").stderr


class TestQuestions:
    @pytest.fixture
    def server(self):
        def teach(handler):
            crop = handler.body["messages"][1]["content"].split("\n")[1].split()[1]
            found = {"question": f"At what depth does {crop} go into the ground?", "answer": "three centimetres"}
            handler.reply(body=completion(json.dumps(found)))

        with ChatServer() as server:
            server.script = [teach]
            yield server

    @pytest.fixture
    def corpus(self, tmp_path):
        texts = {crop: f"Sow {crop} at three centimetres depth into moist soil, and roll the ground." for crop in CROPS}
        path = tmp_path / "corpus.jsonl"
        path.write_text(lines(*[{"_id": crop, "text": text} for crop, text in texts.items()]))
        return path

    def test_from_a_corpus_to_a_comparison_that_says_synthetic(self, server, corpus, tmp_path, monkeypatch):
        monkeypatch.setenv("RERANKIT_API_KEY", "")
        asked = ("--corpus", corpus, "--llm", f"{server.url}#m", "--out", tmp_path / "q.jsonl", "--count", 4)
        found = json.loads(run("questions", *asked, "--json").stdout)
        assert (found["questions"], found["new"]) == (4, 4)
        assert "0 questions added" in run("questions", *asked).stdout
        out = ("--out", tmp_path / "out", "--arm", "lexical", "--no-answers")
        from_dense = run("compare", "--data", tmp_path / "q.jsonl", "--corpus", corpus, *out)
        assert from_dense.exit_code == 0, from_dense.stderr
        assert "synthetic" in from_dense.stdout
        assert "Synthetic questions" in (tmp_path / "out" / "report.html").read_text()

    @pytest.mark.slow
    def test_from_a_store_and_back_to_it(self, server, corpus, tmp_path, monkeypatch):
        monkeypatch.setenv("RERANKIT_API_KEY", "")
        store = ("--store", tmp_path / "store")
        run("index", corpus, *store)
        asked = ("--llm", f"{server.url}#m", "--out", tmp_path / "q.jsonl", "--count", 3)
        assert run("questions", *store, *asked).exit_code == 0
        judge = ("--judge", f"{server.url}#judge", "--llm", f"{server.url}#m")
        server.script = [say('{"mark": 8}')]
        result = run("compare", "--data", tmp_path / "q.jsonl", *store, "--out", tmp_path / "out", *judge, "--json")
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert found["arms"]["default"]["figures"]["judge_grounded"] == pytest.approx(0.8)
        assert found["arms"]["none"]["figures"]["nDCG@10"] > 0.5
        foreign = run("compare", "--data", "farm", *store, "--max-queries", 2, "--out", tmp_path / "farm")
        assert "not in the corpus of farm" in foreign.stderr

    def test_from_feedback(self, tmp_path):
        log = tmp_path / "log.jsonl"
        log.write_text(lines({"question": "How deep?", "passage_id": "a", "helpful": True}))
        found = json.loads(run("questions", "--from-feedback", log, "--out", tmp_path / "q.jsonl", "--json").stdout)
        assert found["questions"] == 1
        assert json.loads((tmp_path / "q.jsonl").read_text())["synthetic"] is False

    @pytest.mark.parametrize("wrong", [(), ("--llm", "http://x#m"), ("--from-feedback", "nowhere")])
    def test_what_is_missing_is_explained(self, tmp_path, wrong):
        result = run("questions", "--out", tmp_path / "q.jsonl", *wrong)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
