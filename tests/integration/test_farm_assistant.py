"""The programs of examples/farm_assistant and the mistakes that people make with them: a line each, no traceback."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import pytest

from rerankit.errors import InputError

EXAMPLE = Path(__file__).parents[2] / "examples" / "farm_assistant"
MODULES = ("bot_api", "telegram_bot", "farm_assistant", "chat", "chat_page")
WHEAT = "Wheat is sown 3 to 5 cm deep into moist soil."
SHEEP = "Sheep are shorn once a year, in spring, before the heat comes."


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working directory of two leaflets, with the example's modules within reach."""
    pytest.importorskip("chromadb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    (tmp_path / "wheat.txt").write_text(WHEAT)
    (tmp_path / "sheep.txt").write_text(SHEEP)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


def build(*files):
    return importlib.import_module("farm_assistant").build([*files], rerank="lexical")


def sources(assistant):
    return {passage.metadata["source"] for passage in assistant.retriever.retrieve("wheat sheep", k=10)}


def test_a_file_that_cannot_be_read_is_named_and_what_was_read_before_is_kept(folder, capsys):
    assert sources(build("wheat.txt", "sheep.txt")) == {"wheat.txt", "sheep.txt"}
    (folder / "sheep.txt").write_bytes(b"\0\1\2" * 100)
    assistant = build("wheat.txt", "sheep.txt")
    err = capsys.readouterr().err
    assert "sheep.txt: " in err
    assert "are kept" in err
    assert sources(assistant) == {"wheat.txt", "sheep.txt"}
    assert sources(build("wheat.txt")) == {"wheat.txt"}, "when everything can be read, what is gone is removed"


def test_nothing_to_answer_from_is_refused_and_the_store_left_alone(folder, capsys):
    build("wheat.txt")
    (folder / "wheat.txt").write_bytes(b"\0\1\2" * 100)
    with pytest.raises(InputError, match="nothing to answer from"):
        build("wheat.txt")
    assert "wheat.txt: " in capsys.readouterr().err
    assert sources(build("sheep.txt")) == {"sheep.txt"}


def test_it_tells_kinds_apart_and_knows_their_other_names(folder):
    (folder / "hens.txt").write_text("Hens lay all winter if they get 15 hours of light a day.")
    assistant = build("hens.txt", "sheep.txt")
    turn = assistant.ask("How many hours of light a day do my chooks need to lay all winter?")
    assert (turn.kind, [citation.quote for citation in turn.answer.citations][:1]) == (
        "answer",
        ["Hens lay all winter if they get 15 hours of light a day."],
    )
    turn = assistant.ask("How many hours of light a day do my quail need to lay all winter?", conversation="2")
    assert turn.kind == "abstention"
    assert "about hens, not about quail" in turn.answer.reason


@pytest.mark.parametrize("program", ["chat", "chat_page", "telegram_bot"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.txt"], "missing.txt"),
        (["wheat.txt", "--rerank", "no/such:spec:at all"], "no/such"),
        (["wheat.txt", "--llm", "ftp://nonsense"], "nonsense"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(program, arguments, said, monkeypatch):
    if program == "chat_page":
        pytest.importorskip("gradio")
    monkeypatch.setenv("TELEGRAM_TOKEN", "1:x")
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(program).main()
    assert ended.value.code.startswith("Error: ")  # which Python prints on standard error, with status 1
    assert said in ended.value.code
    assert "\n" not in ended.value.code


def test_input_that_is_no_text_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["chat", "wheat.txt", "--rerank", "lexical"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"wheat \xff\xfe\n"), "utf-8"))
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("chat").main()
    assert ended.value.code == "Error: The input is not utf-8 text"


def test_judging_and_exporting_on_the_command_line_say_what_they_did(folder, monkeypatch, capsys):
    lines = ["/up", "/wrong", "How deep is wheat sown?", "/wrong", "/wrong 4 cm", "/up", "/export ~/out.jsonl",
             "/export no/folder.jsonl", "/forget", "/down"]  # fmt: skip
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(sys, "argv", ["chat", "wheat.txt", "--rerank", "lexical"])
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines)))
    importlib.import_module("chat").main()
    out, err = capsys.readouterr()
    assert out.count("There is no answer to judge yet") == 3
    assert out.count("/wrong TEXT") == 1
    assert out.count("Noted") == 2
    assert "4 cm" in (folder / "out.jsonl").read_text()
    assert "'no/folder.jsonl'" in err
