from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.rag.context import estimate_tokens, pack
from rerankit.types import Hit, Passage, Span

LOREM = "The first sentence is here. A second one follows it. The third has a number, 3. And a fourth ends the text."


def hits(*texts, evidence=(), titles=None):
    return [
        Hit(
            Passage(f"p{n}", text, title=titles[n - 1] if titles else ""),
            rank=n,
            score=1 / n,
            prior_rank=n,
            evidence=evidence if n == 1 else (),
        )
        for n, text in enumerate(texts, 1)
    ]


def words(text):
    return len(text.split())


def numbers(context):
    return [(block.number, block.passage.id) for block in context.blocks]


texts = st.lists(
    st.text(st.sampled_from("abc. \n!?\u3002\u4e2d\U0001f33e[1]"), max_size=120)
    | st.sampled_from([LOREM, "Rain. " * 50, "x" * 400, "", "  ", "Sow wheat 5 cm deep in moist soil.", "No."]),
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(
    texts,
    st.integers(1, 120),
    st.sampled_from([estimate_tokens, words, len]),
    st.sampled_from(["rank", "lost_in_the_middle", "source"]),
    st.booleans(),
    st.none() | st.integers(1, 4),
    st.integers(0, 120),
)
def test_laws(texts, budget, count, order, unique, limit, focus):
    given_hits = hits(*texts, evidence=(Span(focus, focus + 5),))
    context = pack(given_hits, budget=budget, count_tokens=count, order=order, drop_duplicates=unique, limit=limit)
    assert context.tokens == (count(context.text) if context.blocks else 0)
    assert context.tokens <= budget
    assert [block.number for block in context.blocks] == list(range(1, len(context.blocks) + 1))
    for block in context.blocks:
        assert 0 <= block.start < block.end <= len(block.passage.text)
        assert block.text == block.passage.text[block.start : block.end]
        assert block.text.strip() == block.text != ""
    used = [id(block.hit) for block in context.blocks] + [id(dropped.hit) for dropped in context.dropped]
    assert len(set(used)) == len(used)
    if limit is None:
        assert set(used) == set(map(id, given_hits))
    else:
        assert len(context.blocks) <= limit
    if unique:
        kept = [block.passage.text for block in context.blocks]
        assert len(set(kept)) == len(kept)
    json.dumps(context.to_dict())


def test_text_shows_number_title_and_passage():
    context = pack(hits("Dig a hole.", "Fill it.", titles=["Fence\nposts", ""]))
    assert context.text == "[1] Fence posts\nDig a hole.\n\n[2] Fill it."


def test_a_long_passage_is_cut_at_sentence_borders():
    context = pack(hits(LOREM), budget=12, count_tokens=words)
    [block] = context.blocks
    assert block.text == "The first sentence is here. A second one follows it."
    assert (block.start, block.is_cut) == (0, True)


def test_it_is_cut_around_the_evidence():
    place = LOREM.index("number")
    [block] = pack(hits(LOREM, evidence=(Span(place, place + 6), Span(0, 3))), budget=10, count_tokens=words).blocks
    assert "The third has a number, 3." in block.text
    assert "first" not in block.text
    assert LOREM[block.start : block.end] == block.text


def test_a_first_sentence_that_is_too_long_is_cut_at_a_word():
    text = "one two three four five six seven eight nine ten"
    [block] = pack(hits(text), budget=5, count_tokens=words).blocks
    assert block.text == "one two three four"


def test_a_cut_block_never_begins_with_white_space():
    context = pack(hits("The  first sentence.", evidence=(Span(3, 10),)), budget=2, count_tokens=words)
    assert [block.text for block in context.blocks] == ["first"]


def test_what_does_not_fit_is_named_and_shorter_ones_still_get_in():
    context = pack(
        hits("Short one.", "This one is a very long sentence that has no room.", "Tiny."), budget=6, count_tokens=words
    )
    assert numbers(context) == [(1, "p1"), (2, "p3")]
    [dropped] = context.dropped
    assert (dropped.hit.id, dropped.reason) == ("p2", "no room in the token budget")


def test_duplicates_are_dropped_and_the_next_takes_their_place():
    long = " ".join(f"word{i % 37}{'abc'[i % 3]}" for i in range(60))
    context = pack(hits(long, long.upper() + "!", f"{long} ", "Something else entirely."), limit=2)
    assert numbers(context) == [(1, "p1"), (2, "p4")]
    assert [dropped.reason for dropped in context.dropped] == ["duplicate of p1", "duplicate of p1"]
    assert len(pack(hits(long, long), drop_duplicates=False).blocks) == 2


def test_a_part_of_a_better_passage_is_a_duplicate_but_not_the_other_way_round():
    part = "A second one follows it. The third has a number, 3."
    assert len(pack(hits(LOREM, part)).blocks) == 1
    assert len(pack(hits(part, LOREM)).blocks) == 2


def test_only_what_is_shown_of_a_passage_makes_another_a_duplicate():
    tail = "Garlic is planted in autumn at a depth of five centimetres into well drained soil."
    filler = " ".join(f"Filler {letter} {'and so on ' * 6}goes on." for letter in "abcdefghijklmnopqrst")
    context = pack(hits(f"{filler} {tail}", tail), budget=63, count_tokens=words)
    assert numbers(context) == [(1, "p1"), (2, "p2")]
    assert tail in context.text


def test_titles_tell_short_texts_apart():
    said = "Sow it into moist soil, not deep."
    found = [Hit(Passage(title, said, title), n, 1.0, n) for n, title in enumerate(["Wheat", "Barley", "Wheat!"], 1)]
    assert [block.hit.id for block in pack(found).blocks] == ["Wheat", "Barley"]
    part = Hit(Passage("part", "Sow it into moist soil.", "Wheat"), 4, 1.0, 4)
    assert [dropped.hit.id for dropped in pack([found[0], part]).dropped] == ["part"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Spray at 2 litres per hectare", "Spray at 4 litres per hectare"),
        ("Do spray when wet", "Do not spray when wet"),
    ],
)
def test_passages_that_differ_in_a_number_or_a_negation_are_no_duplicates(one, other):
    frame = " ".join(f"common{i}{'xyz'[i % 3]}" for i in range(200))
    assert len(pack(hits(f"{frame}. {one}. {frame}", f"{frame}. {other}. {frame}")).blocks) == 2


def test_lost_in_the_middle_puts_the_best_at_both_ends():
    context = pack(hits("one a", "two b", "three c", "four d", "five e"), order="lost_in_the_middle")
    assert [block.hit.rank for block in context.blocks] == [1, 3, 5, 4, 2]


def test_source_order_keeps_a_document_together():
    found = [
        Hit(Passage(f"p{rank}", f"text {rank}", metadata={"source": source, "start": start}), rank, 1.0, rank)
        for rank, (source, start) in enumerate([("b", 50), ("a", 7), ("b", 10), ("a", None)], 1)
    ]
    assert [block.hit.rank for block in pack(found, order="source").blocks] == [3, 1, 4, 2]


def test_empty_passages_and_no_passages():
    assert pack([]).text == ""
    assert [dropped.reason for dropped in pack(hits("", " \n")).dropped] == ["empty", "empty"]


@pytest.mark.timeout(120)  # quadratic time over a megabyte is far longer
def test_a_huge_passage_is_cut():
    assert pack(hits("word " * 200_000, "Some sentence. " * 70_000)).tokens <= 1500


def test_the_estimate_is_no_fantasy():
    assert 20 <= estimate_tokens(LOREM) <= 40
    assert estimate_tokens("\u4e2d" * 90) == 60
    assert estimate_tokens("") == 0


@pytest.mark.parametrize(
    "options", [{"budget": 0}, {"budget": None}, {"budget": "9"}, {"limit": 0}, {"limit": "9"}, {"order": "best"}]
)
def test_wrong_options(options):
    with pytest.raises(InputError):
        pack([], **options)
