"""Twenty visitors at once: everyone gets answers to their own questions, from their own documents."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import httpx
import pytest
from demo_server import PATIENCE, client, served

from rerankit.demo.settings import Limits

pytestmark = pytest.mark.slow

USERS = 20
CONTROLS = ("dense", 10, 3, [], "best sentences (offline)")


def visit(url: str, number: int, file) -> tuple[str, str, str]:
    with client(url) as visitor:
        listing, *_ = visitor.predict([gradio_client.handle_file(str(file))], api_name="/add")
        question = f"What is the gate code of paddock {number}?"
        answer, lists = visitor.predict(question, *CONTROLS, api_name="/ask_documents")
        return listing, answer, lists


def test_twenty_visitors_at_once_are_not_mixed_up(app, tmp_path):
    files = []
    for number in range(USERS):
        files.append(tmp_path / f"paddock-{number}.txt")
        files[-1].write_text(f"The gate code of paddock {number} is secret{number:03}. Close the gate behind you.")
    with ThreadPoolExecutor(USERS) as pool:
        seen = list(pool.map(visit, [app.url] * USERS, range(USERS), files))
    for number, (listing, answer, lists) in enumerate(seen):
        assert f"paddock-{number}.txt" in listing
        assert {f"secret{number:03}"} == set(re.findall(r"secret\d{3}", answer + lists))
    assert not [path for path in (app.votes.parent / "uploads").rglob("*.txt") if path.is_file()]


def test_files_of_one_visitor_that_come_at_once_go_to_one_library(app, tmp_path):
    files = [tmp_path / f"note-{number}.txt" for number in range(4)]
    for file in files:
        file.write_text(f"This is {file.name}.")
    with client(app.url) as visitor:
        jobs = [visitor.submit([gradio_client.handle_file(str(file))], api_name="/add") for file in files]
        listings = [job.result()[0] for job in jobs]
        assert max(len(set(re.findall(r"note-\d", listing))) for listing in listings) == len(files)
        _, lists = visitor.predict("What is this?", *CONTROLS, api_name="/ask_documents")
        assert set(re.findall(r"note-\d", lists)) == {file.stem for file in files}


@pytest.mark.parametrize("data", ["/etc", "../paddocks", "farm", ""])
def test_a_dataset_is_never_named_by_its_path(app, data):
    told = call(app, "experiment", data, ["lexical", "dense"], 4) + call(app, "dataset", data)
    assert "svg" not in told
    assert "passages" not in told


@pytest.mark.parametrize(
    ("controls", "told"),
    [
        (("cross-encoder:/etc", 10, 3, [], CONTROLS[4]), "not open to visitors"),
        (("late-interaction[cache=/etc/x]", 10, 3, [], CONTROLS[4]), "not open to visitors"),
        (("dense", 10**9, 3, [], CONTROLS[4]), "greater than maximum value 100"),
        (("dense", 10, 3, ["topic"], CONTROLS[4]), "is not in the list of choices"),
    ],
)
def test_a_request_past_the_page_is_held_to_the_same_rules(app, controls, told):
    with client(app.url) as visitor:
        try:
            answer, _ = visitor.predict("How deep is wheat sown?", *controls, api_name="/ask")
        except gradio_client.exceptions.AppError as error:  # gradio itself refuses some values
            answer = str(error)
    assert told in answer


def test_an_upload_past_the_page_is_bounded_and_kept_in_its_folder(app):
    def upload(name, content):
        return httpx.post(f"{app.url}gradio_api/upload", files={"files": (name, content)}, timeout=PATIENCE)

    assert upload("large.txt", b"x" * (Limits().file_bytes + 1)).status_code == 413
    (path,) = map(Path, upload("../../../evil.txt", b"rust").json())
    assert app.votes.parent / "uploads" in path.parents
    assert path.read_bytes() == b"rust"
    path.unlink()


def call(app, name, *values):
    """The events of a request past the page, as text."""
    address = f"{app.url}gradio_api/call/{name}"
    event = httpx.post(address, json={"data": values}, timeout=PATIENCE).json()["event_id"]
    return httpx.get(f"{address}/{event}", timeout=PATIENCE).text


@pytest.mark.parametrize("path", ["/etc/passwd", "votes.jsonl", "http://tracker.invalid/x.txt"])
def test_files_of_the_server_and_of_others_cannot_be_asked_for(app, path):
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for told in (call(app, "add", [file]), call(app, "ask", file, *CONTROLS)):
        assert "event: error\n" in told
        assert "event: complete" not in told
    assert httpx.get(f"{app.url}gradio_api/file={path}", timeout=PATIENCE).status_code in (403, 404)
    assert httpx.get(f"{app.url}gradio_api/proxy={path}", timeout=PATIENCE).status_code in (400, 403)
    assert app.outside() == ""


def test_a_password_keeps_others_out(tmp_path):
    users = tmp_path / "users.txt"
    users.write_text("ann:secret\n")
    with served(tmp_path, ["--auth", str(users), "--model", "none=none", "--model", "lexical=lexical"]) as app:
        with httpx.Client(base_url=app.url, timeout=PATIENCE) as ann:
            assert ann.get("config").status_code == 401
            assert ann.post("login", data={"username": "ann", "password": "wrong"}).status_code == 400
            assert ann.get("config").status_code == 401
            assert ann.post("login", data={"username": "ann", "password": "secret"}).status_code == 200
            assert ann.get("config").status_code == 200
        assert app.outside() == ""
