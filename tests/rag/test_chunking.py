from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.rag.chunking import Chunking, chunks, count_words

texts = st.lists(
    st.sampled_from(["Lime", "soil.", "water!", "\n\n", "x" * 40, "土は", "pH 6.5", ". "]), max_size=80
).map(" ".join)


def sentence(number: int, words: int = 10) -> str:
    return " ".join(["Word"] + [f"w{number}"] * (words - 1)) + "."


def test_empty_text_has_no_chunks():
    assert chunks("", Chunking()) == []
    assert chunks(" \n ", Chunking()) == []


def test_a_short_text_is_one_chunk_without_the_white_space_around_it():
    assert chunks("  One. Two. \n", Chunking()) == [(2, 11)]


def test_chunks_end_at_sentences_and_repeat_the_last_one():
    text = " ".join(sentence(n) for n in range(12))
    found = [text[start:end] for start, end in chunks(text, Chunking(words=60, overlap=1))]
    assert len(found) > 1
    assert all(chunk.startswith("Word") and chunk.endswith(".") for chunk in found)
    for before, after in itertools.pairwise(found):
        last = before.rsplit("Word", 1)[1]
        assert after.startswith("Word" + last)


def test_without_overlap_nothing_is_repeated():
    text = " ".join(sentence(n) for n in range(12))
    spans = chunks(text, Chunking(words=60, overlap=0))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_chunks_are_balanced():
    text = " ".join(sentence(n) for n in range(20))
    sizes = [count_words(text[start:end]) for start, end in chunks(text, Chunking(words=180, overlap=0))]
    assert sizes == [100, 100]


def test_a_sentence_longer_than_a_chunk_is_cut_between_words():
    text = " ".join(["word"] * 500)
    found = [text[start:end] for start, end in chunks(text, Chunking(words=100))]
    assert [count_words(chunk) for chunk in found] == [100] * 5
    assert set(" ".join(found).split()) == {"word"}


def test_text_without_spaces_is_cut_too():
    assert len(chunks("土" * 1000, Chunking(words=100))) == 10
    assert len(chunks("x" * 16_000, Chunking(words=100))) == 10


@given(texts, st.integers(1, 40), st.integers(0, 3))
def test_every_character_is_covered_in_order_and_no_chunk_is_too_long(text, words, overlap):
    spans = chunks(text, Chunking(words=words, overlap=overlap))
    position, previous = 0, -1
    for start, end in spans:
        assert count_words(text[start:end]) <= words
        assert start > previous
        assert not text[position:start].strip()
        assert end > position
        position, previous = end, start
    assert not text[position:].strip()


@pytest.mark.timeout(120)  # quadratic time over a megabyte is far longer
@pytest.mark.parametrize("piece", ["word ", "a. ", "\n\n", "x", "Lime is good. "])
def test_a_megabyte_takes_linear_time(piece):
    assert chunks(piece * (1_000_000 // len(piece)), Chunking()) or not piece.strip()


def test_the_repeated_sentence_leaves_room_for_a_long_one():
    text = "Lime \n\n Lime Lime Lime Lime"
    assert [text[start:end] for start, end in chunks(text, Chunking(words=4))] == ["Lime", "Lime Lime Lime Lime"]


@pytest.mark.parametrize("options", [{"words": 0}, {"overlap": -1}, {"words": 2.5}, {"words": "9"}, {"overlap": None}])
def test_senseless_sizes_are_refused(options):
    with pytest.raises(InputError, match="words >= 1"):
        Chunking(**options)
