"""What servers refuse, leave out and say differently, as their documentation and error messages have it."""

from __future__ import annotations

import json
import math

import chat_server as server
import numpy as np
import pytest
from chat_server import ChatServer

from rerankit.errors import BackendError
from rerankit.models.chat import ChatLM
from rerankit.models.retry import RetryPolicy
from rerankit.models.work import Work

AB = ("A", "B")
SHARES = {"A": math.log(0.7), " A": math.log(0.1), "B": math.log(0.2)}
SCHEMA = {"type": "object", "properties": {"mark": {"type": "integer"}}, "required": ["mark"]}


@pytest.fixture
def chat():
    with ChatServer() as running:
        yield running


@pytest.fixture
def lm(chat):
    with ChatLM(chat.url, "m", api_key="", retry=RetryPolicy(base_s=0.01, max_backoff_s=0.02)) as model:
        yield model


def answer(handler, text="A", *, shares=None, finish_reason="stop", **message):
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
    if shares:
        top = [{"token": token, "logprob": value, "bytes": None} for token, value in shares.items()]
        choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    handler.reply(body=json.dumps({"choices": [choice], "usage": usage}).encode())


def bodies(chat):
    return [body for _, _, body in chat.requests]


def openai(handler):
    """Newer models: another name for the length limit, and messages that say so."""
    if "max_tokens" in handler.body:
        message = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
        return server.fail(400, message)(handler)
    return answer(handler, shares=SHARES)


def openai_reasoning(handler):
    """No log-probabilities, no temperature, and reasoning that counts as output."""
    if "max_tokens" in handler.body:
        return server.fail(400, "'max_tokens' is not supported, use 'max_completion_tokens' instead")(handler)
    if "temperature" in handler.body:
        return server.fail(400, "'temperature' does not support 0 with this model. Only the default (1)")(handler)
    if "logprobs" in handler.body:
        return server.fail(403, "You are not allowed to request logprobs from this model")(handler)
    return answer(handler, "B")


def vllm_with_few_logprobs(handler):
    if handler.body.get("top_logprobs", 0) > 5:
        message = "Requested sample logprobs of 20, which is greater than max allowed: 5"
        return server.fail(400, message)(handler)
    return answer(handler, shares=SHARES)


def vllm_reasoning(handler):
    """A reasoning parser keeps the thought apart, until max_tokens is spent."""
    if handler.body["max_tokens"] <= 16:
        return answer(handler, None, finish_reason="length", reasoning_content="Let me see")
    return answer(handler, "B", reasoning_content="Rust is in B.")


def ollama(handler):
    """Log-probabilities are left out without a word; reasoning has a field of its own."""
    answer(handler, "B", reasoning="Rust is in B.")


def strict(handler):
    """A server that refuses fields it does not know, in the manner of pydantic."""
    unknown = set(handler.body) - {"model", "messages", "max_tokens", "temperature", "stream"}
    if unknown:
        detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "not permitted"} for name in unknown]
        return handler.reply(422, json.dumps({"detail": detail}).encode())
    return answer(handler, "A")


def test_the_first_reply_tells_how_many_tokens_a_label_takes(chat, lm):
    chat.script = [lambda handler: answer(handler, shares=SHARES)]
    work = Work()
    for _ in range(3):
        (scores,) = lm.label_logprobs(["hi"], AB, work=work)
        np.testing.assert_allclose(np.exp(scores.logprobs), [0.8, 0.2])
    first, *others = bodies(chat)
    assert (first["logprobs"], first["top_logprobs"], first["temperature"], first["max_tokens"]) == (True, 20, 0, 16)
    assert [body["max_tokens"] for body in others] == [1, 1]
    assert (work.meter.llm_calls, work.meter.input_tokens, work.meter.output_tokens) == (3, 30, 3)


def test_openai_wants_another_name_for_the_length_limit(chat, lm):
    chat.script = [openai]
    for _ in range(2):
        (scores,) = lm.label_logprobs(["hi"], AB)
        assert scores.source == "logprobs"
    assert lm.generate("hi").text == "A"
    assert ["max_tokens" in body for body in bodies(chat)] == [True, False, False, False]


def test_openai_reasoning_models_answer_in_text(chat, lm):
    chat.script = [openai_reasoning]
    work = Work()
    (scores,) = lm.label_logprobs(["hi"], AB, work=work)
    assert (scores.source, scores.reply, int(scores.logprobs.argmax())) == ("text", "B", 1)
    assert work.meter.llm_calls == 1  # what was refused is no call
    asked = len(chat.requests)
    assert [scores.source for scores in lm.label_logprobs(["a", "b"], AB)] == ["text", "text"]
    assert len(chat.requests) == asked + 2


def test_a_temperature_of_the_users_own_is_never_dropped(chat, lm):
    chat.script = [server.fail(400, "temperature must be at most 2")]
    with pytest.raises(BackendError, match="at most 2"):
        lm.generate("hi", temperature=3)
    assert len(chat.requests) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_that_repeats_the_users_words_teaches_nothing(chat, lm, streamed):
    def moody(handler):
        asked = handler.body["messages"][-1]["content"]
        server.fail(400, f"Invalid input: {asked}")(handler) if "maize" in asked else server.say("ok")(handler)

    chat.script = [moody]
    for prompt in ("Which temperature suits maize?", "Which schema has maize?"):
        with pytest.raises(BackendError, match="Invalid input"):
            list(lm.stream(prompt, json_schema=SCHEMA)) if streamed else lm.generate(prompt, json_schema=SCHEMA)
    lm.generate("hi", json_schema=SCHEMA)
    last = bodies(chat)[-1]
    assert last["temperature"] == 0
    assert last["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize("streamed", [False, True])
def test_what_a_server_then_accepts_is_remembered(chat, lm, streamed):
    def default_temperature(handler):
        refused = server.fail(400, "'temperature' does not support 0 with this model. Only the default (1)")
        (refused if "temperature" in handler.body else server.say("ok"))(handler)

    chat.script = [default_temperature]
    for _ in range(2):
        list(lm.stream("hi")) if streamed else lm.generate("hi")
    assert ["temperature" in body for body in bodies(chat)] == [True, False, False]


def test_vllm_may_allow_fewer_log_probabilities(chat, lm):
    chat.script = [vllm_with_few_logprobs]
    for _ in range(2):
        (scores,) = lm.label_logprobs(["hi"], AB)
        assert scores.source == "logprobs"
    assert [body["top_logprobs"] for body in bodies(chat)] == [20, 5, 5]


def test_one_reply_without_log_probabilities_does_not_end_them(chat, lm):
    def with_shares(handler):
        answer(handler, shares=SHARES)

    chat.script = [with_shares, answer, answer, with_shares]
    sources = [lm.label_logprobs(["hi"], AB)[0].source for _ in range(3)]
    assert sources == ["logprobs", "text", "logprobs"]


def test_a_reasoning_model_that_is_cut_off_names_no_label_and_the_way_out_is_told(chat, lm, caplog):
    chat.script = [vllm_reasoning]
    first, second = lm.label_logprobs(["hi", "ho"], AB)
    assert (first.source, second.source) == ("none", "none")
    assert first.probabilities.tolist() == [0.5, 0.5]
    assert [record.message.count("label_reply_tokens") for record in caplog.records] == [1]
    with ChatLM(chat.url, "m", api_key="", label_reply_tokens=500) as patient:
        (scores,) = patient.label_logprobs(["hi"], AB)
    assert scores.source == "text"


def test_reasoning_is_kept(chat, lm):
    chat.script = [ollama]
    assert lm.generate("hi").reasoning == "Rust is in B."
    chat.script = [vllm_reasoning]
    assert lm.generate("hi").reasoning == "Rust is in B."
    with pytest.raises(BackendError, match="max_tokens was spent"):
        lm.generate("hi", max_tokens=4)


def test_streamed_reasoning_is_kept(chat, lm):
    def delta(**fields):
        return f"data: {json.dumps({'choices': [{'delta': fields}]})}\n\n"

    thought = [delta(reasoning_content="I "), delta(reasoning_content="think")]
    chat.script = [server.stream(*thought, server.event("B", "stop"))]
    *pieces, last = lm.stream("hi")
    assert (pieces, last.text, last.reasoning) == (["B"], "B", "I think")


def test_ollama_without_log_probabilities_is_asked_for_them_once(chat, lm):
    chat.script = [ollama]
    for _ in range(2):
        (scores,) = lm.label_logprobs(["hi"], AB)
        assert scores.source == "text"
    assert ["logprobs" in body for body in bodies(chat)] == [True, False]


def test_a_server_that_knows_no_log_probabilities_is_asked_without(chat, lm):
    chat.script = [strict]
    (scores,) = lm.label_logprobs(["hi"], AB)
    assert scores.source == "text"


def test_replies_are_held_to_a_schema_where_the_server_can(chat, lm):
    chat.script = [lambda handler: answer(handler, '{"mark": 3}')]
    lm.generate("hi", json_schema=SCHEMA, top_p=0.5, seed=7)
    (body,) = bodies(chat)
    assert body["response_format"]["json_schema"] == {"name": "reply", "schema": SCHEMA, "strict": True}
    assert (body["top_p"], body["seed"]) == (0.5, 7)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_schema_is_given_up_where_the_server_cannot(chat, lm, streamed):
    chat.script = [strict]
    for _ in range(2):
        text = list(lm.stream("hi", json_schema=SCHEMA))[-1] if streamed else lm.generate("hi", json_schema=SCHEMA)
        assert text.text == "A"
    formats = [body.get("response_format") for body in bodies(chat)]
    assert [held and held["json_schema"]["strict"] for held in formats] == [True, False, None, None]


def test_extra_fields_are_the_users_own(chat):
    chat.script = [server.fail(400, "logprobs, response_format, temperature: no")]
    extra = {"logprobs": True, "response_format": {"type": "json_object"}, "temperature": 0}
    with ChatLM(chat.url, "m", extra=extra) as lm, pytest.raises(BackendError, match="response_format"):
        lm.generate("hi", json_schema=SCHEMA)
    assert len(chat.requests) == 1


@pytest.mark.parametrize("status", [400, 422])
def test_a_lasting_refusal_is_told(chat, lm, status):
    chat.script = [server.fail(status, "logprobs, temperature, max_tokens, schema: all wrong")]
    (error,) = lm.label_logprobs(["hi"], AB)
    assert isinstance(error, BackendError)
    assert error.status == status
    assert len(chat.requests) <= 5


def test_a_label_of_two_tokens_is_found_and_asked_for_in_two(chat, lm):
    def passage(handler):
        tokens = [{"Passage": -0.1, "A": -9.0}, {" B": -0.2, " A": -1.8}, {".": -0.1}][: handler.body["max_tokens"]]
        entries = [[{"token": token, "logprob": value} for token, value in top.items()] for top in tokens]
        content = [{**top[0], "top_logprobs": top} for top in entries]
        choice = {"message": {"content": "Passage B."}, "logprobs": {"content": content}, "finish_reason": "stop"}
        handler.reply(body=json.dumps({"choices": [choice]}).encode())

    chat.script = [passage]
    for _ in range(2):
        (scores,) = lm.label_logprobs(["hi"], AB)
        np.testing.assert_allclose(scores.logprobs, [-1.8, -0.2])
    assert [body["max_tokens"] for body in bodies(chat)] == [16, 2]


def test_a_prompt_that_takes_longer_than_the_first_is_asked_again(chat, lm):
    def chatty(handler):
        tokens = [{"B": -0.1, "A": -3.0}]
        if "long" in handler.body["messages"][0]["content"]:
            tokens = [{"I": -0.1}, {" say": -0.1}, {" A": -0.3, " B": -1.4}][: handler.body["max_tokens"]]
        entries = [[{"token": token, "logprob": value} for token, value in top.items()] for top in tokens]
        content = [{**top[0], "top_logprobs": top} for top in entries]
        choice = {"message": {"content": "..."}, "logprobs": {"content": content}, "finish_reason": "length"}
        handler.reply(body=json.dumps({"choices": [choice]}).encode())

    chat.script = [chatty]
    work = Work()
    sources = [lm.label_logprobs([prompt], AB, work=work)[0].logprobs.argmax() for prompt in ("short", "long", "short")]
    assert sources == [1, 0, 1]
    assert [body["max_tokens"] for body in bodies(chat)] == [16, 1, 16, 3]
    assert work.meter.llm_calls == 4
