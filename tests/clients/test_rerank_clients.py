"""Real clients, unchanged, against ``rerankit serve``. They run in an environment of their own: ``make test-clients``.

The server is the command of the main environment, named by ``RERANKIT`` (default ``.venv/bin/rerankit``).
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-the-tests"
QUERY = "What is the orange powder on my wheat?"
TEXTS = [
    "Sheep are shorn once a year, in spring.",
    "Wheat is sown in autumn, 3 to 5 cm deep.",
    "Leaf rust shows as orange powder on wheat leaves.",
    "A hen lays most eggs in her first year.",
]
BEST = 2

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the internet for prices

cohere = pytest.importorskip("cohere", reason="the clients live in an environment of their own: make test-clients")


@pytest.fixture(scope="session")
def url():
    command = [
        os.environ.get("RERANKIT", str(ROOT / ".venv/bin/rerankit")),
        "serve",
        "--model",
        "default",
        "--port",
        "0",
    ]
    environment = {**os.environ, "RERANKIT_API_KEYS": KEY, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        lines = iter(server.stderr.readline, "")
        found = next((match for line in lines if (match := re.search(r"serving .* at (http://[^\"]+)", line))), None)
        assert found, "the server did not start"
        drain = threading.Thread(target=lambda: list(lines))
        drain.start()
        yield found[1]
        server.terminate()
        assert server.wait(30) == 0
        drain.join(10)


def check(results, count=4):
    assert results[0].index == BEST
    assert len(results) == count
    scores = [result.relevance_score for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_cohere_v2(url):
    client = cohere.ClientV2(api_key=KEY, base_url=url)
    check(client.rerank(model="default", query=QUERY, documents=TEXTS).results)
    check(client.rerank(model="default", query=QUERY, documents=TEXTS, top_n=2, max_tokens_per_doc=100).results, 2)


async def _cohere_v2_async(url):
    async with cohere.AsyncClientV2(api_key=KEY, base_url=url) as client:
        check((await client.rerank(model="default", query=QUERY, documents=TEXTS)).results)


def test_cohere_v2_async(url):
    import asyncio

    asyncio.run(_cohere_v2_async(url))


def test_cohere_v1(url):
    client = cohere.Client(api_key=KEY, base_url=url)
    documents = [{"text": text, "source": f"book {i}"} for i, text in enumerate(TEXTS)]
    reply = client.rerank(
        model="default", query=QUERY, documents=documents, return_documents=True, rank_fields=["text"]
    )
    check(reply.results)
    assert reply.results[0].document.text == TEXTS[BEST]


def test_coheres_own_errors(url):
    client = cohere.ClientV2(api_key="wrong-but-long", base_url=url)
    with pytest.raises(cohere.UnauthorizedError) as refused:
        client.rerank(model="default", query=QUERY, documents=TEXTS)
    assert "API key" in refused.value.body["message"]
    client = cohere.ClientV2(api_key=KEY, base_url=url)
    with pytest.raises(cohere.NotFoundError) as unknown:
        client.rerank(model="rerank-v9", query=QUERY, documents=TEXTS)
    assert "'default'" in unknown.value.body["message"]
    with pytest.raises(cohere.UnprocessableEntityError):
        client.rerank(model="default", query=" ", documents=TEXTS)


def test_langchain_cohere(url):
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    compressor = CohereRerank(model="default", cohere_api_key=KEY, base_url=url, top_n=3)
    documents = [Document(text, metadata={"number": i}) for i, text in enumerate(TEXTS)]
    found = compressor.compress_documents(documents, QUERY)
    assert found[0].metadata["number"] == BEST
    assert len(found) == 3
    assert 0 <= found[0].metadata["relevance_score"] <= 1


def nodes():
    from llama_index.core.schema import NodeWithScore, TextNode

    return [NodeWithScore(node=TextNode(id_=str(i), text=text), score=0.5) for i, text in enumerate(TEXTS)]


def check_nodes(found, count):
    assert found[0].node.node_id == str(BEST)
    assert len(found) == count
    scores = [item.score for item in found]
    assert scores == sorted(scores, reverse=True)


def test_llama_index_cohere(url):
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    found = CohereRerank(model="default", api_key=KEY, base_url=url, top_n=3).postprocess_nodes(
        nodes(), query_str=QUERY
    )
    check_nodes(found, 3)


def test_llama_index_jina(url):
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    with_key = JinaRerank(model="default", api_key=KEY, base_url=f"{url}/v1", top_n=3)
    check_nodes(with_key.postprocess_nodes(nodes(), query_str=QUERY), 3)
    with_key._session.close()
    without = JinaRerank(model="default", api_key="wrong-but-long", base_url=f"{url}/v1", top_n=3)
    with pytest.raises(RuntimeError, match="API key"):
        without.postprocess_nodes(nodes(), query_str=QUERY)
    without._session.close()


def test_llama_index_tei(url):
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    client = TextEmbeddingInference(base_url=url, auth_token=f"Bearer {KEY}", top_n=3)
    check_nodes(client.postprocess_nodes(nodes(), query_str=QUERY), 3)


@pytest.mark.parametrize("provider", ["cohere", "jina_ai", "hosted_vllm", "huggingface"])
def test_litellm(url, provider):
    import litellm

    reply = litellm.rerank(
        model=f"{provider}/default", query=QUERY, documents=TEXTS, top_n=3, api_base=url, api_key=KEY
    )
    assert reply.results[0]["index"] == BEST
    assert 0 <= reply.results[0]["relevance_score"] <= 1
    assert len(reply.results) == 3
