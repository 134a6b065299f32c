"""The Telegram client of examples/farm_assistant against a Bot API on loopback."""

from __future__ import annotations

import importlib
import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from families import WordOverlap
from hypothesis import given
from hypothesis import strategies as st

from rerankit.rag.agent import Assistant
from rerankit.types import Passage

EXAMPLE = Path(__file__).parents[2] / "examples" / "farm_assistant"
TOKEN = "123456:secret-token"
LONG = " ".join(f"Wheat sown too deep in row {n} never comes up." for n in range(300))
FARM = [
    Passage("wheat", "Wheat is sown 3 to 5 cm deep into moist soil.", "Sowing depth of wheat"),
    Passage("shear", "Sheep are shorn once a year, in spring, before the heat comes.", "When sheep are shorn"),
]


@pytest.fixture(scope="module")
def example():
    """The example's modules, imported as its programs import them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        yield {name: importlib.import_module(name) for name in ("bot_api", "telegram_bot", "farm_assistant", "chat")}
        for name in ("bot_api", "telegram_bot", "farm_assistant", "chat"):
            sys.modules.pop(name, None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, reply = self.server.answer(self.path, body)
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Telegram(ThreadingHTTPServer):
    """Hands out the updates that were not confirmed, keeps what it is sent, and fails as it is told to."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.updates, self.sent, self.offsets, self.failures = [], [], [], []
        self.stop = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path, body):
        if path.split("/")[1] != f"bot{TOKEN}":
            return 401, {"ok": False, "error_code": 401, "description": f"Unauthorized {path}"}
        if self.failures:
            return self.failures.pop(0)
        method = path.split("/")[-1]
        if method != "getUpdates":
            self.sent.append((method, body))
            return 200, {"ok": True, "result": True}
        self.offsets.append(body["offset"])
        self.updates = [u for u in self.updates if not _number(u) or _number(u) >= body["offset"]]
        if not self.updates or (body["offset"] and not any(map(_number, self.updates))):
            self.stop.set()  # everything is confirmed: the test is over
        return 200, {"ok": True, "result": self.updates[:3]}

    def texts(self):
        return [body["text"] for method, body in self.sent if method == "sendMessage"]


def _number(update):
    return update.get("update_id") if isinstance(update, dict) and isinstance(update.get("update_id"), int) else None


@pytest.fixture
def telegram():
    server = Telegram()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def api(example, telegram):
    made = example["bot_api"].BotApi(
        TOKEN, base_url=telegram.url, poll_s=0, backoff_s=0.01, retries=3, stop=telegram.stop
    )
    yield made
    made.close()


class InMemory:
    def __init__(self, passages):
        self.passages = passages

    def retrieve(self, query, *, k=None, where=None):
        return self.passages[:k]


@pytest.fixture
def bot(example, api):
    return example["telegram_bot"].FarmBot(api, Assistant(InMemory(FARM), WordOverlap()))


def message(number, text, user=7, chat=70):
    return {"update_id": number, "message": {"chat": {"id": chat}, "from": {"id": user}, "text": text}}


def thumb(number, data, user=7):
    return {"update_id": number, "callback_query": {"id": f"q{number}", "from": {"id": user}, "data": data}}


def test_a_question_gets_an_answer_with_its_source_and_thumbs(bot, telegram):
    telegram.updates = [message(5, "How deep is wheat sown?")]
    bot.run()
    assert telegram.sent[0] == ("sendChatAction", {"chat_id": 70, "action": "typing"})
    method, body = telegram.sent[1]
    assert (method, body["chat_id"]) == ("sendMessage", 70)
    assert "3 to 5 cm deep" in body["text"]
    assert "[1] Sowing depth of wheat" in body["text"]
    assert body["link_preview_options"] == {"is_disabled": True}
    assert "parse_mode" not in body
    (row,) = body["reply_markup"]["inline_keyboard"]
    assert [button["callback_data"] for button in row] == ["up:1", "down:1"]


def test_every_update_is_handled_once_and_confirmed(bot, telegram):
    telegram.updates = [message(n, "When are sheep shorn?", user=n, chat=n) for n in range(10, 17)]
    bot.run()
    assert len(telegram.texts()) == 7
    assert telegram.offsets == [0, 13, 16, 17]
    assert all(len(bot.assistant.memory.history(f"telegram:{n}", f"{n}/0")) == 1 for n in range(10, 17))


def test_a_restart_answers_nothing_twice(bot, telegram):
    """Stopped behind the first answer, and by Ctrl-C in the third message."""
    telegram.updates = [message(n, "When are sheep shorn?", user=n, chat=n) for n in (1, 2, 3)]
    answer = telegram.answer

    def stopping(path, body):
        telegram.stop.set()
        return answer(path, body)

    telegram.answer = stopping
    bot.run()
    assert telegram.offsets == [0, 2]
    assert [body["chat_id"] for _, body in telegram.sent] == [1, 1]
    telegram.answer, handle = answer, bot.handle
    telegram.stop.clear()

    def interrupted(update):
        if update["update_id"] == 3:
            raise KeyboardInterrupt
        handle(update)

    bot.handle = interrupted
    with pytest.raises(KeyboardInterrupt):
        bot.run()
    bot.handle = handle
    assert [update["update_id"] for update in telegram.updates] == [3]
    bot.run()
    assert [body["chat_id"] for method, body in telegram.sent if method == "sendMessage"] == [1, 2, 3]


def test_a_signal_lets_the_answer_under_way_be_finished(bot, telegram):
    telegram.updates = [message(1, "/start"), message(2, "/start")]
    handle = bot.handle

    def signalled(update):
        bot.stop(15, None)
        handle(update)

    bot.handle = signalled
    bot.run()
    assert len(telegram.texts()) == 1
    assert telegram.offsets == [0, 2]
    telegram.stop.clear()
    with pytest.raises(KeyboardInterrupt):
        bot.stop(15, None)


def test_a_server_that_is_gone_at_the_end_is_no_failure(bot, telegram, caplog):
    telegram.updates = [message(1, "/start")]
    answer = telegram.answer

    def stopping(path, body):
        if path.endswith("sendMessage"):
            telegram.stop.set()
            telegram.failures = [(502, b"")]
            return 200, {"ok": True}
        return answer(path, body)

    telegram.answer = stopping
    bot.run()
    assert "will come again" in caplog.text


def test_an_answer_comes_though_the_chat_cannot_be_told_of_it_before(bot, telegram):
    telegram.updates = [message(1, "How deep is wheat sown?")]
    answer, refused = telegram.answer, (400, {"ok": False, "description": "CHAT_WRITE_FORBIDDEN"})
    telegram.answer = lambda path, body: refused if path.endswith("sendChatAction") else answer(path, body)
    bot.run()
    assert "3 to 5 cm" in telegram.texts()[0]


def test_thumbs_become_feedback_of_the_one_who_asked(bot, telegram):
    telegram.updates = [
        message(1, "How deep is wheat sown?"), thumb(2, "down:1", user=8), thumb(3, "down:1"),
        message(4, "/wrong Rather 4 cm"), thumb(5, "up:1; DROP"), thumb(6, "up:" + "9" * 30), thumb(7, "up:\u0661"),
    ]  # fmt: skip
    bot.run()
    (vote,) = bot.assistant.memory.votes()
    assert (vote.user, vote.helpful, vote.correction, vote.cited) == ("telegram:7", False, "Rather 4 cm", ("wheat",))
    said = [body["text"] for method, body in telegram.sent if method == "answerCallbackQuery"]
    assert [text.startswith("Thank") for text in said] == [False, True, False, False, False]


def test_commands(bot, telegram):
    telegram.updates = [
        message(1, "/start"), message(2, "How deep is wheat sown?"), message(3, "And sheep?"), message(4, "/new"),
        message(5, "And sheep?"), message(6, "/wrong "), message(7, "/forget@FarmBot"), message(8, "/wrong now"),
    ]  # fmt: skip
    bot.run()
    texts = telegram.texts()
    assert "name the sources" in texts[0]
    assert "Deleted: 3" in texts[6]
    assert texts[5].startswith("Write /wrong")
    assert texts[7].startswith("Write /wrong")
    assert bot.assistant.memory.conversations("telegram:7") == []


def test_a_command_ends_at_any_white_space_and_what_cannot_be_noted_is_said(bot, telegram):
    telegram.updates = [
        message(1, "How deep is wheat sown?"), message(2, "/wrong \ud83d"), message(3, "/wrong\nRather 4 cm\nor so"),
    ]  # fmt: skip
    bot.run()
    assert telegram.texts()[1].startswith("I cannot note that")
    assert telegram.texts()[2].startswith("Thank you")
    (vote,) = bot.assistant.memory.votes()
    assert vote.correction == "Rather 4 cm\nor so"


def test_a_conversation_is_a_chat_until_new_and_survives_a_restart(bot, telegram, example, api):
    telegram.updates = [message(1, "How deep is wheat sown?"), message(2, "/new"), message(3, "When are sheep shorn?")]
    bot.run()
    first, second = bot.assistant.memory.conversations("telegram:7")
    assert second == "70/0"
    again = example["telegram_bot"].FarmBot(api, bot.assistant)
    again.handle(message(9, "Why in spring?"))
    assert len(bot.assistant.memory.history("telegram:7", first)) == 2


def test_malformed_updates_are_passed_over(bot, telegram):
    telegram.updates = [
        {"update_id": 1}, {"update_id": 2, "message": "hello"},
        {"update_id": 3, "message": {"chat": {}, "text": 5}}, {"update_id": 4, "message": {"chat": {"id": 1}}},
        {"update_id": 5, "callback_query": {"data": None}}, {"update_id": 6, "callback_query": []},
        {"update_id": 7, "message": {"chat": {"id": 1}, "from": {"id": "../x"}, "text": "hi"}},
        message(8, "   "), message(9, "x" * 5000), message(10, "How deep is wheat sown?"),
    ]  # fmt: skip
    bot.run()
    assert [text[:20] for text in telegram.texts()[:2]] == ["The question is empt", "The question has 5,0"]
    assert "3 to 5 cm" in telegram.texts()[2]
    assert telegram.offsets[-1] == 11


def test_what_is_no_list_of_updates_is_survived(api, telegram):
    telegram.updates = []
    for odd in ({"ok": True, "result": "x"}, {"ok": True, "result": [1, None, [], "x"]}, {"ok": True}):
        telegram.failures.append((200, odd))
    assert list(api.updates()) == []


def test_patience_with_429_and_5xx_and_nonsense(api, telegram, caplog):
    telegram.failures = [
        (429, {"ok": False, "description": "Too Many Requests", "parameters": {"retry_after": 0.05}}),
        (502, b"<html>bad gateway</html>"), (200, b"[]"),
    ]  # fmt: skip
    assert api.call("sendMessage", chat_id=1, text="hi") is True
    assert "Too Many Requests" in caplog.text


def test_bad_replies_are_tried_again_and_end_in_an_error_of_the_api(example, api, telegram):
    waits = [b"9" * 400, b"-5", b'"soon"', b"1e999", b"NaN"]
    deep = b"[" * 900 + b"]" * 900
    for bad in (
        (200, b"[" * 100_000), (200, b'{"ok": true, "result": ' + b"9" * 5000 + b"}"),
        (500, b'{"description": ' + deep + b"}"),
        *((429, b'{"parameters": {"retry_after": ' + wait + b"}}") for wait in waits),
    ):  # fmt: skip
        telegram.failures = [bad]
        assert api.call("sendMessage", chat_id=1, text="hi") is True
        telegram.failures = [bad] * 4
        with pytest.raises(example["bot_api"].BotError, match="status"):
            api.call("getMe")


def test_retry_after_is_what_is_waited(example, telegram):
    waits = []

    class Patience(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    api = example["bot_api"].BotApi(TOKEN, base_url=telegram.url, retries=3, backoff_s=0.5, stop=Patience())
    telegram.failures = [
        (429, {"ok": False, "parameters": {"retry_after": 17}}),
        (429, {"parameters": None}),
        (500, {}),
    ]
    api.call("getMe")
    api.close()
    assert waits == [17.0, 1.0, 2.0]


def test_it_gives_up_in_the_end(example, api, telegram):
    telegram.failures = [(500, {})] * 9
    with pytest.raises(example["bot_api"].BotError, match="500"):
        api.call("getMe")
    assert len(telegram.failures) == 5


def test_a_refusal_is_not_tried_again(example, api, telegram):
    telegram.failures = [(403, {"ok": False, "description": "bot was blocked"}), (403, {"ok": False})]
    with pytest.raises(example["bot_api"].BotError, match="blocked") as caught:
        api.call("sendMessage", chat_id=1, text="hi")
    assert caught.value.code == 403
    assert len(telegram.failures) == 1


def test_one_chat_that_blocks_the_bot_does_not_end_the_others(bot, telegram):
    telegram.updates = [message(1, "/start"), message(2, "/start", chat=71)]
    answer, blocked = telegram.answer, (403, {"ok": False, "description": "blocked"})
    telegram.answer = lambda path, body: blocked if body.get("chat_id") == 70 else answer(path, body)
    bot.run()
    assert [body["chat_id"] for _, body in telegram.sent] == [71]


def test_the_token_is_in_no_log_and_no_message(example, telegram, api, caplog):
    caplog.set_level(logging.DEBUG)
    telegram.failures = [(500, {"description": f"bot{TOKEN} is tired"}), (500, {})]
    api.call("getMe")
    wrong = example["bot_api"].BotApi(f"{TOKEN}-other", base_url=telegram.url, retries=0)
    gone = example["bot_api"].BotApi(TOKEN, base_url="http://127.0.0.1:9", retries=0)
    for one in (wrong, gone):
        with pytest.raises(example["bot_api"].BotError) as caught:
            one.call("getMe")
        assert "secret" not in str(caught.value)
        one.close()
    assert "HTTP Request: POST" in caplog.text, "httpx does log addresses"
    assert "secret" not in caplog.text
    for malformed in ("", "a b", "a/b", "a?b"):
        with pytest.raises(example["bot_api"].BotError, match="BotFather"):
            example["bot_api"].BotApi(malformed)


def test_long_answers_come_in_pieces_with_the_thumbs_under_the_last(api, telegram):
    api.send(1, LONG, [[{"text": "x", "callback_data": "y"}]])
    bodies = [body for _, body in telegram.sent]
    assert len(bodies) > 2
    assert all(len(body["text"]) <= 4096 for body in bodies)
    assert ["reply_markup" in body for body in bodies] == [False] * (len(bodies) - 1) + [True]
    assert " ".join(body["text"] for body in bodies) == LONG


@given(st.text(alphabet="ab .\n\U0001f33e", max_size=200), st.integers(2, 20))
def test_pieces_fit_and_lose_nothing_but_white_space(text, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        split = importlib.import_module("bot_api").split_message
    pieces = split(text, limit)
    assert all(0 < len(piece.encode("utf-16-le")) // 2 <= limit for piece in pieces)
    kept = "".join("".join(pieces).split())
    assert kept == ("".join(text.split()) or "\u2026")


def test_the_chat_program_talks(example, monkeypatch, capsys):
    lines = iter(
        ["How deep is wheat sown?", "/up", "/nonsense", "", "/new", "   ", "/down", "/forget", "/wrong x", "/quit"]
    )
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assistant = Assistant(InMemory(FARM), WordOverlap())
    example["chat"].talk(assistant)
    out, err = capsys.readouterr()
    assert "3 to 5 cm deep" in out
    assert "[1] Sowing depth of wheat" in out
    assert "1 turns deleted" in out
    assert "Commands:" in out
    assert "no answer to judge" in out + err
