"""The reader of listwise replies: formats it knows, and that it makes an honest permutation of anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.rerankers.permutations import completed, read_identifiers, read_ratings, split_reasoning

NUMBERS = [str(i) for i in range(1, 6)]
LETTERS = list("ABCDE")

alphabet = st.sampled_from(
    [*"0123456789[]<>>,;.:\n {}\"'", "think>", "</think>", "<answer>", "</answer>", "Passage ", "A"]
)
replies = st.text(max_size=60) | st.lists(alphabet, max_size=60).map("".join)


@given(replies, st.integers(1, 30), st.sampled_from([0, 1]), st.booleans())
def test_any_reply_gives_a_permutation_whose_named_part_is_what_was_read(reply, count, first, letters):
    names = list("ABCDEFGHIJKLMNOPQRSTUVWXYZABCD")[: min(count, 26)] if letters else range(first, first + count)
    reading = read_identifiers(split_reasoning(reply)[1], [str(name) for name in names])
    order = completed(reading.named, range(len(names)))
    assert sorted(order) == list(range(len(names)))
    assert order[: len(reading.named)] == reading.named
    rest = order[len(reading.named) :]
    assert list(rest) == sorted(rest)


@given(st.permutations(range(12)), st.sampled_from([" > ", ">", ", ", "\n", " "]), st.booleans())
def test_a_whole_list_is_read_as_it_is_written(order, separator, brackets):
    reply = separator.join(f"[{i + 1}]" if brackets else str(i + 1) for i in order)
    reading = read_identifiers(reply, [str(i + 1) for i in range(12)])
    assert list(reading.named) == order
    assert reading.dropped == 0


@given(st.permutations(range(8)), st.text(alphabet="abc [1] > [2]\n", max_size=30))
def test_reasoning_is_never_read_as_the_answer(order, thought):
    names = [str(i + 1) for i in range(8)]
    answer = " > ".join(f"[{i + 1}]" for i in order)
    for reply in (f"<think>{thought}</think>{answer}", f"{thought}</think>\n<answer>{answer}</answer>"):
        assert list(read_identifiers(split_reasoning(reply)[1], names).named) == order
    assert read_identifiers(split_reasoning(f"<think>{thought} {answer}")[1], names).named == ()


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("[3] > [1] > [2]", [2, 0, 1]),
        ("Sure! Here is the ranking:\n[3] > [1]", [2, 0]),
        ("[2] > [1] ... no: [2] > [3] > [1]", [1, 2, 0]),
        ("Passages [1] to [5], best first: [4] > [5]", [3, 4]),
        ("3 > 1 > 2", [2, 0, 1]),
        ("[3, 1, 2]", [2, 0, 1]),
        ('{"ranking": ["3", "1", "2"]}', [2, 0, 1]),
        ("```json\n[5, 4]\n```", [4, 3]),
        ("1. [3]\n2. [1]\n3. [2]", [2, 0, 1]),
        ("Document 3, Document 1", [2, 0]),
        ("The top ones are Document 3, Document 1, ..., Document 2.", [2, 0, 1]),
        ("<answer>passage 4</answer>", [3]),
        ("<answer>[4]", [3]),
        ("passage 2 is the least relevant one.", [1]),
        ("Passage 2", [1]),
        ("2", [1]),
        ("03 > 01", [2, 0]),
        ("\uff13 > \uff11", [2, 0]),
        ("I cannot rank these 3 passages.", []),
        ("Between 2 and 3 degrees, passage 1 and passage 4 agree.", []),
        ("", []),
        ("[1] and [2] are not relevant to the query. The most relevant passage is [4].", [3]),
        ("Passage [1] does not answer the query; passage [3] does.", [2]),
        ("The best is [4], while [1] doesn\u2019t help.", [3]),
        ("The most relevant passage is [4], not [1].", [3]),
        ("None of these: [1], [2] and [3] are off topic.", []),
        ("1. [3] says how deep.\n2. [1] does not say how deep, but when.\n3. [2]", [2, 0, 1]),
        ("[4]\n\n[1] and [2] do not say how deep", [3]),
        ("[1] is not as good. [2] > [1]", [1, 0]),
    ],
)
def test_formats_and_refusals(reply, named):
    assert list(read_identifiers(reply, NUMBERS).named) == named


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("[B] > [A]", [1, 0]),
        ("B > A > C", [1, 0, 2]),
        ("B", [1]),
        ("Passage B", [1]),
        ("b, a", [1, 0]),
        ("Passage D is a good match, as I said.", [3]),
        ("A refusal: I am not able to choose.", []),
    ],
)
def test_letters(reply, named):
    assert list(read_identifiers(reply, LETTERS).named) == named


def test_repeated_and_unknown_identifiers_are_dropped_and_counted():
    reading = read_identifiers("[3] > [9] > [3] > [0] > [1]", NUMBERS)
    assert reading.named == (2, 0)
    assert reading.dropped == 3


def test_counting_from_0():
    assert read_identifiers("[4] > [1] > [0] > [3] > [2]", ["0", "1", "2", "3", "4"]).named == (4, 1, 0, 3, 2)


def test_a_template_may_say_where_the_answer_is():
    reply = "[1] > [2] > [3]\n### Final: [3] > [2]"
    assert read_identifiers(reply, NUMBERS, r"### Final:(.*)").named == (2, 1)


def test_reasoning_is_kept():
    assert split_reasoning("<reason>because</reason><answer>[1]</answer>") == ("because", "<answer>[1]</answer>")
    assert split_reasoning("opened by the prompt</think>[1]") == ("opened by the prompt", "[1]")
    assert split_reasoning("[2]<think>cut off [1]") == ("cut off [1]", "[2]")


def test_long_nonsense_is_no_slower_than_its_length():
    """Patterns that try every pair of positions would take hours here."""
    for piece in ("<think>", "<answer>", "\n", " ", "[", "1", ".", "1 . . ", "1 > ", '"[1]": ', "Passage "):
        said = split_reasoning(piece * 50_000)[1]
        reading = read_identifiers(said, NUMBERS)
        assert len(reading.named) <= 1
        assert read_ratings(said, NUMBERS, 10.0).by_place == {}


def test_ratings_missing_ones_stay_missing():
    ratings = read_ratings('<answer>```json\n{"[1]": 5, "[2]": 11, "7": 3, "[3]": "8.5", "[4]": ', NUMBERS, 10.0)
    assert ratings.by_place == {0: 5.0, 2: 8.5}
    assert ratings.dropped == 2


@given(replies)
def test_ratings_of_anything_are_in_range(reply):
    ratings = read_ratings(reply, NUMBERS, 10.0)
    assert all(0 <= place < 5 and 0.0 <= value <= 10.0 for place, value in ratings.by_place.items())


@given(st.permutations(range(6)), st.integers(0, 6))
def test_completed(items, taken):
    assert completed(items[:taken], range(6)) == (*items[:taken], *sorted(items[taken:]))
