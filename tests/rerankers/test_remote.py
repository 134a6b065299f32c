"""Remote endpoints: real HTTP on loopback, honest servers in every dialect and dishonest ones."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import math
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rerank_server import RerankServer, answer, die, overlap, refuse, send

import rerankit
from rerankit import BackendError, InputError, Passage, ScoreCache, SpecError
from rerankit.models.retry import RetryPolicy
from rerankit.rerankers.remote import Remote
from rerankit.rerankers.remote_dialects import DIALECTS, address, choose, key_for, read_info, read_reply

DIALECT_NAMES = sorted(DIALECTS)
QUERY = "leaf rust on wheat"
TEXTS = ["sheep are shorn", "leaf rust", "rust on wheat leaf", "wheat", "nothing here"]
SECRET = "sk-very-secret-key"
QUICK = RetryPolicy(max_retries=2, base_s=0.001)


@pytest.fixture
def server():
    with RerankServer() as running:
        yield running


OPENED = []


@pytest.fixture(autouse=True)
def close_all():
    yield
    while OPENED:
        OPENED.pop().close()


def opened(model, **options):
    OPENED.append(Remote(model, **{"retry": QUICK, **options}))
    return OPENED[-1]


def remote(server, dialect="cohere", **options):
    return opened(f"{server.url}#tiny/model", dialect=dialect, **{"api_key": "", **options})


def expected(texts, query=QUERY):
    return sorted(range(len(texts)), key=lambda i: (-overlap(query, texts[i]), i))


def order(ranking):
    return [hit.prior_rank - 1 for hit in ranking]


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_every_dialect_gives_the_servers_order(server, dialect):
    with rerankit.load(f"remote:{server.url}#tiny/model[dialect={dialect}]", api_key=SECRET) as reranker:
        ranking = reranker.rank(QUERY, TEXTS)
    assert order(ranking) == expected(TEXTS)
    assert [hit.score for hit in ranking] == [overlap(QUERY, hit.text) for hit in ranking]
    assert ranking.status == "scored"
    assert ranking.scale == ("logit" if dialect == "tei" else "relevance")
    assert ranking.model == f"remote:{server.url}#tiny/model"
    assert ranking.usage.llm_calls == 1
    path, headers, body = server.requests[0]
    assert path == {"cohere": "/v2/rerank", "tei": "/rerank"}.get(dialect, "/v1/rerank")
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert ("model" in body) == (dialect != "tei")  # text and model together would not be TEI's form


@pytest.mark.parametrize(("dialect", "tokens", "cost"), [("cohere", 0, 0.0), ("jina", 10, 0.5), ("voyage", 10, 0.0)])
def test_usage_is_what_the_reply_says(server, dialect, tokens, cost):
    usage = remote(server, dialect).rank(QUERY, TEXTS[:4]).usage
    assert (usage.input_tokens, usage.cost) == (tokens, cost)


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_a_view_never_asks_the_server_for_fewer(server, dialect):
    ranking = remote(server, dialect).rank(QUERY, TEXTS, top_k=1)
    assert len(ranking) == 1
    (body,) = server.bodies
    assert body.get("top_n", body.get("top_k", len(TEXTS))) == len(TEXTS)


def test_duplicates_and_empty_passages_keep_the_permutation_law(server):
    passages = [Passage(str(i), text) for i, text in enumerate(["wheat", "", "leaf rust", "wheat", " \t"])]
    ranking = remote(server).rank(QUERY, passages)
    assert sorted(hit.id for hit in ranking) == ["0", "1", "2", "3", "4"]
    assert order(ranking) == [2, 0, 3, 1, 4]
    assert server.bodies[0]["documents"] == ["wheat", "leaf rust"]


def test_the_title_is_sent_before_the_text(server):
    remote(server).rank(QUERY, [Passage("1", "text", title="Title"), Passage("2", "other")])
    assert server.bodies[0]["documents"] == ["Title text", "other"]


@given(data=st.data())
def test_scores_follow_the_index_whatever_the_order_of_the_answer(data):
    scores = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
    shuffled = data.draw(st.permutations([{"index": i, "score": score} for i, score in enumerate(scores)]))
    for reply in (shuffled, {"results": shuffled}, {"data": shuffled}):
        assert read_reply(reply, len(scores)).scores.tolist() == scores


JUNK = st.one_of(
    st.none(), st.booleans(), st.text(max_size=5), st.integers(), st.floats(), st.just(10**400), st.lists(st.integers())
)
RESULT = st.one_of(
    JUNK,
    st.fixed_dictionaries({}, optional={"index": st.one_of(st.integers(-1, 4), JUNK), "score": JUNK}),
    st.builds(lambda i, s: {"index": i, "score": s}, st.integers(0, 3), st.floats(-5, 5)),
)


@given(results=st.lists(RESULT, max_size=6), count=st.integers(1, 4))
def test_an_answer_is_a_bijection_with_finite_scores_or_refused(results, count):
    try:
        scores = read_reply({"results": results}, count).scores
    except ValueError:
        return
    assert np.isfinite(scores).all()
    assert len(results) == count
    assert [item["index"] for item in sorted(results, key=lambda item: item["index"])] == list(range(count))
    assert all(scores[item["index"]] == item["score"] for item in results)


@given(
    reply=st.recursive(
        JUNK,
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["results", "data", "usage", "meta", "model_id", "max_client_batch_size", "index", "score"]
            ),
            inner,
        ),
        max_leaves=8,
    )
)
def test_junk_is_refused_and_never_breaks_the_reader(reply):
    with pytest.raises(ValueError):  # noqa: PT011 - any of its reasons
        read_reply(reply, 2)
    assert read_info(reply).max_passages >= 1


LIES = {
    "missing": (lambda found: found[:-1], "lacks 1 of 5 passages"),
    "twice": (lambda found: [*found, found[0]], "twice"),
    "out of range": (lambda found: [*found[:-1], {**found[-1], "index": 5}], "but 5 passages were sent"),
    "negative": (lambda found: [*found[:-1], {**found[-1], "index": -1}], "but 5 passages were sent"),
    "index as text": (lambda found: [{**item, "index": str(item["index"])} for item in found], "no whole number"),
    "index as bool": (lambda found: [{**found[0], "index": True}, *found[1:]], "no whole number"),
    "nan": (lambda found: [{**found[0], "relevance_score": float("nan")}, *found[1:]], "no finite number"),
    "infinite": (lambda found: [{**found[0], "relevance_score": float("inf")}, *found[1:]], "no finite number"),
    "score as text": (lambda found: [{**found[0], "relevance_score": "0.9"}, *found[1:]], "no finite number"),
    "no score": (lambda found: [{"index": 0}, *found[1:]], "no finite number"),
    "no objects": (lambda found: [item["index"] for item in found], "not an object"),
    "nothing": (lambda found: None, "no list of results"),
}


@pytest.mark.parametrize("lie", LIES, ids=lambda name: name.replace(" ", "-"))
def test_a_lying_server_is_an_error_and_never_a_wrong_order(server, lie):
    bend, message = LIES[lie]
    server.bend = bend
    with pytest.raises(BackendError, match=message):
        remote(server).rank(QUERY, TEXTS)
    kept = remote(server, on_error="keep_order").rank(QUERY, TEXTS)
    assert (kept.status, order(kept)) == ("fallback", [0, 1, 2, 3, 4])
    assert message in kept.reason


def test_the_order_of_the_answer_means_nothing(server):
    server.bend = lambda found: random.Random(1).sample(found, len(found))
    assert order(remote(server).rank(QUERY, TEXTS)) == expected(TEXTS)


@pytest.mark.parametrize(
    "broken",
    [send(b"<html>Welcome</html>", "text/html"), send(b"[" * 100_000), send(b""), send(b"\xff\xfe"), die],
    ids=["html", "deep", "empty", "not-utf8", "dies"],
)
def test_an_unreadable_answer_is_a_backend_error(server, broken):
    server.script = [broken] * 3
    with pytest.raises(BackendError, match=r"v2/rerank"):
        remote(server).rank(QUERY, TEXTS)


def test_a_server_that_dies_half_way_is_asked_again(server):
    server.script = [die, refuse(503)]
    assert order(remote(server).rank(QUERY, TEXTS)) == expected(TEXTS)
    assert len(server.requests) == 3


def test_retry_after_is_kept_to(server):
    server.script = [refuse(429, headers=[("Retry-After", "0.3")])]
    started = time.monotonic()
    assert order(remote(server).rank(QUERY, TEXTS)) == expected(TEXTS)
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_told_once_without_the_key(server, status, caplog):
    server.script = [refuse(status, f"bad key {SECRET}")]
    reranker = remote(server, api_key=SECRET)
    with caplog.at_level(logging.DEBUG), pytest.raises(BackendError) as failure:
        reranker.rank(QUERY, TEXTS)
    assert (failure.value.status, len(server.requests)) == (status, 1)
    shown = f"{failure.value} {failure.value!r} {reranker!r} {reranker.fingerprint} {reranker.model} {caplog.text}"
    assert SECRET not in shown
    assert SECRET not in json.dumps(reranker.rank(QUERY, TEXTS).to_dict())


def test_credentials_in_the_url_are_sent_and_never_shown(server):
    url = server.url.replace("http://", f"http://user:{SECRET}@")
    reranker = opened(f"{url}#m", dialect="cohere", api_key="")
    ranking = reranker.rank(QUERY, TEXTS)
    assert server.requests[0][1]["Authorization"].startswith("Basic ")
    assert SECRET not in f"{ranking!r} {reranker!r} {reranker.fingerprint}"
    with pytest.raises(SpecError) as failure:
        Remote(f"{url}#m")
    assert SECRET not in str(failure.value)


def test_lists_above_the_limit_are_cut_and_put_together_again(server):
    texts = [f"{'rust ' * (i % 7)}{'wheat ' * (i % 3)}number {i}" for i in range(95)]
    ranking = remote(server, max_passages=10).rank(QUERY, texts)
    assert order(ranking) == expected(texts)
    assert sorted(server.sizes) == [5] + [10] * 9
    assert ranking.usage.llm_calls == 10


def test_requests_run_side_by_side_but_not_too_many(server):
    server.delay = lambda body: 0.05
    remote(server, max_passages=2, max_concurrency=3).rank(QUERY, [f"wheat {i}" for i in range(20)])
    assert server.most_active == 3


def test_patience_begins_when_a_request_is_sent(server):
    server.delay = lambda body: 0.1
    reranker = remote(server, max_concurrency=1, deadline_s=1.0, retry=RetryPolicy(max_retries=0))
    assert len(reranker.rank_many([(f"wheat {i}", TEXTS) for i in range(15)])) == 15  # 1.5 s in all


def test_many_queries_are_one_volley_and_never_mixed(server):
    lists = [(f"wheat number {i}", [f"number {i}", f"wheat number {i}", "sheep"]) for i in range(12)]
    server.delay = lambda body: random.uniform(0, 0.02)
    rankings = remote(server).rank_many(lists)
    assert [order(ranking) for ranking in rankings] == [[1, 0, 2]] * 12
    assert [ranking.usage.llm_calls for ranking in rankings] == [1] * 12


def test_a_request_that_is_too_large_is_halved(server):
    server.most_passages = 3
    texts = [f"{'wheat ' * i}" + f"number {i}" for i in range(10)]
    ranking = remote(server).rank(QUERY, texts)
    assert order(ranking) == expected(texts)
    assert ranking.usage.llm_calls == sum(size <= 3 for size in server.sizes)


def test_one_passage_that_is_too_large_is_an_error_that_says_so(server):
    server.most_bytes = 300
    with pytest.raises(BackendError, match="batch size 1 > maximum"):
        remote(server).rank(QUERY, ["short", "wheat " * 100])


def test_requests_stay_under_max_request_bytes(server):
    texts = [f"{i} " + "\u00e9" * 50 for i in range(20)]  # six bytes of JSON per character
    assert order(remote(server, max_request_bytes=1000).rank(QUERY, texts)) == expected(texts)
    assert max(server.sizes) == 3
    remote(server, max_request_bytes=10).rank(QUERY, texts[:2])
    assert server.sizes[-2:] == [1, 1]


@pytest.mark.parametrize(
    ("info", "sizes"),
    [
        ({"model_id": "tiny/model", "max_client_batch_size": 64}, [64, 6]),
        ({"model_id": "tiny/model", "max_client_batch_size": "many"}, [32, 32, 6]),
        (None, [32, 32, 6]),
        (["odd"], [32, 32, 6]),
    ],
)
def test_a_tei_server_is_asked_for_its_limit_once(server, info, sizes):
    server.info = info
    texts = [f"{'wheat ' * (i % 5)}number {i}" for i in range(70)]
    reranker = remote(server, "tei")
    for _ in range(2):
        assert order(reranker.rank(QUERY, texts)) == expected(texts)
    assert sorted(server.sizes) == sorted(sizes * 2)
    assert server.gets == ["/info"]


def test_a_tei_server_with_another_model_is_an_error(server):
    server.info = {"model_id": "other/model"}
    with pytest.raises(BackendError, match=r"'other/model', not 'tiny/model'"):
        remote(server, "tei").rank(QUERY, TEXTS)
    assert not server.requests


def test_scores_are_cached_by_address_model_and_options(server, tmp_path):
    with contextlib.closing(ScoreCache(tmp_path / "scores.sqlite")) as cache:
        first = remote(server, cache=cache).rank(QUERY, TEXTS)
        again = remote(server, cache=cache).rank(QUERY, [*TEXTS, "wheat rust"])
        assert (again.usage.cache_hits, again.usage.cache_misses) == (5, 1)
        assert server.sizes == [5, 1]
        remote(server, cache=cache, extra={"max_tokens_per_doc": 9}).rank(QUERY, TEXTS)
        remote(server, "jina", cache=cache).rank(QUERY, TEXTS)
        assert server.sizes == [5, 1, 5, 5]
    assert {hit.id: hit.score for hit in first}.items() <= {hit.id: hit.score for hit in again}.items()


def test_a_cache_needs_a_model_whose_scores_stand_alone(server, tmp_path):
    with pytest.raises(InputError, match="needs the model's name"):
        Remote(server.url, dialect="tei", cache=tmp_path / "scores.sqlite")
    with pytest.raises(InputError, match="reads passages together"):
        Remote(f"{server.url}#jina-reranker-v3", dialect="jina", cache=tmp_path / "scores.sqlite")


def test_a_deadline_keeps_what_came_in_time(server):
    release = threading.Event()
    server.delay = lambda body: release.wait(20) and 0.0 if "slow" in body["documents"][0] else 0.0
    texts = ["wheat", "rust on wheat", "slow wheat", "slow leaf rust on wheat", "sheep"]
    ranking = remote(server, max_passages=2).rank(QUERY, texts, deadline_s=1.0)
    release.set()
    assert order(ranking) == [1, 0, 4, 2, 3]
    assert [hit.status for hit in ranking] == ["scored"] * 3 + ["unscored"] * 2
    assert (ranking.status, ranking.reason) == ("partial", "the deadline passed: 2 passages unscored")
    assert sorted(server.sizes) == [1, 2, 2]  # all at once, not a few at a time


def test_passages_that_the_server_did_not_get_to_are_unscored(server):
    def late(found):
        return [{**item, "status": "unscored"} if item["index"] in (0, 2) else item for item in found]

    server.bend = late
    ranking = remote(server).rank(QUERY, TEXTS)
    assert order(ranking) == [1, 3, 4, 0, 2]
    assert [hit.score is None for hit in ranking] == [False] * 3 + [True] * 2
    assert (ranking.status, ranking.reason) == (
        "partial",
        "the server did not get to all passages: 2 passages unscored",
    )


def test_a_server_that_hangs_beyond_the_deadline_leaves_the_input_order(server):
    release = threading.Event()
    server.delay = lambda body: release.wait(20) and 0.0
    ranking = remote(server).rank(QUERY, TEXTS, deadline_s=0.3)
    release.set()
    assert (ranking.status, order(ranking)) == ("partial", [0, 1, 2, 3, 4])


async def test_async_callers_do_not_wait_for_each_other(server):
    together = threading.Barrier(4)
    server.delay = lambda body: together.wait(20) and 0.0  # answers come only once all four have asked
    reranker = remote(server)
    rankings = await asyncio.gather(*(reranker.arank(f"wheat {i}", TEXTS) for i in range(4)))
    assert [ranking.query for ranking in rankings] == [f"wheat {i}" for i in range(4)]


async def test_a_cancelled_caller_frees_the_connection(server):
    release = threading.Event()
    server.delay = lambda body: release.wait(20) and 0.0
    reranker = remote(server, max_concurrency=1)
    task = asyncio.create_task(reranker.arank(QUERY, TEXTS))
    while not server.requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.delay = lambda body: 0.0
    assert order(await reranker.arank(QUERY, TEXTS)) == expected(TEXTS)  # while the first still hangs at the server
    release.set()


def test_the_key_of_a_provider_goes_to_that_provider_only(server, monkeypatch):
    monkeypatch.setenv("COHERE_API_KEY", SECRET)
    monkeypatch.delenv("RERANKIT_API_KEY", raising=False)
    opened(f"{server.url}#m", dialect="cohere").rank(QUERY, TEXTS)
    assert "Authorization" not in server.requests[0][1]
    assert key_for("https://api.cohere.com") == SECRET
    assert key_for("https://api.cohere.com.example.org") == ""
    assert key_for("https://api.cohere.com@example.org") == ""
    monkeypatch.setenv("RERANKIT_API_KEY", "mine")
    opened(f"{server.url}#m", dialect="cohere").rank(QUERY, TEXTS)
    assert server.requests[1][1]["Authorization"] == "Bearer mine"


def test_a_provider_without_its_key_is_an_error_before_any_call(monkeypatch):
    for name in ("COHERE_API_KEY", "CO_API_KEY", "VOYAGE_API_KEY", "JINA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for url, name in [
        ("https://api.cohere.com#rerank-v3.5", "COHERE_API_KEY"),
        ("https://api.jina.ai#jina-reranker-v2-base-multilingual", "JINA_API_KEY"),
        ("https://api.voyageai.com#rerank-2.5", "VOYAGE_API_KEY"),
    ]:
        with pytest.raises(InputError, match=name):
            rerankit.load(f"remote:{url}")


@pytest.mark.parametrize(
    ("url", "dialect", "parts"),
    [
        ("https://api.cohere.com", "cohere", ("https://api.cohere.com", "/v2/rerank")),
        ("https://api.cohere.com/v1/", "cohere", ("https://api.cohere.com", "/v2/rerank")),
        ("http://host/api/v1", "jina", ("http://host/api", "/v1/rerank")),
        ("http://host/models/x/rerank", "jina", ("http://host/models/x", "/rerank")),
        ("http://host:8080/", "tei", ("http://host:8080", "/rerank")),
        ("http://host:8080/v1", "tei", ("http://host:8080/v1", "/rerank")),
    ],
)
def test_addresses_as_people_write_them(url, dialect, parts):
    assert address(url, DIALECTS[dialect]) == parts


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("remote:http://localhost:8080#m", r"add \[dialect=...\], one of cohere, jina, voyage, tei"),
        ("remote:http://localhost:8080#m[dialect=cohre]", "no rerank dialect 'cohre'"),
        ("remote:rerank-v3.5", "base_url#model"),
        ("remote", "needs a model"),
    ],
)
def test_wrong_specs_say_what_is_missing(spec, message):
    with pytest.raises(SpecError, match=message):
        rerankit.load(spec)


def test_known_hosts_need_no_dialect():
    assert choose(None, "https://api.voyageai.com/v1").name == "voyage"
    assert choose(None, "https://API.cohere.COM").name == "cohere"


@pytest.mark.parametrize("field", ["top_n", "documents", "texts", "query", "model"])
def test_extra_cannot_change_what_is_judged(server, field):
    with pytest.raises(InputError, match=field):
        remote(server, extra={field: 1})
    with pytest.raises(InputError, match="JSON"):
        remote(server, extra={"odd": object()})


def test_extra_replaces_a_dialects_own_fields(server):
    reranker = remote(server, "tei", extra={"raw_scores": False, "truncate": False})
    assert reranker.rank(QUERY, TEXTS).scale == "relevance"
    assert (server.bodies[0]["raw_scores"], server.bodies[0]["truncate"]) == (False, False)


def test_it_is_a_family_like_any_other(server):
    with rerankit.load(f"lexical[:3] | remote:{server.url}#m[dialect=jina]") as cascade:
        ranking = cascade.rank(QUERY, TEXTS)
    assert server.sizes == [3]
    assert sorted(order(ranking)) == [0, 1, 2, 3, 4]


def test_a_server_that_is_not_there_is_a_backend_error():
    with RerankServer() as gone:
        url = gone.url
    for dialect in ("tei", "cohere"):
        with pytest.raises(BackendError, match="connection failed"):
            opened(f"{url}#m", dialect=dialect, api_key="").rank(QUERY, TEXTS)


def test_a_failing_part_fails_the_list_and_stops_the_rest(server):
    server.script = [answer, refuse(400, "no more"), answer]
    with pytest.raises(BackendError, match="no more"):
        remote(server, max_passages=2, max_concurrency=1).rank(QUERY, [f"wheat {i}" for i in range(40)])
    assert len(server.requests) < 20


@pytest.mark.parametrize("port", [99999, 65536, 0, -1])
def test_a_port_that_cannot_be_is_refused_when_it_is_built(port):
    with pytest.raises(InputError, match="ports go from 1 to 65535"):
        Remote(f"http://127.0.0.1:{port}#m", dialect="tei", api_key="")


def test_a_dripping_server_is_left_at_the_deadline_of_the_request(server):
    def drip(handler, body, size):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    server.script = [drip]
    slow = remote(server, timeout_s=5.0, deadline_s=0.5, retry=RetryPolicy(max_retries=0))
    with pytest.raises(BackendError, match="deadline"):
        slow.rank(QUERY, TEXTS)
    default = inspect.signature(Remote).parameters["deadline_s"].default
    assert math.isfinite(default)
    with pytest.raises(InputError, match="finite"):
        remote(server, deadline_s=math.inf)
