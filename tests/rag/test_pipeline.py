from __future__ import annotations

import asyncio
import json
import logging
import time

import chat_server as server
import pytest
from chat_server import ChatServer
from families import Broken, WordOverlap
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import BackendError, InputError, ModelError, StoreError
from rerankit.models.chat import ChatLM
from rerankit.rag.extractive import ExtractiveGenerator
from rerankit.rag.generative import ChatGenerator
from rerankit.rag.pipeline import Delta, Done, Packed, RagPipeline, Reranked, Retrieved
from rerankit.types import Passage

FARM = [
    Passage("shear", "Shear sheep before lambing. The wool is then clean.", metadata={"kind": "animal"}),
    Passage("rust", "Stripe rust shows as yellow stripes on wheat leaves.", metadata={"kind": "crop"}),
    Passage("depth", "Sow wheat 3 to 5 cm deep in moist soil.", metadata={"kind": "crop"}),
    Passage("empty", "", metadata={"kind": "crop"}),
    Passage("depth-2", "Sow wheat 3 to 5 cm deep in moist soil.", metadata={"kind": "crop"}),
    Passage("barley", "Barley is sown at 4 cm.", metadata={"kind": "crop"}),
]
QUESTION = "how deep to sow wheat in moist soil"


class InMemory:
    """The passages in the order they were given."""

    def __init__(self, passages, error=None):
        self.passages, self.error, self.calls = passages, error, []

    def retrieve(self, query, k=None, where=None):
        self.calls.append((query, k, where))
        if self.error:
            raise self.error
        kept = [p for p in self.passages if all(p.metadata.get(key) == v for key, v in (where or {}).items())]
        return kept[:k]


@pytest.fixture
def pipeline():
    return RagPipeline(InMemory(FARM), WordOverlap(), top_k=2)


@pytest.fixture
def chat():
    with ChatServer() as running:
        yield running


@pytest.fixture
def lm(chat):
    with ChatLM(chat.url, "tiny", api_key="", max_retries=0) as model:
        yield model


def test_ask_goes_through_all_stages(pipeline):
    result = pipeline.ask(QUESTION)
    assert pipeline.retriever.calls == [(QUESTION, 50, None)]
    assert [p.id for p in result.candidates] == [p.id for p in FARM]
    assert sorted(hit.prior_rank for hit in result.ranking) == [1, 2, 3, 4, 5, 6]
    assert result.ranking[0].id == "depth"
    assert result.context.blocks[0].passage.id == "depth"
    assert result.answer.citations[0].passage_id == "depth"
    assert "3 to 5 cm" in result.answer.text
    assert set(result.timings) == {"retrieve", "rerank", "pack", "generate"}
    assert all(seconds >= 0 for seconds in result.timings.values())


def test_the_result_is_one_json_object(pipeline):
    data = json.loads(json.dumps(pipeline.ask(QUESTION).to_dict()))
    assert data["question"] == QUESTION
    assert set(data["answer"]) >= {"text", "citations", "abstained"}
    assert set(data["answer"]["citations"][0]) >= {"passage_id", "start", "end"}
    assert data["ranking"]["hits"][0]["passage"]["id"] == "depth"
    assert set(data["timings"]) == {"retrieve", "rerank", "pack", "generate"}


def test_a_dropped_duplicate_makes_room_for_the_next(pipeline):
    context = pipeline.ask(QUESTION).context
    assert len(context.blocks) == 2
    assert "depth-2" not in {block.passage.id for block in context.blocks}


def test_a_sliced_reranker_still_orders_all_candidates():
    result = RagPipeline(InMemory(FARM), WordOverlap()[:1], top_k=2).ask(QUESTION)
    assert len(result.ranking) == len(FARM)
    assert len(result.context.blocks) == 2


def test_a_filter_reaches_the_retriever(pipeline):
    result = pipeline.ask("when to shear sheep", where={"kind": "animal"})
    assert [p.id for p in result.candidates] == ["shear"]


def test_no_candidates_abstains_with_a_reason(pipeline):
    answer = pipeline.ask(QUESTION, where={"kind": "machine"}).answer
    assert answer.abstained
    assert "no candidates under the given filter" in answer.reason
    assert list(pipeline.stream(QUESTION, where={"kind": "machine"}))[-1].result.answer == answer


def test_only_empty_candidates_abstains():
    result = RagPipeline(InMemory([FARM[3]]), WordOverlap()).ask(QUESTION)
    assert result.answer.abstained
    assert result.context.dropped[0].reason == "empty"


@pytest.mark.parametrize("question", ["", "  \n", None])
def test_an_empty_question_is_refused_at_once(pipeline, question):
    for ask in (pipeline.ask, pipeline.stream):
        with pytest.raises(InputError, match="empty"):
            ask(question)
    assert pipeline.retriever.calls == []


async def test_async_gives_the_same(pipeline):
    one, other = pipeline.ask(QUESTION), await pipeline.aask(QUESTION)
    assert other.answer.citations == one.answer.citations
    assert [hit.id for hit in other.ranking] == [hit.id for hit in one.ranking]


async def test_many_questions_at_once_do_not_mix(pipeline):
    questions = [QUESTION, "when to shear sheep before lambing", "yellow stripes on wheat leaves"] * 4
    results = await asyncio.gather(*map(pipeline.aask, questions))
    assert [result.question for result in results] == questions
    assert [result.ranking[0].id for result in results] == ["depth", "shear", "rust"] * 4


def test_stream_tells_the_stages_as_they_end(pipeline):
    events = list(pipeline.stream(QUESTION))
    assert [type(event) for event in events] == [Retrieved, Reranked, Packed, Delta, Done]
    assert events[-1].result.answer.text == events[-2].text
    assert events[-1].result.candidates == events[0].candidates


async def test_astream_tells_the_same(pipeline):
    events = [event async for event in pipeline.astream(QUESTION)]
    assert [type(event) for event in events] == [Retrieved, Reranked, Packed, Delta, Done]


def test_answers_of_a_chat_model_stream(chat, lm):
    chat.script = [server.say("Sow 3 to 5 cm deep [1].")]
    pipeline = RagPipeline(InMemory(FARM), WordOverlap(), ChatGenerator(lm))
    *events, done = pipeline.stream(QUESTION)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "Sow 3 to 5 cm deep [1]."
    assert done.result.answer.citations[0].passage_id == "depth"


def test_a_failed_generator_is_an_error_by_default(chat, lm):
    chat.script = [server.fail(500)]
    pipeline = RagPipeline(InMemory(FARM), WordOverlap(), ChatGenerator(lm))
    with pytest.raises(BackendError):
        pipeline.ask(QUESTION)
    with pytest.raises(BackendError):
        list(pipeline.stream(QUESTION))


async def test_or_the_best_sentences_if_asked_for(chat, lm, caplog):
    caplog.set_level(logging.WARNING)
    half = server.stream(server.event("Sow 3"))
    chat.script = [server.fail(500, "on fire"), server.fail(500, "on fire"), half]
    pipeline = RagPipeline(InMemory(FARM), WordOverlap(), ChatGenerator(lm), on_generator_error="extractive")
    answer = pipeline.ask(QUESTION).answer
    assert "3 to 5 cm" in answer.text
    assert answer.reason.startswith("The generator failed (BackendError); these are the best sentences.")
    assert not any(secret in answer.reason for secret in ("on fire", chat.url, "tiny"))
    assert answer.model.startswith("extractive:")
    assert "on fire" in caplog.text
    assert (await pipeline.aask(QUESTION)).answer.citations == answer.citations
    *events, done = pipeline.stream(QUESTION)
    assert Delta("Sow 3") in events
    assert done.result.answer.citations == answer.citations


class Careless:
    """A generator of somebody else's, that raises what it likes."""

    model = "careless"

    def generate(self, query, context, *, deadline_s=None):
        raise ValueError("no such key")

    async def agenerate(self, query, context, *, deadline_s=None):
        raise ValueError("no such key")

    def stream(self, query, context, *, deadline_s=None):
        yield "Sow"
        raise ValueError("no such key")

    async def astream(self, query, context, *, deadline_s=None):
        yield "Sow"
        raise ValueError("no such key")


async def test_any_error_of_a_generator_can_be_rescued(caplog):
    pipeline = RagPipeline(InMemory(FARM), WordOverlap(), Careless(), on_generator_error="extractive")
    answers = [pipeline.ask(QUESTION).answer, (await pipeline.aask(QUESTION)).answer]
    answers += [list(pipeline.stream(QUESTION))[-1].result.answer]
    answers += [[event async for event in pipeline.astream(QUESTION)][-1].result.answer]
    for answer in answers:
        assert "3 to 5 cm" in answer.text
        assert answer.reason.startswith("The generator failed (ValueError)")
    assert caplog.text.count("no such key") == 4
    with pytest.raises(ValueError, match="no such key"):
        RagPipeline(InMemory(FARM), WordOverlap(), Careless()).ask(QUESTION)


class Unfinished(Careless):
    """A generator that forgets the answer at the end of its stream."""

    def stream(self, query, context, *, deadline_s=None):
        yield "Sow"

    async def astream(self, query, context, *, deadline_s=None):
        yield "Sow"


async def test_a_stream_without_an_answer_at_its_end_is_a_failure():
    rescued = RagPipeline(InMemory(FARM), WordOverlap(), Unfinished(), on_generator_error="extractive")
    for done in (list(rescued.stream(QUESTION))[-1], [event async for event in rescued.astream(QUESTION)][-1]):
        assert "3 to 5 cm" in done.result.answer.text
        assert "InputError" in done.result.answer.reason
    pipeline = RagPipeline(InMemory(FARM), WordOverlap(), Unfinished())
    with pytest.raises(InputError, match="ended without an Answer"):
        list(pipeline.stream(QUESTION))
    with pytest.raises(InputError, match="ended without an Answer"):
        [event async for event in pipeline.astream(QUESTION)]


@pytest.mark.parametrize("deadline_s", ["1", 0, -1, float("nan")])
def test_a_deadline_is_a_positive_number(pipeline, deadline_s):
    with pytest.raises(InputError, match="deadline_s"):
        pipeline.ask(QUESTION, deadline_s=deadline_s)


def test_failures_of_other_stages_are_never_hidden():
    broken = RagPipeline(
        InMemory(FARM, StoreError("the store is gone")), WordOverlap(), on_generator_error="extractive"
    )
    with pytest.raises(StoreError):
        broken.ask(QUESTION)
    broken = RagPipeline(InMemory(FARM), Broken(lambda *_: ModelError("no weights")), on_generator_error="extractive")
    with pytest.raises(ModelError):
        broken.ask(QUESTION)


def test_a_reranker_that_keeps_order_on_error_still_leads_to_an_answer():
    reranker = Broken(lambda *_: ModelError("no weights"), on_error="keep_order")
    result = RagPipeline(InMemory(FARM[2:]), reranker).ask(QUESTION)
    assert result.ranking.status == "fallback"
    assert "3 to 5 cm" in result.answer.text


def test_the_deadline_reaches_reranker_and_generator(chat, lm, caplog):
    chat.script = [server.hang()]
    slow = WordOverlap(delay=0.15)
    started = time.monotonic()
    pipeline = RagPipeline(InMemory(FARM), slow, ChatGenerator(lm), on_generator_error="extractive")
    result = pipeline.ask(QUESTION, deadline_s=0.6)
    assert time.monotonic() - started < 3
    assert "BackendError" in result.answer.reason
    assert "deadline" in caplog.text
    with pytest.raises(InputError):
        pipeline.ask(QUESTION, deadline_s=0)


def test_reranking_after_the_cut_is_pointed_out():
    with pytest.warns(UserWarning, match="fetch_k=5 is not above top_k=5"):
        RagPipeline(InMemory(FARM), WordOverlap(), fetch_k=5, top_k=5)


@pytest.mark.parametrize(
    "options", [{"fetch_k": 0}, {"top_k": 0}, {"on_generator_error": "ignore"}, {"budget": 0}, {"order": "best"}]
)
def test_wrong_options(options):
    with pytest.raises(InputError):
        RagPipeline(InMemory(FARM), WordOverlap(), **options)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.builds(Passage, st.text(max_size=3), st.text(st.sampled_from("wheat deep. \n?"), max_size=40)), max_size=8
    ),
    st.text(st.sampled_from("wheat deep?"), min_size=1, max_size=12).filter(str.strip),
    st.integers(1, 4),
)
def test_laws(passages, question, top_k):
    before = [passage.to_dict() for passage in passages]
    result = RagPipeline(InMemory(passages), WordOverlap(), ExtractiveGenerator(floor=0), top_k=top_k).ask(question)
    assert sorted(hit.prior_rank for hit in result.ranking) == list(range(1, len(passages) + 1))
    assert len(result.context.blocks) <= top_k
    cited = {(block.number, block.passage.id) for block in result.context.blocks}
    assert {(citation.number, citation.passage_id) for citation in result.answer.citations} <= cited
    assert [passage.to_dict() for passage in passages] == before
    json.dumps(result.to_dict())
