"""Many prompts at once: what they cost, when they stop, and what becomes of the others when some fail."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import chat_server as server
import pytest
from chat_server import ChatServer
from hypothesis import given
from hypothesis import strategies as st
from judge_server import JudgeServer, prefers
from tokenizers import Tokenizer

from rerankit.errors import BackendError, InputError, ModelError
from rerankit.models.chat import ChatLM
from rerankit.models.embedded import model_folder
from rerankit.models.language import Completion, LabelScores, LanguageModel, language_model
from rerankit.models.prompt import ChatPrompt, Data, Message, RawPrompt
from rerankit.models.retry import RetryPolicy
from rerankit.models.token_estimate import count_tokens, cut
from rerankit.models.work import Work

AB = ("A", "B")
PAGES = sorted(Path(__file__).parents[2].glob("*.md"))
FAST = RetryPolicy(max_retries=1, base_s=0.01, max_backoff_s=0.02)


@pytest.fixture
def chat():
    with ChatServer() as running:
        yield running


@pytest.fixture
def judge():
    with JudgeServer(prefers(AB)) as running:
        yield running


def pair(first, second):
    return f"worth={first} worth={second}"


def test_it_is_a_language_model(judge):
    lm = language_model(judge.url, concurrency=3, timeout_s=5.0, max_retries=0, price=(1, 2), api_key="k")
    assert isinstance(lm, LanguageModel)
    assert (lm.model_id, lm.context) == (judge.url, None)
    assert ChatLM("http://localhost/v1", "m", context=4096).context == 4096


def test_labels_and_usage(judge):
    work = Work()
    with ChatLM.from_spec(judge.url, price=(2.0, 10.0)) as lm:
        scores = lm.label_logprobs([pair(i, 3) for i in range(7)], AB, work=work)
    assert [round(score.probabilities[0], 2) for score in scores] == [0.05, 0.12, 0.27, 0.5, 0.73, 0.88, 0.95]
    assert (work.meter.llm_calls, work.meter.input_tokens, work.meter.output_tokens) == (7, 14, 7)
    assert work.meter.cost == pytest.approx((14 * 2 + 7 * 10) / 1e6)
    assert len(judge.bodies) == 7


async def test_async_callers_get_the_same(judge):
    with ChatLM.from_spec(judge.url) as lm:
        (scores,) = await lm.alabel_logprobs([pair(1, 3)], AB)
        (reply,) = await lm.agenerate_many([pair(1, 3)])
    assert scores.probabilities.argmax() == 1
    assert reply.text == "B"


def test_no_prompts_no_requests(judge):
    with ChatLM.from_spec(judge.url) as lm:
        assert lm.label_logprobs([], AB) == []
        assert lm.generate_many([]) == []


@pytest.mark.parametrize("labels", [(), ("A", "A"), ("A", " ")])
def test_unusable_labels(judge, labels):
    with ChatLM.from_spec(judge.url) as lm, pytest.raises(InputError, match="Labels"):
        lm.label_logprobs(["hi"], labels)


def test_a_chat_prompt_is_sent_without_what_only_a_local_model_can_do(chat):
    turns = (Message("system", ("You judge.",)), Message("user", ("Query: ", Data("<|im_end|> rust"), ".")))
    with ChatLM(chat.url, "m") as lm:
        lm.generate(ChatPrompt(turns, reply="Passage", thinking=False))
    _, _, body = chat.requests[0]
    assert body["messages"] == [
        {"role": "system", "content": "You judge."},
        {"role": "user", "content": "Query: <|im_end|> rust."},
    ]
    assert set(body) == {"model", "messages", "max_tokens", "temperature"}


@pytest.mark.parametrize("ask", [ChatLM.generate, lambda lm, p: lm.generate_many([p]), ChatLM.stream])
def test_a_raw_prompt_needs_a_local_model(chat, ask):
    with ChatLM(chat.url, "m") as lm, pytest.raises(ModelError, match="local model"):
        ask(lm, RawPrompt(("<s>",)))
    assert not chat.requests


def test_past_the_deadline_nothing_is_asked(judge):
    work = Work(deadline=time.monotonic() - 1)
    with ChatLM.from_spec(judge.url) as lm:
        assert lm.generate_many(["a", "b"], work=work) == [None, None]
        assert lm.label_logprobs(["a", "b"], AB, work=work) == [None, None]
    assert not judge.bodies
    assert work.meter.llm_calls == 0


def test_what_is_done_at_the_deadline_is_kept(judge):
    judge.delay_s = 0.2
    work = Work(deadline=time.monotonic() + 0.7)
    with ChatLM.from_spec(judge.url, concurrency=2) as lm:
        replies = lm.generate_many([pair(1, 0)] * 40, work=work)
    done = [reply for reply in replies if reply is not None]
    assert 2 <= len(done) <= 8
    assert all(isinstance(reply, Completion) for reply in done)
    assert work.meter.llm_calls == len(judge.bodies) < 12


@pytest.mark.parametrize("by", ["deadline", "cancel"])
def test_a_request_under_way_is_broken_off(chat, by):
    chat.script = [server.hang(8)]
    work = Work(deadline=time.monotonic() + 0.3 if by == "deadline" else None)
    if by == "cancel":
        threading.Timer(0.3, work.cancelled.set).start()
    start = time.monotonic()
    with ChatLM(chat.url, "m") as lm:
        assert lm.label_logprobs(["a", "b", "c"], AB, work=work) == [None] * 3
        assert time.monotonic() - start < 3
        assert chat.disconnected.wait(3)


def test_no_waiting_to_try_again_when_nobody_waits(chat):
    chat.script = [server.fail(429, Retry_After="20")]
    work = Work(deadline=time.monotonic() + 0.3)
    with ChatLM(chat.url, "m") as lm:
        assert lm.generate_many(["a"] * 20, work=work) == [None] * 20
    assert len(chat.requests) == 8


async def test_cancelling_the_caller_closes_the_connections(chat):
    chat.script = [server.hang(8)]
    with ChatLM(chat.url, "m") as lm:
        task = asyncio.create_task(lm.alabel_logprobs(["a"] * 3, AB))
        while len(chat.requests) < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(chat.disconnected.wait, 3)


def test_a_hanging_server_costs_its_prompts_only(chat):
    def hangs_on_bad(handler):
        (server.hang(2) if "bad" in handler.body["messages"][0]["content"] else server.say("A"))(handler)

    chat.script = [hangs_on_bad]
    with ChatLM(chat.url, "m", timeout_s=0.2, retry=FAST) as lm:
        good, bad, other = lm.label_logprobs(["good", "bad", "good"], AB)
    assert isinstance(bad, BackendError)
    assert bad.attempts == 2
    assert (good.reply, other.reply) == ("A", "A")


def test_a_server_that_dies_half_way_leaves_what_it_said(judge):
    judge.status = lambda number, prompt: 200 if number < 5 else 0
    work = Work()
    with ChatLM.from_spec(judge.url, concurrency=1, retry=FAST) as lm:
        scores = lm.label_logprobs([pair(1, 0)] * 8, AB, work=work)
    assert all(isinstance(score, LabelScores) for score in scores[:5])
    assert all(isinstance(score, BackendError) and score.retryable for score in scores[5:])
    assert work.meter.llm_calls == 8


def test_nobody_listens():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"
        with ChatLM(url, "m", retry=FAST) as lm:
            failed = lm.label_logprobs(["a", "b"], AB)
    assert [(error.status, error.attempts) for error in failed] == [(None, 2), (None, 2)]


def test_retry_after_is_honoured_and_counts_as_one_call(chat):
    chat.script = [server.fail(429, Retry_After="0.3"), server.say("A")]
    work = Work()
    with ChatLM(chat.url, "m", retry=FAST) as lm:
        (scores,) = lm.label_logprobs(["a"], AB, work=work)
    assert scores.reply == "A"
    assert chat.times[1] - chat.times[0] >= 0.3
    assert work.meter.llm_calls == 1


def test_a_huge_reply_is_refused_and_a_large_one_is_read_in_time(chat):
    chat.script = [server.flood, server.say("Answer: " + "(" * 2_000_000 + " B"), server.say("A or B? " * 300_000)]
    with ChatLM(chat.url, "m", retry=FAST, max_response_bytes=8 * 2**20) as lm:
        (huge,), (large,), (undecided,) = (lm.label_logprobs(["a"], AB) for _ in range(3))
    assert isinstance(huge, BackendError)
    assert "max_response_bytes" in str(huge)
    assert (large.source, undecided.source) == ("text", "none")


def test_impossible_usage_counts_as_none(chat):
    chat.script = [server.raw(server.completion("A", usage=(10**400, -3)))]
    work = Work()
    with ChatLM(chat.url, "m", price=(1, 1)) as lm:
        (reply,) = lm.generate_many(["a"], work=work)
    assert (reply.input_tokens, reply.output_tokens, work.meter.cost) == (0, 0, 0)


@pytest.mark.parametrize("price", [(1,), (1, 2, 3), (-1, 0), (float("nan"), 1)])
def test_unusable_prices(price):
    with pytest.raises(InputError, match="price"):
        ChatLM("http://localhost/v1", "m", price=price)


@pytest.mark.parametrize("text", [page.read_text("utf-8") for page in PAGES], ids=[page.name for page in PAGES])
def test_text_is_estimated_from_above_and_not_by_far(text):
    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    real = len(tokenizer.encode(text, add_special_tokens=False))
    assert real <= count_tokens(text) <= 3 * real


@given(st.text(), st.integers(0, 30))
def test_a_cut_text_is_a_beginning_within_the_limit(text, limit):
    kept = cut(text, limit)
    assert text.startswith(kept)
    assert count_tokens(kept) <= limit
    if count_tokens(text) <= limit:
        assert kept == text
    else:
        longer = text[: len(kept) + 1]
        assert count_tokens(longer) > limit or longer.rstrip() == kept or longer[-1].isspace()
