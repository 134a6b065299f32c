from __future__ import annotations

import contextlib

import pytest
from families import WordOverlap
from hypothesis import given
from hypothesis import strategies as st

import rerankit.spec
from rerankit.errors import RerankitError, SpecError
from rerankit.rerankers.compose import Cascade, Fusion
from rerankit.spec import Family, Stage, load, option_names, parse


@pytest.fixture
def overlap(monkeypatch):
    """The toy family under the name ``overlap``, as an installed plug-in would be found."""
    known = {**rerankit.spec.families(), "overlap": Family("overlap", "families:WordOverlap", "toy")}
    monkeypatch.setattr(rerankit.spec, "families", lambda: known)


def test_the_grammar():
    assert parse("dense") == (Stage("dense"),)
    assert parse(" pairwise : http://localhost:11434/v1#qwen3:8b [method=heapsort, soft=true] [:10]") == (
        Stage("pairwise", "http://localhost:11434/v1#qwen3:8b", {"method": "heapsort", "soft": True}, 10),
    )
    assert parse("a:http://[::1]:80/v1#m[:3]|b[x=0.5,y=none,z=1/2/.5,w=a/b]") == (
        Stage("a", "http://[::1]:80/v1#m", {}, 3),
        Stage("b", "", {"x": "0.5", "y": None, "z": "1/2/.5", "w": "a/b"}),
    )


def test_an_alias_takes_options_and_a_view():
    (stage,) = parse("default[k=7][:5]")
    assert stage.family == "fusion"
    assert stage.model == "late-interaction+dense+lexical"
    assert stage.options == {"method": "z-score", "weights": "1/0.6/0.4", "k": "7"}
    assert stage.top_k == 5


@pytest.mark.parametrize(
    "spec", ["", "a||b", "a|", "dense[", "dense]", "dense[:0]", "dense[x]", "dense[=3]", "a b", "[:3]"]
)
def test_what_cannot_be_read_is_refused(spec):
    with pytest.raises(SpecError):
        load(spec)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(spec):
    with contextlib.suppress(SpecError):
        assert parse(spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("crossencoder:x", "did you mean 'cross-encoder'"),
        ("late_interaction", "did you mean 'late-interaction'"),
        ("BAAI/bge-reranker-v2-m3", "did you mean 'cross-encoder:BAAI/bge-reranker-v2-m3'"),
        ("pointwise", "needs a model"),
        ("lexical:bm25", "takes no model"),
        ("default:x", "takes no model"),
        ("fusion", "names its members"),
        ("fusion:dense+", "names its members"),
    ],
)
def test_a_wrong_spec_names_the_nearest_valid_one(spec, hint):
    with pytest.raises(SpecError, match=hint):
        load(spec)


@pytest.mark.usefixtures("overlap")
def test_options_reach_the_class_and_typos_are_named():
    reranker = load("overlap:v2[window=5, on_error=keep_order][:3]", max_windows=9)
    assert (reranker.model, reranker.window, reranker.on_error) == ("word-overlap:v2", 5, "keep_order")
    assert (reranker.top_k, reranker.max_windows) == (3, 9)
    assert load("overlap[:3]", top_k=8).top_k == 8
    with pytest.raises(SpecError, match="no option 'windw'; did you mean 'window'"):
        load("overlap[windw=5]")
    with pytest.raises(SpecError, match="knows the option 'windw'; did you mean 'window'"):
        load("overlap", windw=5)


def test_a_value_means_what_its_option_takes():
    cap = load("cap[key=2024, per=3]")
    assert (cap.key, cap.per) == ("2024", 3)
    assert load("fusion:none+none[weights=1/.5, k=30, method=rrf]").weights == (1.0, 0.5)
    assert load("freshness[half_life_days=7.5]").half_life_days == 7.5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none[top_k=1,top_k=2]", "given twice"),
        ("none[:2][:5]", "Two views"),
        ("cap[per=many]", "per must be"),
        ("none[top_k=1e999]", "top_k"),
    ],
)
def test_values_that_make_no_sense_are_refused(spec, message):
    with pytest.raises(RerankitError, match=message):
        load(spec)


@pytest.mark.parametrize("thing", [None, 3, ["dense"]])
def test_what_is_neither_spec_nor_reranker_is_refused(thing):
    with pytest.raises(SpecError, match="load takes a spec"):
        load(thing)


@pytest.mark.usefixtures("overlap")
def test_a_pipe_makes_a_cascade_and_shared_options_reach_every_stage_that_knows_them():
    cascade = load("overlap:a[:30] | none | overlap:b[:10]", window=7, on_error="keep_order", top_k=4)
    assert isinstance(cascade, Cascade)
    first, _, last = cascade.stages
    assert (first.window, last.window, first.top_k) == (7, 7, 30)
    assert (cascade.on_error, first.on_error, cascade.top_k) == ("keep_order", "raise", 4)


@pytest.mark.usefixtures("overlap")
def test_a_fusion_builds_its_members():
    fusion = load("fusion:overlap:a+overlap:b[method=rrf][:6]", window=3)
    assert isinstance(fusion, Fusion)
    assert [member.model for member in fusion.members] == ["word-overlap:a", "word-overlap:b"]
    assert [member.window for member in fusion.members] == [3, 3]
    assert fusion.top_k == 6


def test_a_reranker_passes_through():
    reranker = WordOverlap()
    assert load(reranker) is reranker
    with pytest.raises(SpecError, match="already built"):
        load(reranker, top_k=3)


def test_option_names_include_those_of_the_bases():
    assert {"window", "cache", "max_windows", "top_k", "on_error"} <= option_names(WordOverlap)


def test_a_plug_in_is_found_through_its_entry_point(tmp_path, monkeypatch):
    info = tmp_path / "toy_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rerankit.rerankers]\ntoy = families:WordOverlap\ngone = nowhere:Class\n")
    monkeypatch.syspath_prepend(tmp_path)
    rerankit.spec.families.cache_clear()
    try:
        assert load("toy:v9").model == "word-overlap:v9"
        assert "toy-plugin" in rerankit.spec.families()["toy"].summary
        with pytest.raises(RerankitError, match="cannot be imported from 'nowhere:Class'"):
            load("gone")
    finally:
        rerankit.spec.families.cache_clear()
