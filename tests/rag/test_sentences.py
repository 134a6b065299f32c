from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankit.rag.sentences import sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n ", []),
        ("One sentence", ["One sentence"]),
        ("Sow in May. Water it! Why? Because.", ["Sow in May.", "Water it!", "Why?", "Because."]),
        ("Apply 3.5 kg per ha. Then wait 2.5 days.", ["Apply 3.5 kg per ha.", "Then wait 2.5 days."]),
        ("Dr. Smith met Mrs. Jones. They agreed.", ["Dr. Smith met Mrs. Jones.", "They agreed."]),
        ("Legumes, e.g. Lucerne, fix nitrogen.", ["Legumes, e.g. Lucerne, fix nitrogen."]),
        ("Written by J. R. Smith in 1990. It sold.", ["Written by J. R. Smith in 1990.", "It sold."]),
        ("Give vitamin C. The calf recovers.", ["Give vitamin C.", "The calf recovers."]),
        ("See Fig. 3 for details. Done.", ["See Fig. 3 for details.", "Done."]),
        ("Prune the fig. Then water it.", ["Prune the fig.", "Then water it."]),
        ("Is it safe? No. It burns.", ["Is it safe?", "No.", "It burns."]),
        ("Fusarium spp. Survive? no.", ["Fusarium spp. Survive? no."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("A sentence that is\nwrapped over lines. And more.", ["A sentence that is\nwrapped over lines.", "And more."]),
        ("First paragraph\n\nSecond paragraph", ["First paragraph", "Second paragraph"]),
        ("# Soil\nLime raises the pH.", ["# Soil", "Lime raises the pH."]),
        ("Needs:\n- lime\n- compost", ["Needs:", "- lime", "- compost"]),
        ("1. Plant the seed.\n2. Water it.", ["1. Plant the seed.", "2. Water it."]),
        ("Soil care\nLime raises the pH of an acid soil over some months.", None),
        ("土は大切です。水も必要です。", ["土は大切です。", "水も必要です。"]),
        ("At 5 a.m. The cows wake. See U.S. Department.", ["At 5 a.m.", "The cows wake.", "See U.S. Department."]),
        ("windows\r\nline ends. Here.\r\n\r\nNew.", ["windows\r\nline ends.", "Here.", "New."]),
    ],
)
def test_sentences(text, expected):
    if expected is None:
        expected = text.split("\n")
    assert split(text) == expected


@given(st.text(st.sampled_from(list("aA1 .!?\n\t\r\"')(-#。é")), max_size=200) | st.text(max_size=100))
def test_spans_are_ordered_trimmed_and_lose_nothing(text):
    spans = sentences(text)
    position = 0
    for start, end in spans:
        assert position <= start < end
        assert not text[position:start].strip()
        assert text[start:end] == text[start:end].strip()
        position = end
    assert not text[position:].strip()


@pytest.mark.parametrize(
    "piece",
    [".", ". ", "a. ", "A. ", ".\n", "\n \n", ")", '."', "1. ", " ", "a", "a.b", "。", "- ", "# ", ".)", "\n- a", "?!"],
)
@pytest.mark.timeout(120)  # quadratic time over a megabyte is far longer
def test_a_hostile_megabyte_takes_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    assert sentences("Start. " + text + " end")
