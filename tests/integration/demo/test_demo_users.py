"""Twenty visitors at once: everyone gets answers to their own questions, from their own documents."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio_client
import httpx
import pytest
from demo_server import served

pytestmark = pytest.mark.slow

USERS = 20
CONTROLS = ("dense", 10, 3, [], "best sentences (offline)")


def visit(url: str, number: int, file) -> tuple[str, str, str]:
    client = gradio_client.Client(url, verbose=False)
    try:
        listing, *_ = client.predict([gradio_client.handle_file(str(file))], api_name="/add")
        question = f"What is the gate code of paddock {number}?"
        answer, lists = client.predict(question, *CONTROLS, api_name="/ask_documents")
        return listing, answer, lists
    finally:
        client.close()


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


@pytest.mark.parametrize(
    ("controls", "told"),
    [
        (("cross-encoder:/etc", 10, 3, [], CONTROLS[4]), "not open to visitors"),
        (("late-interaction[cache=/etc/x]", 10, 3, [], CONTROLS[4]), "not open to visitors"),
        (("dense", 10**9, 3, [], CONTROLS[4]), "at most 100"),
        (("dense", 10, 3, ["topic"], CONTROLS[4]), "FIELD: VALUE"),
    ],
)
def test_a_request_past_the_page_is_held_to_the_same_rules(app, controls, told):
    client = gradio_client.Client(app.url, verbose=False)
    try:
        try:
            answer, _ = client.predict("How deep is wheat sown?", *controls, api_name="/ask")
        except Exception as error:  # gradio itself refuses some values
            answer = str(error)
        assert told in answer or "is not in the list of choices" in answer or "greater than maximum" in answer
    finally:
        client.close()


def test_an_upload_past_the_page_is_bounded_and_kept_in_its_folder(app):
    def upload(name, content):
        return httpx.post(f"{app.url}gradio_api/upload", files={"files": (name, content)}, timeout=60)

    refused = upload("large.txt", b"wheat " * 9_000_000)  # 54 MB
    assert refused.status_code == 413
    (path,) = upload("../../../evil.txt", b"rust").json()
    assert app.votes.parent / "uploads" in Path(path).parents
    assert httpx.get(f"{app.url}gradio_api/file={path}", follow_redirects=True).status_code in (200, 403)


@pytest.mark.parametrize("path", ["/etc/passwd", "../votes.jsonl", "http://tracker.invalid/x.txt"])
def test_files_of_the_server_and_of_others_cannot_be_asked_for(app, path):
    client = gradio_client.Client(app.url, verbose=False)
    try:
        with pytest.raises(Exception, match=r"(?i)error|invalid|not|disabled"):
            client.predict([{"path": path, "meta": {"_type": "gradio.FileData"}}], api_name="/add")
    finally:
        client.close()
    assert httpx.get(f"{app.url}gradio_api/file={path}").status_code >= 400


def test_a_password_keeps_others_out(tmp_path):
    users = tmp_path / "users.txt"
    users.write_text("ann:secret\n")
    with served(tmp_path, ["--auth", str(users), "--model", "none=none"]) as app:
        assert httpx.get(f"{app.url}config").status_code == 401
        assert httpx.post(f"{app.url}login", data={"username": "ann", "password": "wrong"}).status_code == 400
        with httpx.Client() as ann:
            ann.post(f"{app.url}login", data={"username": "ann", "password": "secret"})
            assert ann.get(f"{app.url}config").status_code == 200
        assert app.outside() == ""
