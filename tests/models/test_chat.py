from __future__ import annotations

import asyncio
import email.utils
import itertools
import logging
import os
import socket
import subprocess
import sys
import time

import chat_server as server
import pytest
from chat_server import ChatServer
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import BackendError, InputError, SpecError
from rerankit.models.chat import ChatLM, Completion
from rerankit.models.retry import RetryPolicy
from rerankit.models.sse import EventDecoder

FAST = RetryPolicy(max_retries=3, base_s=0.01, max_backoff_s=0.02)


@pytest.fixture
def chat():
    with ChatServer() as running:
        yield running


@pytest.fixture
def lm(chat):
    with ChatLM(chat.url, "tiny", api_key="sk-secret", retry=FAST, timeout_s=0.3, deadline_s=5) as model:
        yield model


def text_of(items):
    *pieces, last = items
    assert isinstance(last, Completion)
    assert "".join(pieces) == last.text
    return last.text


async def collect(items):
    return [item async for item in items]


def test_generate_sends_an_openai_request_and_reads_the_reply(chat, lm):
    reply = lm.generate([{"role": "user", "content": "hi"}], max_tokens=9, temperature=0.5, stop=["\n"])
    assert reply == Completion("hello", 7, 3, "stop")
    path, headers, body = chat.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer sk-secret"
    assert body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["\n"],
    }


def test_extra_fields_and_the_name_of_the_length_limit(chat):
    with ChatLM(chat.url, "m", api_key="", extra={"seed": 1}, max_tokens_field="max_completion_tokens") as lm:
        lm.generate("hi", temperature=None)
    _, headers, body = chat.requests[0]
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 512,
        "seed": 1,
    }
    assert "Authorization" not in headers


async def test_async_callers_get_the_same(lm):
    assert await lm.agenerate("hi") == Completion("hello", 7, 3, "stop")
    assert text_of(await collect(lm.astream("hi"))) == "hello"


def test_one_model_serves_several_event_loops(lm):
    for _ in range(3):
        assert asyncio.run(lm.agenerate("hi")).text == "hello"
    assert lm.generate("hi").text == "hello"


def test_a_stream_gives_pieces_then_the_completion(chat, lm):
    chat.script = [server.say("a reply in several pieces é\u2028 end")]
    items = list(lm.stream("hi"))
    assert len(items) > 3
    assert text_of(items) == "a reply in several pieces é\u2028 end"
    assert items[-1].finish_reason == "stop"


def test_stream_events_may_be_cut_anywhere(chat, lm):
    whole = (": ping\r\nevent: x\r\n" + server.event("né ") + server.event("b", "stop") + "data: [DONE]\n\n").encode()
    chat.script = [server.stream(*[whole[i : i + 1] for i in range(len(whole))])]
    assert text_of(lm.stream("hi")) == "né b"


def test_usage_in_the_last_event_is_counted(chat, lm):
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    last = server.event(None, usage=usage).replace('[{"delta": {}, "finish_reason": null}]', "[]")
    chat.script = [server.stream(server.event("a"), server.event("b", "length"), last)]
    assert list(lm.stream("hi"))[-1] == Completion("ab", 5, 2, "length")


def test_a_server_that_ignores_streaming_is_understood(chat, lm):
    chat.script = [server.raw(server.completion("all at once"))]
    assert text_of(lm.stream("hi")) == "all at once"


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_passing_failures_are_tried_again(chat, lm, status):
    chat.script = [server.fail(status), server.fail(status), server.say("at last")]
    assert lm.generate("hi").text == "at last"
    assert len(chat.requests) == 3


@pytest.mark.parametrize("bad", [server.reset, server.cut_short, server.hang(0.5)], ids=["reset", "cut", "hang"])
def test_broken_connections_are_tried_again(chat, lm, bad):
    chat.script = [bad, server.say("at last")]
    assert lm.generate("hi").text == "at last"


def test_opening_a_stream_is_tried_again(chat, lm):
    chat.script = [server.fail(503), server.reset, server.say("at last")]
    assert text_of(lm.stream("hi")) == "at last"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 301])
def test_lasting_failures_are_not_tried_again(chat, lm, status):
    chat.script = [server.fail(status, "bad model")]
    with pytest.raises(BackendError, match="bad model") as caught:
        lm.generate("hi")
    assert len(chat.requests) == 1
    assert (caught.value.status, caught.value.attempts, caught.value.retryable) == (status, 1, False)
    assert caught.value.endpoint == chat.url + "/chat/completions"


def test_giving_up_says_how_often_it_was_tried(chat, lm):
    chat.script = [server.fail(500, "on fire")]
    with pytest.raises(BackendError, match="on fire") as caught:
        lm.generate("hi")
    assert (caught.value.status, caught.value.attempts, caught.value.retryable) == (500, 4, True)
    assert len(chat.requests) == 4


def test_nobody_listens():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        with ChatLM(url, "m", retry=FAST) as lm, pytest.raises(BackendError) as caught:
            lm.generate("hi")
    assert (caught.value.status, caught.value.attempts, caught.value.retryable) == (None, 4, True)


def test_retry_after_in_seconds_is_honoured(chat, lm):
    chat.script = [server.fail(429, Retry_After="0.4"), server.say("ok")]
    lm.generate("hi")
    assert chat.times[1] - chat.times[0] >= 0.4


def test_retry_after_as_a_date_is_honoured(chat, lm):
    chat.script = [server.fail(503, Retry_After=email.utils.formatdate(time.time() + 2, usegmt=True)), server.say("ok")]
    lm.generate("hi")
    assert 0.9 <= chat.times[1] - chat.times[0] <= 2.5  # a date has whole seconds


@pytest.mark.parametrize("value", ["3600", "soon", "-1", "nan", "inf", "Fri, 99 Foo 2026"])
def test_retry_after_is_capped_and_nonsense_ignored(chat, value):
    chat.script = [server.fail(429, Retry_After=value), server.say("ok")]
    policy = RetryPolicy(base_s=0.01, max_retry_after_s=0.1)
    with ChatLM(chat.url, "m", retry=policy) as lm:
        assert lm.generate("hi").text == "ok"
    assert chat.times[1] - chat.times[0] < 1


def test_a_wait_that_outlives_the_deadline_is_not_begun(chat, lm):
    chat.script = [server.fail(429, "slow down", Retry_After="30")]
    start = time.monotonic()
    with pytest.raises(BackendError, match="slow down"):
        lm.generate("hi", deadline_s=1)
    assert time.monotonic() - start < 0.8


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("bad", [server.hang(), server.drip], ids=["hang", "drip"])
def test_the_deadline_holds(chat, streamed, bad):
    chat.script = [bad]
    start = time.monotonic()
    with ChatLM(chat.url, "m", retry=FAST) as lm, pytest.raises(BackendError, match="deadline") as caught:
        list(lm.stream("hi", deadline_s=0.4)) if streamed else lm.generate("hi", deadline_s=0.4)
    assert time.monotonic() - start < 1.5
    assert caught.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        b"<html>It works!</html>",
        b"",
        b"[1, 2]",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": "no"}',
        b'{"choices": [null]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": {"content": null}}]}',
        b'{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}',
        b'{"choices": [{"message": {"content": [1]}}]}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_garbage_is_an_error_not_an_answer(chat, lm, body):
    chat.script = [server.raw(body)]
    with pytest.raises(BackendError) as caught:
        lm.generate("hi")
    assert (caught.value.status, caught.value.attempts, caught.value.retryable) == (200, 1, False)


@pytest.mark.parametrize(
    "chunks",
    [
        ["data: {nonsense}\n\n"],
        ["data: 3\n\n"],
        [server.event("half")],
        [server.event("half"), 'data: {"error": {"message": "out of memory"}}\n\n'],
        [server.event("half"), 'error: {"message": "out of memory"}\n\n'],
        ["<html>It works!</html>"],
        [],
    ],
)
def test_a_broken_stream_is_an_error(chat, lm, chunks):
    chat.script = [server.stream(*chunks)]
    pieces = []
    with pytest.raises(BackendError) as caught:
        pieces.extend(lm.stream("hi"))
    assert not any(isinstance(piece, Completion) for piece in pieces)
    assert caught.value.status == 200
    assert len(chat.requests) == 1


def test_the_reason_of_a_stream_error_is_told(chat, lm):
    chat.script = [server.stream(server.event("half"), 'data: {"error": {"message": "out of memory"}}\n\n')]
    with pytest.raises(BackendError, match="out of memory"):
        list(lm.stream("hi"))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_huge_response_is_refused(chat, streamed):
    chat.script = [server.flood]
    with (
        ChatLM(chat.url, "m", max_response_bytes=10_000) as lm,
        pytest.raises(BackendError, match="max_response_bytes"),
    ):
        list(lm.stream("hi")) if streamed else lm.generate("hi")
    assert chat.disconnected.wait(2)


def test_secrets_appear_nowhere(chat, caplog):
    caplog.set_level(logging.DEBUG)
    url = chat.url.replace("http://", "http://user:pa55word@")
    chat.script = [server.fail(503), server.fail(401, "Incorrect key sk-secret, user:pa55word")]
    with ChatLM(url, "m", api_key="sk-secret", retry=FAST) as lm, pytest.raises(BackendError) as caught:
        lm.generate("hi")
    told = repr(lm) + lm.model_id + str(vars(lm)) + str(caught.value) + caught.value.endpoint + caplog.text
    assert "Incorrect key" in told
    assert "sk-secret" not in told
    assert "pa55word" not in told


@pytest.mark.parametrize("value", ["sk-secret-1\n", "sk-secret-1\r\nX: 1", "sk-s\u00e9cret-1", " sk-secret-1", 7])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(chat, value):
    with pytest.raises(InputError, match="'api-key'") as caught:
        ChatLM(chat.url, "m", headers={"X-Title": "farm", "api-key": value})
    assert str(value).strip() not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_a_key_in_a_header_appears_nowhere_but_other_headers_do(chat):
    told = "Bearer sk-secret-1 or sk-secret-1 is no key of agriculture"
    chat.script = [server.fail(401, told), server.say(told)]
    headers = {"authorization": "Bearer sk-secret-1", "X-Title": "agriculture"}
    with ChatLM(chat.url, "m", api_key="", headers=headers) as lm:
        with pytest.raises(BackendError) as caught:
            lm.generate("hi")
        for text in (str(caught.value), lm.generate("hi").text):
            assert "sk-secret" not in text
            assert "is no key of agriculture" in text


def test_a_password_in_the_url_is_sent_as_basic_authentication(chat):
    with ChatLM(chat.url.replace("http://", "http://user:word@"), "m", api_key="") as lm:
        lm.generate("hi")
    assert chat.requests[0][1]["Authorization"] == "Basic dXNlcjp3b3Jk"


def test_the_key_comes_from_the_environment(chat, monkeypatch):
    monkeypatch.setenv("RERANKIT_API_KEY", " sk-env\n")
    with ChatLM(chat.url, "m") as lm:
        lm.generate("hi")
    assert chat.requests[0][1]["Authorization"] == "Bearer sk-env"


def test_control_characters_of_the_server_reach_no_terminal(chat, lm):
    chat.script = [server.fail(400, "\x1b[31mred\x07 " + "x" * 10_000)]
    with pytest.raises(BackendError) as caught:
        lm.generate("hi")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_many_prompts_run_side_by_side_but_not_all_at_once(chat):
    chat.script = [server.say("ok", delay=0.1)]
    with ChatLM(chat.url, "m", concurrency=3) as lm:
        replies = lm.generate_many([f"prompt {n}" for n in range(9)])
    assert [reply.text for reply in replies] == ["ok"] * 9
    assert 2 <= chat.most_active <= 3


def test_one_failed_prompt_does_not_spoil_the_others(chat):
    def picky(handler):
        (server.fail(400) if "bad" in handler.body["messages"][0]["content"] else server.say("ok"))(handler)

    chat.script = [picky]
    with ChatLM(chat.url, "m") as lm:
        first, second, third = lm.generate_many(["good", "bad", "good"])
    assert (first.text, third.text) == ("ok", "ok")
    assert isinstance(second, BackendError)


async def test_cancelling_closes_the_connection(chat):
    chat.script = [server.hang()]
    with ChatLM(chat.url, "m") as lm:
        task = asyncio.create_task(lm.agenerate("hi"))
        while not chat.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(chat.disconnected.wait, 2)


def test_leaving_a_stream_early_closes_the_connection(chat, lm):
    chat.script = [server.stream(*[server.event("word ")] * 200, pause=0.02)]
    items = lm.stream("hi")
    assert next(items) == "word "
    items.close()
    assert chat.disconnected.wait(3)


def test_lone_surrogates_are_replaced(chat, lm):
    lm.generate("a\ud800b")
    assert chat.requests[0][2]["messages"][0]["content"] == "a?b"


def test_lone_surrogates_of_a_reply_are_replaced(chat, lm):
    chat.script = [server.say("a\ud800b"), server.stream(server.event("a\udc00"), server.event("b", "stop"))]
    assert lm.generate("hi").text == "a?b"
    assert text_of(lm.stream("hi")) == "a?b"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_forked_child_can_ask_too(chat, lm):
    lm.generate("hi")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if lm.generate("hi", deadline_s=3).text == "hello" else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_spec(chat):
    lm = ChatLM.from_spec("http://localhost:11434/v1#qwen3:8b", timeout_s=3)
    assert (lm.base_url, lm.model, lm.model_id) == (
        "http://localhost:11434/v1",
        "qwen3:8b",
        "http://localhost:11434/v1#qwen3:8b",
    )


@pytest.mark.parametrize("spec", ["", "qwen3:8b", "http://localhost:11434/v1", "ftp://host#m", "http://localhost#"])
def test_a_wrong_spec_shows_a_right_one(spec):
    with pytest.raises(SpecError, match="http://localhost:11434/v1#qwen3:8b"):
        ChatLM.from_spec(spec)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "localhost:11434/v1"},
        {"base_url": "http://"},
        {"base_url": "http://host:notaport/v1"},
        {"base_url": "http://host/v1?key=abc"},
        {"model": " "},
        {"api_key": "ключ"},
        {"api_key": "a\nb"},
        {"timeout_s": 0},
        {"deadline_s": float("nan")},
        {"concurrency": 0},
        {"max_retries": -1},
    ],
)
def test_unusable_options(options):
    with pytest.raises(InputError) as caught:
        ChatLM(**{"base_url": "http://localhost/v1", "model": "m", **options})
    assert "abc" not in str(caught.value)
    assert "ключ" not in str(caught.value)


@pytest.mark.parametrize("prompt", [[], [{"role": "user"}], [{"role": "user", "content": None}]])
def test_unusable_prompts(lm, prompt):
    with pytest.raises(InputError):
        lm.generate(prompt)


def test_a_key_over_plain_http_to_another_machine_is_pointed_out(caplog):
    ChatLM("http://models.example/v1", "m", api_key="sk-secret")
    assert "unencrypted" in caplog.text
    assert "sk-secret" not in caplog.text


@given(st.lists(st.sampled_from(["data: {}", "data: é\u2028x", ": c", "event: e", "", "data:", "nonsense"])), st.data())
def test_the_decoder_does_not_care_where_blocks_are_cut(lines, data):
    raw = "\r\n".join(lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    decoder = EventDecoder()
    pieces = [raw[a:b] for a, b in itertools.pairwise([0, *cuts, len(raw)])]
    found = [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()
    assert found == [line[5:].strip() for line in lines if line.startswith("data:") and line[5:].strip()]


@given(st.integers(1, 50), st.none() | st.floats(0, 1e9))
def test_waits_grow_and_stay_bounded(failures, retry_after):
    policy = RetryPolicy(base_s=0.5, max_backoff_s=8, max_retry_after_s=60)
    wait = policy.delay(failures, retry_after)
    least = 0 if retry_after is None else min(retry_after, 60)
    most = min(8, 0.5 * 2 ** (failures - 1)) if retry_after is None else least + 0.5
    assert least <= wait <= most


def test_the_loop_thread_ends_with_the_process():
    program = "from rerankit.models import loop, chat; assert loop.run(loop_sleep()) is None"
    program = f"import asyncio\nloop_sleep = lambda: asyncio.sleep(0)\n{program}"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
