"""Which heads to read: published lists, files, and the detector."""

from __future__ import annotations

import json

import numpy as np
import pytest
from needle_model import INDUCTION, needle_list, save_needle_model
from toy_lists import jsonl
from typer.testing import CliRunner

from rerankit import InputError, ModelError
from rerankit.cli.app import app
from rerankit.models.attention_layers import Shape
from rerankit.models.causal import LocalLM
from rerankit.models.heads import choose_heads, middle_heads, parse_head, published_heads, read_heads
from rerankit.rerankers.in_context import InContext
from rerankit.training.head_examples import Example, read_examples
from rerankit.training.heads import choose, detect_heads, save_heads

LLAMA = Shape(32, 32)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return LocalLM(save_needle_model(tmp_path_factory.mktemp("needle") / "needle"), dtype="float32")


def examples(count: int, seed: int = 0) -> list[Example]:
    random = np.random.default_rng(seed)
    lists = [needle_list(random, passages=6) for _ in range(count)]
    return [Example(query, tuple(passages), needle) for query, passages, needle in lists]


def test_published_lists_are_well_formed():
    for item in published_heads():
        assert len(set(item.heads)) == len(item.heads) >= 7
        assert all(layer < item.shape.layers and head < item.shape.heads for layer, head in item.heads)
        assert item.source
        assert item.models


@pytest.mark.parametrize(
    ("model", "shape", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", LLAMA, "core"),
        ("meta-llama/Llama-3.2-3B-Instruct", Shape(28, 24), "qrhead-nq"),
        ("Qwen/Qwen3-4B-Instruct-2507", Shape(36, 32), "qrranker"),
        ("MindscapeRAG/QRRanker", Shape(25, 32), "qrranker"),
        ("meta-llama/Llama-3.1-8B-Instruct", Shape(32, 16), "middle:11-14"),
        ("Qwen/Qwen3-0.6B", Shape(28, 16), "middle:10-13"),
        ("two-layers", Shape(2, 4), "middle:0-1"),
    ],
)
def test_auto_is_the_published_list_of_the_model_else_the_middle(model, shape, name):
    assert choose_heads("auto", model=model, shape=shape).name == name


def test_lists_by_name_by_hand_and_all():
    def heads(asked):
        return choose_heads(asked, model="Llama-3.1-8B", shape=LLAMA).heads

    assert heads("qrhead-nq")[0] == (14, 22)
    assert heads("13-18/14-20") == heads(["13-18", (14, 20)]) == ((13, 18), (14, 20))
    assert heads("13-18") == ((13, 18),)
    assert len(heads("all")) == 1024
    assert len(heads("middle")) == 128


@pytest.mark.parametrize("wrong", ["13", "a-b", (1,), (1, -1), "1-2-3"])
def test_heads_that_cannot_be_read_are_refused(wrong):
    with pytest.raises(InputError, match="layer-head"):
        parse_head(wrong)


def test_unknown_lists_name_those_of_the_model():
    with pytest.raises(InputError, match="core, qrhead-lme, qrhead-nq"):
        choose_heads("coer", model="Llama-3.1-8B", shape=LLAMA)


def test_heads_beyond_the_model_are_refused():
    with pytest.raises(ModelError, match="no head 32-0"):
        choose_heads("32-0", model="Llama-3.1-8B", shape=LLAMA)


@pytest.mark.parametrize("method", ["core", "qr"])
def test_the_detector_finds_the_induction_heads(lm, method):
    seen = []
    found = detect_heads(lm, examples(12), method=method, top=2, progress=seen.append)
    assert {parse_head(head.head) for head in found.heads} == set(INDUCTION)
    assert found.held_out["chosen"] == 1.0
    assert found.lists == (6, 6)
    assert sum(seen) == 12
    assert found.depth == 2


def test_the_detector_gives_the_same_for_the_same_seed(lm):
    assert detect_heads(lm, examples(8), top=3, seed=4) == detect_heads(lm, examples(8), top=3, seed=4)


def test_depth_is_traded_against_score():
    class Masses:
        def __init__(self, rows, relevant):
            self.raw = self.calibrated = np.array(rows, float)
            self.relevant = relevant

    shallow_is_enough = [Masses([[3, 1, 0], [9, 0, 0]], 0), Masses([[1, 2, 0], [0, 9, 0]], 1)]
    scores, depths = np.array([0.5, 0.9]), [1, 2]
    assert choose(scores, depths, shallow_is_enough, top=1) == [0]
    deep_is_needed = [Masses([[1, 3, 0], [9, 0, 0]], 0), Masses([[2, 1, 0], [0, 9, 0]], 1)]
    assert choose(scores, depths, deep_is_needed, top=1) == [1]
    assert choose(scores, depths, deep_is_needed, top=1, max_depth=1) == [0]
    assert choose(scores, depths, deep_is_needed, top=1, tolerance=0.9) == [0]
    with pytest.raises(InputError, match="no head up to a depth of 0"):
        choose(scores, depths, deep_is_needed, top=1, max_depth=0)


def test_heads_are_saved_bound_to_the_weights(lm, tmp_path):
    path = tmp_path / "heads.json"
    save_heads(detect_heads(lm, examples(6), top=2), lm, path, data="needles")
    assert set(InContext(lm, heads=str(path)).heads.heads) == set(INDUCTION)
    other = LocalLM(save_needle_model(tmp_path / "other", seed=1), dtype="float32")
    with pytest.raises(ModelError, match="weights"):
        InContext(other, heads=path)


def test_files_that_are_no_heads_files_are_refused(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="cannot be read"):
        read_heads(path, "")
    path.write_text('{"heads": []}')
    with pytest.raises(InputError, match="no heads file"):
        read_heads(path, "")
    path.write_text('{"format": "rerankit-heads/1", "heads": [1]}')
    with pytest.raises(InputError, match="'heads' cannot be read"):
        read_heads(path, "")


def test_too_few_examples_are_refused(lm):
    with pytest.raises(InputError, match="needs 4 lists"):
        detect_heads(lm, examples(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"top": 1.5}, "top"),
        ({"temperature": float("nan")}, "temperature"),
        ({"method": "x"}, "method"),
    ],
)
def test_impossible_options_are_refused(lm, options, message):
    with pytest.raises(InputError, match=message):
        detect_heads(lm, examples(4), **options)


def test_lists_beyond_the_context_are_cut_or_refused_but_never_read_past_it(lm):
    context = lm.context
    lists = examples(4)
    few = [Example(one.query, tuple(text + " pad" * context for text in one.passages), one.relevant) for one in lists]
    seen = []
    hook = lm.model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(int(kwargs["position_ids"].max())), with_kwargs=True
    )
    found = detect_heads(lm, few, top=2, passage_tokens=10**6)
    hook.remove()
    assert found.cut == 4
    assert max(seen) < context
    assert detect_heads(lm, lists, top=2).cut == 0
    many = [Example(one.query, few[0].passages * (context // 16), one.relevant) for one in lists]
    with pytest.raises(ModelError, match=r"fewer wrong passages \(--negatives\)"):
        detect_heads(lm, many)


def test_examples_that_say_nothing_are_refused_or_left_out(tmp_path):
    path = tmp_path / "lists.jsonl"
    for row in ('{"query": " ", "positive": "p"', '{"query": NaN, "positive": "p"', '{"query": "q", "positive": ""'):
        path.write_text(row + ', "negatives": ["a"]}\n')
        with pytest.raises(InputError, match="line 1"):
            read_examples(path)
    path.write_text('{"query": "q", "positive": "right", "negatives": ["right ", " ", "wrong"]}\n')
    (one,) = read_examples(path)
    assert set(one.passages) == {"right", "wrong"}
    with pytest.raises(InputError, match="seed"):
        read_examples(path, seed=-1)


def test_examples_from_a_file(tmp_path):
    rows = [{"query": f"q{i}", "positive": f"right {i}", "negatives": ["a", "b", "c"]} for i in range(9)]
    path = jsonl(tmp_path / "lists.jsonl", *rows)
    found = read_examples(path, count=5, negatives=2, seed=1)
    assert len(found) == 5
    for one in found:
        assert one.passages[one.relevant] == one.query.replace("q", "right ")
        assert len(one.passages) == 3
    assert found == read_examples(path, count=5, negatives=2, seed=1)
    assert {one.relevant for one in read_examples(path)} > {0}


def test_examples_from_the_sample_collection():
    found = read_examples("farm", count=6, negatives=4)
    assert len(found) == 6
    assert all(len(set(one.passages)) == 5 for one in found)


def test_a_file_without_negatives_is_refused(tmp_path):
    path = tmp_path / "lists.jsonl"
    path.write_text('{"query": "q", "positive": "p"}\n')
    with pytest.raises(InputError, match="line 1: 'negatives'"):
        read_examples(path)


def test_the_command(lm, tmp_path):
    rows = [
        {"query": e.query, "positive": e.passages[e.relevant],
         "negatives": [text for i, text in enumerate(e.passages) if i != e.relevant]}
        for e in examples(8)
    ]  # fmt: skip
    data, out = jsonl(tmp_path / "lists.jsonl", *rows), tmp_path / "heads.json"
    folder = str(lm.loaded.checkpoint.folder)
    arguments = ["train", "heads", folder, "--data", str(data), "--out", str(out), "--top", "2", "--dtype", "float32"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "2 heads of 2 of 2 layers" in shown.output
    assert set(read_heads(out, lm.loaded.checkpoint.digest).heads) == set(INDUCTION)
    as_json = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert as_json["held_out"]["chosen"] == 1.0


def test_the_command_tells_what_is_wrong(tmp_path):
    result = CliRunner().invoke(app, ["train", "heads", "x", "--data", "farm", "--out", "x", "--method", "best"])
    assert result.exit_code == 1
    assert "core or qr" in result.output


def test_the_middle_of_any_model_has_layers():
    for layers in range(1, 80):
        numbers = [layer for layer, _ in middle_heads(Shape(layers, 2)).heads]
        assert 0 <= min(numbers) <= max(numbers) < layers
