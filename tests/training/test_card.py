"""A model card has all its parts, reads as YAML and Markdown, and cannot be left incomplete."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml
from toy_training import ToyTask

from rerankit.errors import InputError
from rerankit.training.card import Card, Source, Table, recipe, write_card
from rerankit.training.loop import fit
from rerankit.training.task import Settings

CARD = Card(
    name="Toy ranker",
    summary="Orders toy vectors.\n\nIt is of no use.",
    license="apache-2.0",
    base_model="org/base: a",
    sources=[
        Source("Toy lists", "CC BY 4.0", "training", "48 lists", "https://example.org/toy"),
        Source("More | lists", "MIT", "choosing the best step"),
    ],
    recipe={"loss": "entropy\nof lists"},
    seed=3,
    command="rerankit train toy --seed 3",
    tables=[Table("Toy dev set", ("ranker", "nDCG@10"), [("dense", 0.5), ("toy|er", 0.61234)], "rerankit eval toy")],
    limits=["Knows no words.", "Tried on\none set."],
    usage="text = '''\n```\n'''",
)


def head_of(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_head_is_what_the_hub_reads(tmp_path):
    head, _ = head_of(write_card(tmp_path, CARD).read_text("utf-8"))
    assert head == {
        "license": "apache-2.0",
        "base_model": "org/base: a",
        "datasets": ["Toy lists", "More | lists"],
        "language": ["en"],
        "library_name": "rerankit",
        "pipeline_tag": "text-ranking",
        "tags": ["reranking"],
    }


def test_the_body_has_all_parts(tmp_path):
    _, body = head_of(write_card(tmp_path, CARD).read_text("utf-8"))
    sections = ["# Toy ranker", "## Use", "## Data", "## Training", "## Quality", "### Toy dev set", "## Limits"]
    assert re.findall("^#+ .*$", body, re.MULTILINE) == sections
    for line in [
        "Orders toy vectors.",
        "| [Toy lists](https://example.org/toy) | CC BY 4.0 | training | 48 lists |",
        r"| More \| lists | MIT | choosing the best step |  |",
        "| loss | entropy of lists |",
        "| seed | 3 |",
        "```sh\nrerankit train toy --seed 3\n```",
        "| ranker | nDCG@10 |\n| --- | --- |\n| dense | 0.500 |\n| toy\\|er | 0.612 |",
        "```sh\nrerankit eval toy\n```",
        "- Knows no words.\n- Tried on one set.",
        "````python\ntext = '''\n```\n'''\n````",
    ]:
        assert line in body
    assert "curves.png" not in body


def test_a_run_writes_its_recipe_and_curves(tmp_path):
    settings = Settings(epochs=2, learning_rate=0.02, warmup=0.25, device="cpu")
    report = fit(ToyTask(), settings, tmp_path)
    card = dataclasses.replace(CARD, recipe=recipe(report) | {"loss": "entropy"})
    _, body = head_of(write_card(tmp_path, card).read_text("utf-8"))
    assert "| learning rate | 0.02, linear warmup for 25% of the run, cosine |" in body
    assert f"| weights kept | of step {report.best.step}, the best by hit@1 ({report.best.value:.4f})" in body
    assert f"| trained parameters | {report.parameters} |" in body
    assert "| steps | 12 (finished) |" in body
    assert "(curves.png)" in body


@pytest.mark.parametrize("part", ["license", "sources", "command", "tables", "limits", "summary"])
def test_a_card_that_lacks_a_part_is_refused(tmp_path, part):
    empty = dataclasses.replace(CARD, **{part: type(getattr(CARD, part))()})
    with pytest.raises(InputError, match=f"lacks {part}"):
        write_card(tmp_path, empty)
    assert not list(tmp_path.iterdir())


def test_a_row_of_another_width_is_refused(tmp_path):
    table = Table("wrong", ("a", "b"), [(1,)], "rerankit eval toy")
    with pytest.raises(InputError, match="1 cells, the table 2 columns"):
        write_card(tmp_path, dataclasses.replace(CARD, tables=[table]))
