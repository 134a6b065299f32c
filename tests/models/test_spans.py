"""Windows cover the text, fit the model and respect words."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import TOKENIZERS, WORDS, bert_tokenizer

from rerankit.errors import InputError
from rerankit.models.spans import estimate, first_windows, windows
from rerankit.models.tokens import TokenCache


@pytest.mark.parametrize("name", TOKENIZERS)
@given(words=st.lists(st.sampled_from(WORDS), max_size=60), capacity=st.integers(16, 40))
def test_windows_cover_the_text_and_fit(name, words, capacity):
    text = " ".join(words)
    cache = TokenCache(TOKENIZERS[name]())
    spans = windows(text, cache.encode([text])[0], capacity)
    assert (spans[0][0], spans[-1][1]) == (0, len(text))
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert text[end:start].strip() == ""
    for start, end in spans:
        assert len(cache.encode([text[start:end]])[0]) <= capacity
    if len(spans) > 1:
        assert [start for start, _ in spans] == sorted({start for start, _ in spans})


def test_neighbours_overlap_and_words_stay_whole():
    text = "maize soil water cow rust seed how deep to sow the in dry season " * 4
    spans = windows(text, TokenCache(bert_tokenizer()).encode([text])[0], 16)
    assert all(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))
    assert all(set(text[start:end].split()) <= set(WORDS) for start, end in spans)


def test_text_without_spaces_is_cut_anyway():
    text = "土" * 500
    spans = windows(text, TokenCache(bert_tokenizer()).encode([text])[0], 50)
    assert spans[-1][1] == 500
    assert max(end - start for start, end in spans) <= 50


def test_no_room_is_an_input_error():
    with pytest.raises(InputError, match="No room"):
        windows("maize", TokenCache(bert_tokenizer()).encode(["maize"])[0], 0)


@given(words=st.lists(st.sampled_from(WORDS), max_size=400), limit=st.integers(1, 4))
def test_the_first_windows_are_those_of_the_whole_text(words, limit):
    text = " ".join(words)
    cache = TokenCache(bert_tokenizer())
    assert first_windows(text, cache, 16, limit) == first_windows(text, cache, 16, None)[:limit]


def test_a_huge_text_is_not_read_to_its_end():
    cache = TokenCache(bert_tokenizer())
    text = "maize soil water " * 60_000
    started = time.thread_time()
    assert len(first_windows(text, cache, 250, 4)) == 4
    assert estimate(text, cache) == pytest.approx(180_000, rel=0.01)
    assert time.thread_time() - started < 0.3
    with pytest.raises(InputError, match="limit"):
        first_windows(text, cache, 250, 0)
