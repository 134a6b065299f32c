"""A domain's names: what means the same, what is something else, and what an answer makes of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.errors import InputError
from rerankit.rag.agent_run import Aspect
from rerankit.rag.agent_words import other_words
from rerankit.rag.context import pack
from rerankit.rag.extractive import ABSTENTION, ExtractiveGenerator
from rerankit.rag.vocabulary import Vocabulary
from rerankit.types import Hit, Passage

GROUPS = {
    "animals": {
        "kinds": {
            "chicken": ["hen", "chook", "laying hen"],
            "quail": [],
            "sheep": ["ewe", "lamb"],
            "goat": ["doe", "nanny-goat"],
            "deer": ["doe"],
            "goose": ["geese"],
        },
        "general": {"poultry": ["chicken", "quail", "goose"]},
    },
    "crops": {"kinds": {"maize": ["corn"], "corn salad": [], "wheat": [], "strawberry": [], "tomato": []}},
}
FARM = Vocabulary(GROUPS)
WORDS = [
    *("hen", "Chooks", "quails", "ewes", "doe", "geese", "poultry", "corn", "corn salad", "wheat", "strawberries"),
    *("lay", "the", "in", ".", "-", "\n", "\u9e21", "tomatoes"),
]
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join))


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("My CHOOKS won't lay", ["chicken"]),
        ("strawberries, tomatoes and geese", ["strawberry", "tomato", "goose"]),
        ("corn salad beside corn", ["corn salad", "maize"]),
        ("the nanny goat, or nanny-goat", ["goat"]),
        ("a doe", ["deer", "goat"]),
        ("poultry", []),
        ("wheaten henhouse lambing", []),
        ("the ewe's feet", ["sheep"]),
    ],
)
def test_it_knows_names_as_whole_words_with_plurals_the_longest_first(text, kinds):
    assert FARM.kinds(text) == kinds


@pytest.mark.parametrize(
    ("question", "passage", "conflict"),
    [
        ("light for quail", "Hens need 15 hours of light", "about hens, not about quail"),
        ("light for quail", "Poultry need 15 hours of light", None),
        ("light for poultry", "Hens need 15 hours of light", None),
        ("light for my poultry, all quail", "Hens, like all poultry, need light", "about hens, not about quail"),
        ("light for chooks", "Hens need 15 hours of light", None),
        ("light for quail", "15 hours of light are enough", None),
        ("light in the hen house", "Wheat needs light", None),
        ("worms of a doe", "worms of goats", None),
        ("worms of a doe", "worms of ewes and lambs, and of hens", "about ewes and hens, not about doe"),
        ("corn for hens", "wheat for hens", "about wheat, not about corn"),
    ],
)
def test_a_passage_is_about_something_else_where_it_names_only_other_kinds_of_a_group(question, passage, conflict):
    found = FARM.conflict(question, passage)
    assert (None if found is None else str(found)) == conflict


@given(texts, texts)
def test_for_any_text_nothing_contradicts_itself_or_what_it_agrees_with(first, second):
    assert FARM.conflict(first, first) is None
    assert not (FARM.agree(first, second) and FARM.conflict(first, second))
    names = FARM.names(first)
    assert all(name.words and name.kinds for name in names)
    assert set(FARM.kinds(first)) == {kind for name in names if not name.general for kind in name.kinds}


def test_to_agree_takes_a_name_in_common():
    assert FARM.agree("light for chooks", "Hens need light")
    assert FARM.agree("light for poultry", "Hens need light")
    assert not FARM.agree("light for chooks", "Light is needed")
    assert not FARM.agree("light for chooks", "Quail need light")
    assert not FARM.agree("corn for hens", "wheat for hens")


def test_a_short_name_may_mean_a_longer_one_but_not_the_other_way_round():
    pests = {"kinds": {"armyworm": [], "fall armyworm": [], "locust": []}}
    known = Vocabulary({"pests": pests})
    assert known.conflict("treat young maize for the armyworms", "Fall armyworm chews leaves") is None
    assert known.conflict("the fall armyworm", "Armyworms march at night") is not None
    assert known.conflict("locusts", "Fall armyworm chews leaves") is not None
    assert Vocabulary({"pests": {**pests, "exclusive": False}}).conflict("locusts", "Fall armyworm") is None


def test_names_do_not_run_across_punctuation_nor_into_other_words():
    assert FARM.kinds("We grow corn. Salad is next.") == ["maize"]
    assert FARM.kinds("corn,salad") == ["maize"]
    assert FARM.kinds("How often does it rain?") == []
    assert FARM.kinds("corn\nsalad") == ["corn salad"]


def test_letters_are_the_same_however_they_are_composed():
    peppers = Vocabulary({"peppers": {"kinds": {"jalape\u00f1o": [], "poblano": []}}})
    assert peppers.conflict("How hot is a jalape\u00f1o?", "jalapen\u0303o are hotter than poblano") is None
    assert peppers.kinds("\uff50oblano") == ["poblano"]


def test_what_it_says_holds_nothing_but_the_names():
    hostile = "corn\u202e" + "\n" * 100_000 + "salad, HENS, laying\u00a0hens and hen"
    assert str(FARM.conflict("light for quail", hostile)) == "about hens, not about quail"


@pytest.mark.parametrize(
    "groups",
    [
        None,
        [],
        {"animals": []},
        {"animals": {}},
        {"animals": {"kinds": ["hen"]}},
        {"animals": {"kinds": {"hen": "chook"}}},
        {"animals": {"kinds": {"hen": [1]}}},
        {"animals": {"kinds": {"...": []}}},
        {"animals": {"kinds": {"": []}}},
        {"animals": {"kinds": {"hen": ["a b c d e f g h i j k"]}}},
        {"animals": {"kinds": {"C++": [], "C": []}}},
        {"animals": {"kinds": {"hen": []}, "exclusive": "false"}},
        {"animals": {"kinds": {"hen": []}, "exclusve": False}},
        {"animals": {"kinds": {"hen": []}, "general": {"poultry": ["goose"]}}},
    ],
)
def test_wrong_groups_are_refused(groups, tmp_path):
    with pytest.raises(InputError):
        Vocabulary.from_dict({"groups": groups})
    file = tmp_path / "vocabulary.json"
    file.write_text(json.dumps({"groups": groups}))
    with pytest.raises(InputError):
        Vocabulary.read(file)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"7"])
def test_a_file_that_is_no_vocabulary_is_refused_by_name(content, tmp_path):
    file = tmp_path / "vocabulary.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match="vocabulary"):
        Vocabulary.read(file)
    with pytest.raises(InputError, match="nowhere"):
        Vocabulary.read(tmp_path / "nowhere.json")


def test_names_that_are_no_strings_and_endless_nesting_are_refused():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for groups in ({"animals": {"kinds": {1: []}}}, {"animals": {"kinds": {"hen": nested}}}, nested):
        with pytest.raises(InputError):
            Vocabulary(groups)


def test_what_stands_twice_in_a_file_is_refused(tmp_path):
    file = tmp_path / "vocabulary.json"
    file.write_text('{"groups": {"animals": {"kinds": {"hen": ["chook"], "hen": []}}}}')
    with pytest.raises(InputError, match="'hen' stands there twice"):
        Vocabulary.read(file)


def test_a_file_without_end_is_refused(tmp_path):
    file = tmp_path / "vocabulary.json"
    with file.open("wb") as out:
        out.truncate(2**33)
    with pytest.raises(InputError, match="8,000,000"):
        Vocabulary.read(file)


def test_it_is_read_from_a_file(tmp_path):
    file = tmp_path / "vocabulary.json"
    file.write_text(json.dumps({"groups": GROUPS}), encoding="utf-8-sig")
    assert Vocabulary.read(file).kinds("chooks") == ["chicken"]


LIGHT = Passage("light", "Hens lay all winter with 15 hours of light a day.", "Light for hens")
SHEEP = Passage("sheep", "Sheep graze for ten hours of light a day in winter.", "Grazing sheep")


def _context(*passages):
    return pack([Hit(passage, n, None, n) for n, passage in enumerate(passages, 1)])


def test_an_answer_about_something_else_is_declined_and_says_so():
    question, context = "How many hours of light keep quail laying all winter?", _context(LIGHT)
    assert not ExtractiveGenerator().generate(question, context).abstained
    answer = ExtractiveGenerator(vocabulary=FARM).generate(question, context)
    assert answer.abstained
    assert answer.confidence == 0.0
    assert answer.reason == "The best passage found is about hens, not about quail"
    assert answer.text.startswith(ABSTENTION)
    assert not ExtractiveGenerator(vocabulary=FARM, floor=0).generate(question, context).abstained


def test_only_passages_that_fit_are_quoted():
    question = "How many hours of light a day do chooks need to lay all winter, so that they lay as in summer?"
    context = _context(LIGHT, SHEEP)
    plain, informed = (ExtractiveGenerator(vocabulary=known).generate(question, context) for known in (None, FARM))
    assert {citation.passage_id for citation in plain.citations} == {"light", "sheep"}
    assert {citation.passage_id for citation in informed.citations} == {"light"}


def test_a_passage_that_names_what_is_asked_is_found_behind_a_better_one_about_something_else():
    """Which is where another name of the same thing leaves it."""
    drugs = Vocabulary({"drugs": {"kinds": {"paracetamol": ["acetaminophen", "panadol"], "ibuprofen": []}}})
    wrong = Passage(
        "wrong", "The largest dose of ibuprofen for an adult is 1200 mg a day.", "Largest dose of ibuprofen"
    )
    right = Passage("right", "An adult may take at most 4 g of acetaminophen a day.", "Acetaminophen")
    bare = Passage("bare", "Doses are printed on the box, and adults find more in the leaflet.", "Boxes")
    question = "What is the largest dose of Panadol for an adult?"
    plain, judge = (ExtractiveGenerator(vocabulary=known, floor=0.01) for known in (None, drugs))
    assert plain.generate(question, _context(wrong, right)).citations[0].passage_id == "wrong"
    assert {c.passage_id for c in judge.generate(question, _context(wrong, right)).citations} == {"right"}
    assert judge.generate(question, _context(wrong, bare)).abstained, "what names nothing is no way out"


def test_the_title_counts_too():
    light = Passage("light", "They lay all winter with 15 hours of light a day.", "Light for hens")
    answer = ExtractiveGenerator(vocabulary=FARM).generate("How much light do quail need to lay?", _context(light))
    assert answer.reason == "The best passage found is about hens, not about quail"


def test_without_names_nothing_changes():
    question = "How long should lights burn?"
    plain, informed = (
        ExtractiveGenerator(vocabulary=known).generate(question, _context(LIGHT, SHEEP)) for known in (None, FARM)
    )
    assert (plain.text, plain.confidence) == (informed.text, informed.confidence)


def test_the_next_search_uses_the_usual_name():
    assert other_words(Aspect("What do chooks eat?"), FARM).split() == ["chooks", "eat", "chicken"]
