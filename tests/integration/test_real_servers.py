"""ChatLM against real servers with a real model: llama.cpp's and that of transformers, both on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from tiny_chat_lm import SENTENCES, tiny_chat_lm, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

import rerankit
from rerankit.errors import BackendError
from rerankit.models.chat import ChatLM
from rerankit.models.language import Completion
from rerankit.models.work import Work

pytestmark = pytest.mark.slow

AB = ("A", "B")
PROMPTS = [SENTENCES[0], "hi", "worth=1 rust", "A: wheat B: sheep"]
LONG = "wheat rust " * 2000


@dataclass(frozen=True)
class Local:
    """The model itself, asked without a server."""

    folder: Path

    def logprobs(self, prompt: str, labels=AB) -> np.ndarray:
        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        model = AutoModelForCausalLM.from_pretrained(self.folder)
        chat = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            values = model(**ids).logits[0, -1].log_softmax(-1)
        return np.array([values[tokenizer.encode(label)[0]].item() for label in labels])


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return Local(tiny_chat_lm(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def llama_cpp(local):
    """llama.cpp's own server, inside this process."""
    xllamacpp = pytest.importorskip("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(write_gguf(local.folder, local.folder / "tiny.gguf"))
    parameters.port, parameters.n_ctx, parameters.n_parallel = 0, 1024, 2
    parameters.cpuparams.n_threads, parameters.warmup, parameters.verbosity = 1, False, 0
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1", "tiny"
    del server  # until here it is held: it serves as long as the object lives


@pytest.fixture(scope="module")
def transformers_serve(local):
    """``transformers serve``, pinned to the model."""
    pytest.importorskip("accelerate")
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(local.folder), "--host", "127.0.0.1"]
    options = ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/v1", str(local.folder)
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(url: str, server: subprocess.Popen) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).is_success:
                return
        time.sleep(0.2)
    pytest.fail("transformers serve did not start")


@pytest.fixture(params=["llama_cpp", "transformers_serve"])
def endpoint(request):
    return request.getfixturevalue(request.param)


def test_generation_and_usage(endpoint):
    work = Work()
    with ChatLM(*endpoint, api_key="") as lm:
        replies = lm.generate_many(PROMPTS * 3, work=work, max_tokens=4)
    assert [reply for reply in replies if not isinstance(reply, Completion)] == []
    assert [reply.text for reply in replies[:4]] == [reply.text for reply in replies[4:8]]
    assert {reply.text for reply in replies} == {"A", "B"}
    assert {reply.finish_reason for reply in replies} == {"stop"}
    assert work.meter.llm_calls == 12
    assert work.meter.input_tokens == sum(reply.input_tokens for reply in replies) > 12 * 10
    assert work.meter.output_tokens >= 12


def test_streaming(endpoint):
    with ChatLM(*endpoint, api_key="") as lm:
        *pieces, last = lm.stream(PROMPTS[0], max_tokens=4)
        assert isinstance(last, Completion)
        assert "".join(pieces) == last.text == lm.generate(PROMPTS[0], max_tokens=4).text


def test_label_log_probabilities_are_the_models_own(llama_cpp, local):
    with ChatLM(*llama_cpp, api_key="") as lm:
        first, again = (lm.label_logprobs(PROMPTS, AB) for _ in range(2))
    for scores in (first, again):
        assert [score.source for score in scores] == ["logprobs"] * 4
        np.testing.assert_allclose(
            [score.logprobs for score in scores], [local.logprobs(prompt) for prompt in PROMPTS], atol=1e-2
        )


def test_without_log_probabilities_the_text_decides(transformers_serve, local):
    work = Work()
    with ChatLM(*transformers_serve, api_key="") as lm:
        scores = lm.label_logprobs(PROMPTS, AB, work=work)
    assert [score.source for score in scores] == ["text"] * 4
    expected = [local.logprobs(prompt).argmax() for prompt in PROMPTS]
    assert [score.logprobs.argmax() for score in scores] == expected
    assert set(expected) == {0, 1}
    assert work.meter.llm_calls == 4


def test_a_schema_holds_where_the_server_knows_it(llama_cpp):
    schema = {
        "type": "object",
        "properties": {"mark": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["mark"],
        "additionalProperties": False,
    }
    with ChatLM(*llama_cpp, api_key="") as lm:
        reply = lm.generate("hi", json_schema=schema, max_tokens=200)
    assert reply.finish_reason == "stop"
    assert reply.text.replace(" ", "").replace("\n", "").startswith('{"mark":')


def test_an_unknown_model_is_named(transformers_serve):
    with ChatLM(transformers_serve[0], "no-such-model", api_key="") as lm:
        (error,) = lm.label_logprobs(["hi"], AB)
    assert isinstance(error, BackendError)
    assert error.status == 400
    assert "no-such-model" in str(error)
    assert not error.retryable


def test_a_prompt_beyond_the_context_is_told(llama_cpp):
    with ChatLM(*llama_cpp, api_key="") as lm:
        good, bad = lm.label_logprobs(["hi", LONG], AB)
        assert good.source == "logprobs"
        assert isinstance(bad, BackendError)
        assert "context" in str(bad)
        assert bad.status == 400


def test_cancelling_frees_the_server(llama_cpp):
    work = Work()
    threading.Timer(0.2, work.cancelled.set).start()
    with ChatLM(*llama_cpp, api_key="", concurrency=2) as lm:
        replies = lm.generate_many(["hi"] * 5000, work=work, max_tokens=4)
        assert replies[-1] is None
        assert lm.generate("hi", max_tokens=4).text in AB
    assert work.meter.llm_calls < 5000


def test_the_reply_cache_works_with_real_servers(endpoint, tmp_path):
    calls = []
    for _ in range(2):
        work = Work()
        with ChatLM(*endpoint, api_key="", reply_cache=tmp_path / "replies.sqlite") as lm:
            scores = lm.label_logprobs(PROMPTS, AB, work=work)
        calls.append((work.meter.llm_calls, work.meter.cache_hits, [score.logprobs.tolist() for score in scores]))
    assert [calls[0][:2], calls[1][:2]] == [(4, 0), (0, 4)]
    assert calls[0][2] == calls[1][2]


def test_pairwise_reranking(endpoint):
    passages = ["Leaf rust shows as orange pustules.", "Sheep are shorn in spring.", "Maize wants water.", "Soil"]
    url, model = endpoint
    with rerankit.load(f"pairwise:{url}#{model}") as reranker:
        ranking = reranker.rank("leaf rust on wheat", passages)
    assert sorted(hit.passage.text for hit in ranking) == sorted(passages)
    assert ranking.usage.llm_calls > 0
