"""The command line: what goes to stdout, what to stderr, and with which exit status."""

from __future__ import annotations

import gzip
import html
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.core import TyperGroup
from typer.testing import CliRunner

import rerankit
from rerankit.cli import show
from rerankit.cli.app import app
from rerankit.cli.index import index_files
from rerankit.cli.output import printable, to_json
from rerankit.demo.tab_ask import EXAMPLES
from rerankit.errors import InputError
from rerankit.rerankers.compose import Prior
from rerankit.samples import farm
from rerankit.types import Hit, Passage, Ranking, Span

ROOT = Path(__file__).parents[1]
PASSAGES = ["Sheep are shorn in spring.", "Leaf rust shows on wheat.", "Wheat is sown in autumn."]


@pytest.fixture(autouse=True)
def restore_logging():
    """The command line configures the library's logger; other tests must not see that."""
    logger = logging.getLogger("rerankit")
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


def run(*arguments, given=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=given)


def start(*arguments, **options):
    command = [sys.executable, "-m", "rerankit.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def commands(group, within=""):
    """Every command of a group and of those in it, with its name."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{name} ")
        else:
            yield within + name, command


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


LIST = {"id": 7, "query": "rust on wheat", "passages": PASSAGES}


class TestWhole:
    def test_version(self):
        result = run("--version")
        assert (result.exit_code, result.stdout) == (0, f"rerankit {rerankit.__version__}\n")

    def test_help_lists_every_command(self):
        listed = run("--help").stdout
        assert all(re.search(rf"\b{name}\b", listed) for name in ("ask", "index", "rank", "models", "doctor"))

    @pytest.mark.parametrize("command", ["ask", "index", "rank", "models", "doctor"])
    def test_every_command_has_help_and_json(self, command):
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "--json" in re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)

    def test_every_option_says_in_words_of_its_own_what_it_is(self):
        for name, command in commands(typer.main.get_command(app)):
            for option in command.params:
                assert option.help, (name, option.name)
                assert not re.match("Of |The same|In that|Or ", option.help), (name, option.name, option.help)

    @pytest.mark.parametrize(
        ("command", "name", "old", "value"),
        [
            ("label", "--llm", "--model", "http://127.0.0.1:9/v1#m"),
            ("serve", "--rerank", "--model", "fast=lexical"),
            ("demo", "--rerank", "--model", "fast=lexical"),
            ("rank", "--out", "--output", "ranked.jsonl"),
            ("train reader", "--lora-rank", "--rank", "8"),
            ("train compressed", "--base", "--encoder", "my-encoder"),
        ],
    )
    def test_an_option_goes_by_the_name_of_its_kind_and_by_its_old_one(self, command, name, old, value):
        found = dict(commands(typer.main.get_command(app)))[command]
        option = next(option for option in found.params if old in option.opts)
        assert option.opts[0] == name
        read = [found.make_context(command, [flag, value], resilient_parsing=True).params for flag in (name, old)]
        assert read[0] == read[1]
        assert value in str(read[0][option.name])

    def test_wrong_usage_is_status_2_and_leaves_stdout_empty(self):
        result = run("rank", "--json", "--no-such-option")
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "no-such-option" in re.sub(r"\x1b\[[0-9;]*m", "", result.stderr)

    def test_an_error_is_one_line_and_status_1(self):
        result = run("rank", "--rerank", "lexicl", given=lines(LIST))
        assert result.exit_code == 1
        assert result.stdout == ""
        assert re.fullmatch(r"Error: .*lexical.*\n", result.stderr)

    def test_an_error_under_json_is_one_object(self):
        result = run("rank", "--json", "--rerank", "lexicl", given=lines(LIST))
        assert result.exit_code == 1
        error = json.loads(result.stdout)["error"]
        assert error["type"] == "SpecError"
        assert "lexical" in error["message"]

    def test_interrupt_is_status_130_without_traceback(self):
        process = start("rank", "--rerank", "none")
        process.stdin.write(b"{")
        process.stdin.flush()
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert b"Traceback" not in errors

    def test_a_reader_that_goes_away_is_no_traceback(self, tmp_path):
        source = tmp_path / "lists.jsonl"
        source.write_text(lines(*[{"query": "rust", "passages": PASSAGES * 50}] * 200))
        process = start("rank", source, "--rerank", "none")
        assert process.stdout.readline().startswith(b"{")
        process.stdout.close()
        errors = process.stderr.read()
        process.stdin.close()
        process.wait(timeout=30)
        process.stderr.close()
        assert b"Traceback" not in errors
        assert b"Error" not in errors

    def test_an_interrupt_while_it_starts_is_quiet_too(self, tmp_path):
        (tmp_path / "typer.py").write_text("raise KeyboardInterrupt")
        process = start("models", env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == 130

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    @pytest.mark.parametrize(("target", "reason"), [(">&-", b"closed"), (">/dev/full", b"space")])
    @pytest.mark.parametrize("command", ["models", "models --json", "rank --rerank none", "--help"])
    def test_output_that_cannot_be_written_is_one_line(self, command, target, reason):
        shell = ["sh", "-c", f"exec {sys.executable} -m rerankit.cli {command} {target}"]
        done = subprocess.run(
            shell, env={**os.environ, "PYTHONPATH": str(ROOT)}, input=lines(LIST).encode(), stderr=subprocess.PIPE
        )
        assert done.returncode == 1
        assert re.fullmatch(rb"Error: [^\n]*\n", done.stderr)
        assert reason in done.stderr

    def test_an_error_that_nobody_expected_is_reported_too(self, monkeypatch):
        monkeypatch.setattr("rerankit.spec.families", lambda: 1 / 0)
        result = run("models", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["error"] == {"type": "ZeroDivisionError", "message": "division by zero"}
        assert result.stderr.count("\n") == 1
        assert "--verbose" in result.stderr
        assert "Traceback" in run("--verbose", "models", "--json").stderr


class TestRankJsonLines:
    def test_one_ranking_per_line_in_order(self):
        result = run("rank", "--rerank", "lexical", given=lines(LIST, {"query": "sheep", "passages": PASSAGES}))
        first, second = map(json.loads, result.stdout.splitlines())
        assert first["id"] == "7"
        assert "id" not in second
        assert next(hit["prior_rank"] for hit in first["hits"]) == 2
        assert sorted(hit["prior_rank"] for hit in first["hits"]) == [1, 2, 3]
        assert second["hits"][0]["passage"]["text"] == PASSAGES[0]
        assert Ranking.from_dict(second).query == "sheep"

    def test_passages_may_be_objects(self):
        row = {
            "query": "rust",
            "passages": [{"id": 3, "text": "Rust.", "title": "T", "metadata": {"a": 1}, "score": 0.5}],
        }
        (hit,) = json.loads(run("rank", "--rerank", "none", given=lines(row)).stdout)["hits"]
        assert (hit["passage"]["id"], hit["passage"]["title"], hit["prior_score"]) == ("3", "T", 0.5)

    def test_top_k_cuts_the_view(self):
        result = run("rank", "--rerank", "none", "--top-k", 2, given=lines(LIST))
        assert len(json.loads(result.stdout)["hits"]) == 2

    def test_json_is_one_object(self):
        report = json.loads(run("rank", "--rerank", "none", "--json", given=lines(LIST, LIST)).stdout)
        assert (report["queries"], report["passages"], len(report["rankings"])) == (2, 6, 2)

    def test_a_compressed_file_in_and_a_file_out(self, tmp_path):
        source, target = tmp_path / "lists.jsonl.gz", tmp_path / "out.jsonl"
        source.write_bytes(gzip.compress(lines(LIST).encode()))
        result = run("rank", source, "--rerank", "none", "--output", target, "--json")
        assert json.loads(result.stdout)["output"] == str(target)
        assert json.loads(target.read_text())["query"] == LIST["query"]
        assert os.listdir(tmp_path) == ["lists.jsonl.gz", "out.jsonl"] or len(os.listdir(tmp_path)) == 2

    def test_every_wrong_line_is_named_and_nothing_is_ranked(self, tmp_path):
        wrong = ["{", "[]", '{"query": "", "passages": []}', '{"query": "q"}', '{"query": "q", "passages": [1]}',
                 '{"query": "q", "passages": [{"text": "t", "txt": 1}]}',
                 '{"query": "q", "passages": [{"text": "t", "score": NaN}]}']  # fmt: skip
        source, target = tmp_path / "lists.jsonl", tmp_path / "out.jsonl"
        source.write_text(lines(LIST) + "\n\n" + "\n".join(wrong))
        result = run("rank", source, "--rerank", "none", "--output", target)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert not target.exists()
        assert f"{len(wrong)} wrong line" in result.stderr
        assert all(f"line {number}: " in result.stderr for number in range(4, 9))
        assert "and 2 more" in result.stderr

    @pytest.mark.parametrize(
        ("passage", "reason"),
        [
            ('{"text": "t", "score": 1e999}', "1e999"),
            ('{"text": "t", "metadata": {"a": [-1e999]}}', "-1e999"),
            ('{"text": "t", "score": 1' + "0" * 400 + "}", "score"),
            ('{"text": "t", "score": "1"}', "score"),
            ('{"text": "t", "score": true}', "score"),
            ('{"text": "t", "metadata": [1]}', "metadata"),
            ('{"text": null}', "text"),
        ],
    )
    def test_a_wrong_field_is_named(self, passage, reason):
        given = lines(LIST) + f'{{"query": "q", "passages": [{passage}]}}\n'
        result = run("rank", "--rerank", "none", "--json", given=given)
        assert result.exit_code == 1
        error = json.loads(result.stdout)["error"]
        assert error["type"] == "InputError"
        assert "line 2: " in error["message"]
        assert reason in error["message"].partition("line 2: ")[2]

    def test_null_is_no_title(self):
        row = {"query": "q", "passages": [{"text": "t", "title": None, "metadata": None, "score": None}]}
        (hit,) = json.loads(run("rank", "--rerank", "none", given=lines(row)).stdout)["hits"]
        assert (hit["passage"]["title"], hit["passage"]["metadata"], hit["prior_score"]) == ("", {}, None)

    @pytest.mark.parametrize("query", ["\0", "\u200b", " \u2060\ufeff "])
    def test_a_query_that_shows_nothing_is_a_wrong_line(self, query):
        result = run("rank", "--rerank", "none", given=lines(LIST, {"query": query, "passages": PASSAGES}))
        assert (result.exit_code, result.stdout) == (1, "")
        assert "line 2: " in result.stderr

    def test_what_only_the_reranker_refuses_is_named_too(self, monkeypatch):
        def refuse(self, requests, call):
            if any("sheep" in request.query for request in requests):
                raise InputError("too long")
            return score_lists(self, requests, call)

        score_lists = Prior.score_lists
        monkeypatch.setattr(Prior, "score_lists", refuse)
        result = run("rank", "--rerank", "none", given=lines(LIST, LIST, {"query": "sheep", "passages": PASSAGES}))
        assert result.exit_code == 1
        assert result.stderr == "Error: line 3: too long\n"

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
    def test_a_deadline_is_a_number_above_zero(self, seconds):
        assert run("rank", "--deadline", seconds, given=lines(LIST)).exit_code == 2

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x1f\x8b\x08broken"])
    def test_a_file_that_is_no_text_is_named(self, tmp_path, content):
        source = tmp_path / ("lists.gz" if content[0] == 0x1F else "lists.jsonl")
        source.write_bytes(content)
        result = run("rank", source, "--rerank", "none")
        assert result.exit_code == 1
        assert source.name in result.stderr

    def test_a_missing_file_is_named(self):
        result = run("rank", "no-such.jsonl")
        assert result.exit_code == 1
        assert "no-such.jsonl" in result.stderr

    def test_a_failed_run_leaves_no_output(self, tmp_path):
        target = tmp_path / "out.jsonl"
        result = run("rank", "--rerank", "none", "--output", tmp_path / "missing" / "out.jsonl", given=lines(LIST))
        assert result.exit_code == 1
        assert not target.exists()

    def test_a_name_that_ends_in_gz_is_written_compressed(self, tmp_path):
        target = tmp_path / "out.jsonl.gz"
        assert run("rank", "--rerank", "none", "--output", target, given=lines(LIST)).exit_code == 0
        assert json.loads(gzip.decompress(target.read_bytes()))["query"] == LIST["query"]
        assert run("rank", target, "--rerank", "none").exit_code == 1  # rankings are no lists, but can be read
        assert os.listdir(tmp_path) == ["out.jsonl.gz"]

    def test_an_error_leaves_what_was_there(self, tmp_path):
        target = tmp_path / "out.jsonl"
        target.write_text("before")
        result = run("rank", "--rerank", "cross-encoder:/no/such/model", "--output", target, given=lines(LIST))
        assert result.exit_code == 1
        assert os.listdir(tmp_path) == ["out.jsonl"]
        assert target.read_text() == "before"

    def test_an_interrupt_leaves_nothing_behind(self, tmp_path, monkeypatch):
        def interrupt(*_):
            assert len(os.listdir(tmp_path)) == 1
            raise KeyboardInterrupt

        monkeypatch.setattr(Prior, "score_lists", interrupt)
        assert run("rank", "--rerank", "none", "--output", tmp_path / "out", given=lines(LIST)).exit_code == 130
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("target", ["", "missing/out.jsonl"])
    def test_where_nothing_can_be_written_is_said_before_anything_is_read(self, tmp_path, target):
        result = run("rank", "no-such.jsonl", "--rerank", "none", "--output", tmp_path / target)
        assert result.exit_code == 1
        assert "folder" in result.stderr
        assert os.listdir(tmp_path) == []

    def test_a_device_is_written_to_and_not_replaced(self, tmp_path):
        (tmp_path / "null").symlink_to(os.devnull)
        assert run("rank", "--rerank", "none", "--output", tmp_path / "null", given=lines(LIST)).exit_code == 0
        assert (tmp_path / "null").is_symlink()
        assert not Path(os.devnull).is_file()


class TestRankTrec:
    @pytest.fixture
    def files(self, tmp_path):
        (tmp_path / "queries.jsonl").write_text(
            lines({"_id": "q1", "text": "rust on wheat"}, {"_id": "q2", "text": "x"})
        )
        rows = [{"_id": f"d{i}", "text": text, "title": None} for i, text in enumerate(PASSAGES)]
        (tmp_path / "corpus.jsonl").write_text(lines(*rows))
        (tmp_path / "run.trec").write_text("q1 Q0 d2 2 0.5 tag\nq1 Q0 d0 1 0.9 tag\nq1 Q0 d1 3 0.1 tag\n")
        return tmp_path

    def trec(self, files, *more):
        texts = ("--queries", files / "queries.jsonl", "--corpus", files / "corpus.jsonl")
        return run("rank", files / "run.trec", "--format", "trec", *texts, *more)

    def test_a_run_in_and_a_run_out(self, files):
        rows = [line.split() for line in self.trec(files, "--rerank", "lexical").stdout.splitlines()]
        assert rows[0][:4] == ["q1", "Q0", "d1", "1"]
        assert {row[2] for row in rows} == {"d0", "d1", "d2"}
        assert [float(row[4]) for row in rows] == sorted((float(row[4]) for row in rows), reverse=True)

    def test_candidates_are_ordered_by_score(self, files):
        rows = [line.split()[2] for line in self.trec(files, "--rerank", "none").stdout.splitlines()]
        assert rows == ["d0", "d2", "d1"]

    def test_a_passage_without_text_is_named(self, files):
        (files / "run.trec").write_text("q1 Q0 d9 1 0.9 tag\n")
        result = self.trec(files, "--rerank", "none")
        assert result.exit_code == 1
        assert "'d9'" in result.stderr

    def test_a_query_without_text_is_named(self, files):
        (files / "queries.jsonl").write_text(lines({"_id": "q0", "text": ""}, {"_id": "q1", "text": "\u200b"}))
        result = self.trec(files, "--rerank", "none")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "queries.jsonl has 1 wrong line(s)" in result.stderr
        assert "line 2: " in result.stderr

    @pytest.mark.parametrize("line", ["q1 Q0 d0 1", "q1 Q0 d0 1 high tag", "q1 Q0 d0 1 nan tag"])
    def test_a_wrong_line_is_named(self, files, line):
        (files / "run.trec").write_text(f"q1 Q0 d1 1 0.9 tag\n{line}\n")
        result = self.trec(files, "--rerank", "none")
        assert result.exit_code == 1
        assert "line 2: " in result.stderr

    def test_a_run_needs_texts_and_json_lines_do_not(self, files):
        assert run("rank", files / "run.trec", "--format", "trec").exit_code == 2
        assert run("rank", "-", "--queries", files / "queries.jsonl").exit_code == 2


class TestModelsAndDoctor:
    def test_models_lists_every_family(self):
        listed = json.loads(run("models", "--json").stdout)
        assert {"late-interaction", "cross-encoder", "dense", "lexical", "fusion", "mmr"} <= {
            family["name"] for family in listed["families"]
        }
        assert "default" in listed["aliases"]
        assert any("ms-marco" in row["pattern"] for row in listed["checkpoints"])
        assert "late-interaction" in run("models").stdout

    def test_doctor_reports_what_ask_needs(self):
        result = run("doctor", "--json")
        report = json.loads(result.stdout)
        assert result.exit_code == 0, report["problems"]
        assert report["packages"]["chromadb"]
        assert report["auto"]["backend"] in {"openvino", "onnxruntime", "torch"}
        assert report["processor"]["cores"] >= 1
        assert len(report["embedded_model"]["sha256"]) == 64
        assert "embedded model" in run("doctor").stdout

    def test_doctor_finds_tampered_weights(self, tmp_path, monkeypatch):
        from rerankit.models import embedded

        (tmp_path / "model.safetensors").write_bytes(b"not the weights")
        (tmp_path / "config.json").write_text("{}")
        monkeypatch.setattr(embedded, "model_folder", lambda: tmp_path)
        result = run("doctor", "--json")
        assert result.exit_code == 1
        assert "sha256" in json.loads(result.stdout)["problems"][0]

    def test_doctor_sees_a_cache_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("in the way")
        process = start("doctor", "--json", env={"RERANKIT_CACHE": str(tmp_path / "file" / "cache")})
        output, errors = process.communicate(timeout=60)
        assert json.loads(output)["cache"]["writable"] is False
        assert b"RERANKIT_CACHE" in errors


@pytest.fixture(scope="module")
def farm_store(tmp_path_factory):
    """The sample corpus, indexed once."""
    store = tmp_path_factory.mktemp("farm") / "store"
    first = run(
        "ask", "How deep to sow wheat?", "--store", store, "--corpus", "sample:farm", "--rerank", "none", "--json"
    )
    assert first.exit_code == 0, first.output
    return store


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "rust.md").write_text("# Leaf rust\n\nLeaf rust shows as small orange pustules on wheat leaves.\n")
    (folder / "sheep.txt").write_text("Sheep are shorn once a year, in spring, before the heat comes.\n")
    return folder


class TestAsk:
    QUESTION = "How deep should I sow wheat into dry soil?"

    def ask(self, store, *more):
        return run("ask", self.QUESTION, "--store", store, "--rerank", "none", *more)

    def test_json_is_one_object_with_everything(self, farm_store):
        result = self.ask(farm_store, "--json", "--fetch-k", 12)
        report = json.loads(result.stdout)
        assert result.exit_code == 0
        assert report["question"] == self.QUESTION
        assert "3 to 5 cm" in report["answer"]["text"]
        assert report["answer"]["abstained"] is False
        assert len(report["ranking"]["hits"]) == 12
        assert set(report["timings"]) == {"load", "index", "retrieve", "rerank", "answer", "total"}
        texts = {hit["passage"]["id"]: hit["passage"]["text"] for hit in report["ranking"]["hits"]}
        assert report["answer"]["citations"]
        for citation in report["answer"]["citations"]:
            assert texts[citation["passage_id"]][citation["start"] : citation["end"]] == citation["quote"]

    def test_the_page_shows_table_answer_sources_and_timings(self, farm_store):
        page = self.ask(farm_store).stdout
        for part in (self.QUESTION, "moved", "retrieval", "rerank", "Answer", "[1]", "Sources", "total"):
            assert part in page
        assert "\x1b" not in page

    def test_the_picture_in_the_documentation_is_what_a_run_prints_today(self, farm_store):
        (question,) = (q for q in farm.questions() if q.text == EXAMPLES[0])
        assert f"Q ?= {question.text}\n" in (ROOT / "Makefile").read_text("utf-8")
        report = json.loads(run("ask", question.text, "--store", farm_store, "--json").stdout)
        assert all(fact in report["answer"]["text"] for fact in question.key_facts)
        hits = {hit["passage"]["title"]: hit for hit in report["ranking"]["hits"]}
        picture = (ROOT / "docs" / "assets" / "ask.svg").read_text("utf-8")
        texts = re.findall(r"<text[^>]*>(.*?)</text>", picture)
        pieces = [piece for text in texts if (piece := html.unescape(text).replace("\xa0", " ").strip())]
        assert report["answer"]["text"] in " ".join(pieces)
        drawn = [piece for piece in pieces if piece in hits][:4]
        scores = [hit["score"] for hit in hits.values()]
        assert [hits[title]["score"] for title in drawn] == pytest.approx(scores[:4], abs=0.01)  # near-ties may swap
        assert hits[drawn[0]]["prior_rank"] > 5
        plain = json.loads(run("ask", question.text, "--store", farm_store, "--rerank", "none", "--json").stdout)
        assert not any(fact in plain["answer"]["text"] for fact in question.key_facts)

    def test_no_answer_is_said_and_is_no_failure(self, farm_store):
        result = run("ask", "Who won the 1972 chess title?", "--store", farm_store, "--rerank", "none", "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["answer"]["abstained"] is True

    def test_filters_narrow_and_all_must_hold(self, farm_store):
        kept = json.loads(self.ask(farm_store, "--json", "--filter", "topic=crops").stdout)["ranking"]["hits"]
        assert {hit["passage"]["metadata"]["topic"] for hit in kept} == {"crops"}
        both = self.ask(farm_store, "--json", "--filter", "topic=crops", "--filter", "topic=soils")
        assert json.loads(both.stdout)["ranking"]["hits"] == []
        assert json.loads(both.stdout)["answer"]["abstained"] is True

    def test_a_filter_finds_numbers_and_texts(self, tmp_path):
        (tmp_path / "rows.jsonl").write_text(lines({"id": "a", "text": "Rust on wheat.", "year": 2020, "code": "7"}))
        for condition, count in {"year=2020": 1, "code=7": 1, "year=2021": 0}.items():
            asked = ("--corpus", tmp_path / "rows.jsonl", "--filter", condition, "--json")
            assert len(json.loads(self.ask(tmp_path / "store", *asked).stdout)["ranking"]["hits"]) == count

    @pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "9" * 30])
    def test_a_filter_finds_texts_that_look_like_no_number(self, tmp_path, value):
        (tmp_path / "rows.jsonl").write_text(lines({"id": "a", "text": "Rust on wheat.", "code": value}))
        asked = ("--corpus", tmp_path / "rows.jsonl", "--filter", f"code={value}", "--json")
        report = json.loads(self.ask(tmp_path / "store", *asked).stdout)
        assert len(report["ranking"]["hits"]) == 1

    def test_a_store_is_asked_as_it_is(self, tmp_path):
        result = self.ask(tmp_path / "nothing", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["error"]["type"] == "StoreError"
        assert not (tmp_path / "nothing").exists()

    def test_own_files(self, notes, tmp_path):
        asked = ("--corpus", notes, "--store", tmp_path / "store", "--rerank", "none", "--json")
        report = json.loads(run("ask", "When are sheep shorn?", *asked).stdout)
        assert report["answer"]["citations"][0]["passage_id"] == "sheep.txt#0001"

    def test_files_without_text_are_said_and_leave_no_store(self, tmp_path):
        (tmp_path / "empty").mkdir()
        for more in ((), ("--store", tmp_path / "store")):
            result = run("ask", "q", "--corpus", tmp_path / "empty", "--rerank", "none", *more)
            assert result.exit_code == 1
            assert result.stderr == f"Error: There is no text in {tmp_path / 'empty'}\n"
        assert not (tmp_path / "store").exists()

    def test_a_store_that_is_a_file_is_explained(self, notes, tmp_path):
        (tmp_path / "file").write_text("")
        for command in (("ask", "q", "--corpus", notes), ("ask", "q"), ("index", notes)):
            result = run(*command, "--store", tmp_path / "file")
            assert result.exit_code == 1
            assert "is a file" in result.stderr

    @pytest.mark.parametrize(
        ("wrong", "status"),
        [
            (("--store", "no-such-store"), 1),
            (("--rerank", "lexicl"), 1),
            (("--deadline", "0"), 2),
            (("--filter", "x"), 1),
        ],
    )
    def test_what_is_wrong_is_said_before_models_are_loaded(self, farm_store, monkeypatch, wrong, status):
        monkeypatch.setattr("rerankit.models.embedded.embedder", lambda: pytest.fail("loaded"))
        result = run("ask", "q", "--store", farm_store, *wrong)
        assert result.exit_code == status
        assert "loaded" not in result.output

    @pytest.mark.parametrize("question", ["  ", "\0", "\u200b"])
    def test_a_question_that_shows_nothing_is_refused_first(self, monkeypatch, question):
        monkeypatch.setattr("rerankit.models.embedded.embedder", lambda: pytest.fail("loaded"))
        result = run("ask", question, "--json")
        assert json.loads(result.stdout)["error"]["type"] == "InputError"

    def test_colours_in_a_pipe_bring_no_animation(self, farm_store):
        process = start(
            "ask", self.QUESTION, "--store", farm_store, "--rerank", "none", env={"FORCE_COLOR": "1", "NO_COLOR": ""}
        )
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert b"\x1b[1m" in output
        assert set(re.findall(rb"\x1b\[[0-9;?]*([A-Za-z])", output + errors)) == {b"m"}
        assert output.count(b"Answer") == 1

    def test_fetch_k_must_leave_a_choice(self, farm_store):
        assert self.ask(farm_store, "--fetch-k", 5, "--top-k", 5).exit_code == 2

    @pytest.mark.parametrize("wrong", [("--llm", "nonsense"), ("--filter", "nonsense"), ("--rerank", "nonsense")])
    def test_wrong_values_are_explained(self, farm_store, wrong):
        result = run("ask", "q", "--store", farm_store, *wrong)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")

    def test_an_empty_question_is_explained(self, farm_store):
        result = run("ask", "  ", "--store", farm_store, "--rerank", "none", "--json")
        assert json.loads(result.stdout)["error"]["type"] == "InputError"


class ChatServer(BaseHTTPRequestHandler):
    """A chat endpoint that always gives the same cited answer, whole or in pieces."""

    pieces = ("Sow it 3 to 5 cm deep", " [1], and not deeper [99].")

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked.get("stream"):
            chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in self.pieces]
            chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            kind, body = "text/event-stream", "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
            body += "data: [DONE]\n\n"
        else:
            message = {"role": "assistant", "content": "".join(self.pieces)}
            kind, body = "application/json", json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        """Keep the test's output clean."""


@pytest.fixture
def chat_url():
    with ThreadingHTTPServer(("127.0.0.1", 0), ChatServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1#tiny"
        server.shutdown()
        thread.join()


class TestAskAModel:
    def ask(self, store, url, *more):
        return run("ask", TestAsk.QUESTION, "--store", store, "--rerank", "none", "--llm", url, *more)

    def test_citations_are_checked(self, farm_store, chat_url):
        answer = json.loads(self.ask(farm_store, chat_url, "--json").stdout)["answer"]
        assert answer["text"] == "Sow it 3 to 5 cm deep [1], and not deeper."
        assert [citation["number"] for citation in answer["citations"]] == [1]
        assert "[99]" in answer["reason"]

    def test_the_page_shows_the_checked_text_once(self, farm_store, chat_url):
        page = self.ask(farm_store, chat_url).stdout
        assert page.count("Sow it 3 to 5 cm deep [1]") == 1
        assert "not deeper." in page

    def test_an_endpoint_that_is_down_is_explained(self, farm_store):
        result = self.ask(farm_store, "http://127.0.0.1:9/v1#tiny", "--json", "--deadline", 2)
        assert result.exit_code == 1
        assert json.loads(result.stdout)["error"]["type"] == "BackendError"


class TestIndex:
    def test_counts_and_idempotence(self, notes, tmp_path):
        def index(*more):
            return json.loads(run("index", notes, "--store", tmp_path / "store", "--json", *more).stdout)

        assert (index()["added"], index()["unchanged"]) == (2, 2)
        (notes / "rust.md").write_text("# Leaf rust\n\nLeaf rust is a fungus.\n")
        (notes / "sheep.txt").unlink()
        again = index("--prune")
        assert (again["added"], again["updated"], again["unchanged"], again["deleted"]) == (0, 1, 0, 1)

    def test_what_cannot_be_read_is_named_and_nothing_pruned(self, notes, tmp_path):
        store = tmp_path / "store"
        run("index", notes, "--store", store)
        (notes / "sheep.txt").write_bytes(bytes(range(32)) * 100)
        result = run("index", notes, "--store", store, "--prune")
        assert result.exit_code == 0
        assert "sheep.txt" in result.stdout
        assert "0 deleted" in result.stdout

    def test_a_file_that_goes_bad_meanwhile_keeps_its_passages(self, notes, tmp_path, monkeypatch):
        from rerankit.rag.indexing import Indexer

        class GoesBad(Indexer):
            def run(self, *arguments, **options):
                report = super().run(*arguments, **options)
                (notes / "sheep.txt").write_bytes(bytes(range(32)) * 100)
                return report

        with rerankit.ChromaRetriever(tmp_path / "store") as retriever:
            retriever.index([Passage("gone", "Gone.")])
            monkeypatch.setattr("rerankit.rag.chroma.Indexer", GoesBad)
            report, problems = index_files(retriever, [str(notes)], prune=True, progress=False)
            assert (report.added, report.deleted, problems) == (2, 1, [])
            assert {p.metadata["source"] for p in retriever.passages()} == {"rust.md", "sheep.txt"}

    def test_nothing_to_index_is_an_error(self, tmp_path):
        assert run("index", tmp_path / "missing", "--store", tmp_path / "store").exit_code == 1
        (tmp_path / "empty.txt").write_text("")
        result = run("index", tmp_path / "empty.txt", "--store", tmp_path / "store")
        assert result.exit_code == 1
        assert "empty.txt" in result.stderr
        assert not (tmp_path / "store").exists()

    def test_a_server_that_is_down_is_explained(self, notes):
        result = run("index", notes, "--store", "http://127.0.0.1:9", "--json")
        assert json.loads(result.stdout)["error"]["type"] == "StoreError"


class TestOutput:
    @given(st.text(alphabet=st.characters()))
    def test_printable_keeps_offsets_and_obeys_nothing(self, text):
        shown = printable(text)
        assert len(shown) == len(text)
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)

    @given(st.text(alphabet=st.characters()))
    def test_json_survives_any_text_and_shows_no_control_characters(self, text):
        line = to_json({"text": text})
        assert json.loads(line) == {"text": text}
        assert printable(line) == line

    def test_json_has_no_infinities(self):
        with pytest.raises(ValueError, match="JSON"):
            to_json({"score": float("inf")})


def rendered(ranking, *, top_k=2, width=100):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(show.before_after(ranking, top_k, width=width))
    return console.file.getvalue()


def ranking_of(*texts, order=None):
    order = order or range(len(texts))
    hits = [Hit(Passage(f"d{i}", texts[i]), rank, 1.0 / rank, i + 1, 0.5) for rank, i in enumerate(order, 1)]
    return Ranking("q", tuple(hits), "m", "logit")


class TestShow:
    def test_movement_and_what_was_pushed_out(self):
        text = rendered(ranking_of("alpha", "beta", "gamma", order=[2, 0, 1]))
        assert "▲2" in text
        assert "▼1" in text
        assert "was 2, now 3" in text

    def test_hostile_text_is_shown_and_not_obeyed(self):
        text = rendered(ranking_of("[red]boo[/red] \x1b[31mred\x1b[0m \x9b2J \u202egnp :bomb:", "[/]"))
        assert "[red]boo[/red]" in text
        assert ":bomb:" in text
        assert not re.search("[\x1b\x9b\u202e]", text)

    @given(st.integers(20, 120), st.text(max_size=300), st.lists(st.integers(0, 300), min_size=2, max_size=2))
    def test_fits_any_terminal_and_any_evidence(self, width, text, offsets):
        start, end = sorted(offsets)
        hit = Hit(Passage("d", text), 1, 1.0, 1, evidence=(Span(start, end),))
        lines = rendered(Ranking("q", (hit,), "m", "logit"), width=width).splitlines()
        assert all(len(line) <= width or not line.isascii() for line in lines)

    def test_snippet_shows_the_evidence(self):
        text = "filler words " * 100 + "the needle is here " + "more filler " * 100
        at = text.index("the needle")
        shown = show.snippet(Hit(Passage("d", text), 1, 1.0, 1, evidence=(Span(at, at + 18),)), 100)
        assert "the needle is here" in shown.plain
        assert len(shown.plain) <= 110
        assert [shown.plain[span.start : span.end] for span in shown.spans] == ["the needle is here"]
