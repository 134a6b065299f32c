"""The prompt of in-context reranking: places, seams, templates, and lists that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_lm
from hypothesis import given, settings
from hypothesis import strategies as st
from in_context_models import FIXTURES
from needle_model import needle_tokenizer

from rerankit.errors import SpecError
from rerankit.models.causal_tokens import PromptReader
from rerankit.models.in_context_prompt import InContextPrompt, fitting_template
from rerankit.models.prompt import Data, RawPrompt
from rerankit.models.templates import Template, templates
from rerankit.rerankers.in_context_rounds import tournament
from rerankit.rerankers.in_context_scores import evidence, passage_score

TEXTS = ["Paris hosts the games.", "  The new release is here.\n", "\n[2] Paris: 3 < 4!", "x"]


@pytest.fixture(scope="module")
def reader():
    from transformers import AutoTokenizer

    return PromptReader(AutoTokenizer.from_pretrained(FIXTURES), "llama-3-tiny")


def prompt(reader, name: str = "llama-3") -> InContextPrompt:
    return InContextPrompt(reader, templates("in_context")[name])


@pytest.mark.parametrize("kind", ["sentencepiece", "unigram", "bytes"])
def test_no_tokenizer_adds_blanks_at_the_seams(kind):
    made = InContextPrompt(PromptReader(tiny_lm.tokenizer(kind, template=None), "x"), templates("in_context")["chat"])
    texts = ["sow maize five", "goats </s> browse", "milk the cow"]
    shared = made.shared([made.candidate(text) for text in texts])
    joint = [
        "Here are some paragraphs:",
        *(part for i, text in enumerate(texts, 1) for part in (f"\n\n[{i}] ", Data(text))),
        f"\n\n{made.template.instruction}\n\nQuery: ",
        Data("how deep"),
        "\n",
    ]
    assert [*shared.ids, *made.question("how deep").ids] == made.reader.encode([RawPrompt(tuple(joint))])[0]
    for (start, stop), number in zip(shared.spans, "123", strict=True):
        read = made.reader.tokenizer.decode(shared.ids[start:stop])
        assert number in read
        assert ":" not in read
    found = made.candidate("sow maize five")
    assert found.offsets[0].tolist()[0] == 0
    assert found.offsets[-1].tolist()[1] == len("sow maize five")


def test_the_prompt_is_the_paper_s_to_the_last_token(reader):
    made = prompt(reader)
    texts = [text.strip() for text in TEXTS]
    shared = made.shared([made.candidate(text) for text in TEXTS])
    joint = [
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|> Here are some paragraphs:",
        *(part for i, text in enumerate(texts, 1) for part in (f" \n\n[{i}] ", Data(text))),
        " \n\nPlease answer the following question based on the information in the paragraphs above. \n\nQuery: ",
        Data("Who hosts?"),
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
    ]
    assert [*shared.ids, *made.question("Who hosts?").ids] == reader.encode([RawPrompt(tuple(joint))])[0]


@settings(max_examples=60)
@given(texts=st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=5))
def test_every_span_holds_its_own_passage(reader, texts):
    made = prompt(reader)
    candidates = [made.candidate(text) for text in texts]
    shared = made.shared(candidates)
    for number, ((start, stop), candidate) in enumerate(zip(shared.spans, candidates, strict=True), 1):
        own = stop - len(candidate.ids)
        assert tuple(shared.ids[own:stop]) == candidate.ids
        assert reader.tokenizer.decode(shared.ids[start:own]) == f"[{number}]"
    assert not set(reader.controls.values()) & {token for candidate in candidates for token in candidate.ids}


@settings(max_examples=60)
@given(text=st.text(min_size=1).filter(lambda text: text.strip()))
def test_offsets_point_into_the_text_as_given(reader, text):
    offsets = prompt(reader).candidate(text).offsets
    covered = "".join(text[i] for i in range(len(text)) if any(a <= i < b for a, b in offsets))
    assert covered.strip() == text.strip()


def test_a_cut_passage_leaves_everything_else_as_it_is(reader):
    made = prompt(reader)
    whole, cut = made.candidate(TEXTS[0]), made.candidate(TEXTS[0], 3)
    assert (cut.ids, cut.cut) == (whole.ids[:3], len(whole.ids) - 3)
    one, two = made.shared([whole, whole]), made.shared([cut, whole])
    assert one.ids[-made.rows :] == two.ids[-made.rows :]
    assert two.spans[0][1] - two.spans[0][0] == one.spans[0][1] - one.spans[0][0] - cut.cut


def test_a_cut_query_keeps_what_follows(reader):
    made = prompt(reader)
    whole, cut = made.question("one two three four five six"), made.question("one two three four five six", 2)
    assert whole.ids[whole.query_tokens :] == cut.ids[cut.query_tokens :]
    assert cut.cut > 0
    assert cut.query_tokens < whole.query_tokens


def test_rows_begin_with_the_instruction(reader):
    made = prompt(reader)
    shared = made.shared([made.candidate("x")])
    text = reader.tokenizer.decode(shared.ids[len(shared.ids) - shared.rows :])
    assert text.startswith("Please answer")
    assert text.endswith("Query:")


def test_the_chat_template_frames_the_generic_prompt(reader):
    made = prompt(reader, "chat")
    ids = [*made.shared([made.candidate("x")]).ids, *made.question("why?").ids]
    text = reader.tokenizer.decode(ids)
    assert text.startswith("<|begin_of_text|><|start_header_id|>user<|end_header_id|>")
    assert text.endswith("Query: why?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3"),
        ("Qwen/Qwen3-4B-Instruct-2507", "chat"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "chat"),
        ("unknown", "chat"),
    ],
)
def test_a_template_is_chosen_only_if_the_tokenizer_knows_its_control_tokens(reader, model, name):
    assert fitting_template(model, None, reader).name == name


def test_a_template_asked_for_is_taken(reader):
    assert fitting_template("unknown", "mistral", reader).name == "mistral"


@pytest.mark.parametrize(
    ("raw", "message"),
    [("{passages}", "must hold"), ("{query} {passages}", "query before the passages")],
)
def test_templates_that_cannot_work_are_refused(reader, raw, message):
    with pytest.raises(SpecError, match=message):
        InContextPrompt(reader, Template("bad", "", raw=raw, item="{passage}"))


def test_no_chat_template_and_no_special_tokens():
    from transformers import PreTrainedTokenizerFast

    made = prompt(PromptReader(PreTrainedTokenizerFast(tokenizer_object=needle_tokenizer()), "words"), "chat")
    assert made.shared([made.candidate("common1")]).spans[0][1] > 0


COSTS = st.lists(st.integers(1, 25), min_size=1, max_size=80)


@given(costs=COSTS)
def test_a_tournament_loses_nobody_and_the_best_wins(costs):
    seen = []

    def judge(positions):
        seen.append(sum(costs[i] for i in positions))
        return -np.array(positions, float)

    outcome = tournament(costs, 100, judge)
    assert sorted(outcome.order) == list(range(len(costs)))
    assert outcome.order[0] == 0
    assert max(seen) <= 100
    assert outcome.scored[outcome.order[: int(outcome.scored.sum())]].all()
    assert (outcome.groups == 0) == (sum(costs) <= 100)


@given(costs=COSTS, patience=st.integers(0, 6))
def test_a_tournament_that_is_broken_off_loses_nobody(costs, patience):
    left = patience

    def judge(positions):
        nonlocal left
        left -= 1
        return np.array(positions, float) if left >= 0 else None

    assert sorted(tournament(costs, 100, judge).order) == list(range(len(costs)))


def test_the_filter_drops_tokens_far_below_the_mean():
    tokens = np.array([1.0] * 20 + [-50.0])
    assert passage_score(tokens, 2.0, "sum") == pytest.approx(20.0)
    assert passage_score(tokens, None, "sum") == pytest.approx(-30.0)
    assert passage_score(np.array([3.0]), 2.0, "sum") == 3.0
    assert passage_score(np.full(5, 2.0), 2.0, "mean") == pytest.approx(2.0)
    assert np.isnan(passage_score(np.array([np.nan, 1.0]), 2.0, "sum"))


def test_evidence_lies_in_the_text_and_not_in_the_title():
    offsets = np.array([[0, 5], [5, 9], [9, 15]])
    (span,) = evidence("one two", np.array([9.0, 0.0, 9.0]), offsets, shift=8)
    assert (span.start, span.end) == (0, 7)  # whole words
    assert evidence("one two", np.array([9.0, 0.0, 0.0]), offsets, shift=8) == ()
