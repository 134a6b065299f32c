"""Nothing secret is shown or written: not in messages, run folders, reports or names."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_server import JudgeServer
from typer.testing import CliRunner

import rerankit
import rerankit.spec
from rerankit.cli.app import app
from rerankit.errors import InputError, RerankitError, SpecError
from rerankit.evaluation.arms import read_arms
from rerankit.evaluation.experiment import Arm
from rerankit.evaluation.gate import Condition
from rerankit.evaluation.runfolder import RunFolder
from rerankit.redaction import public_options, public_spec, without_addresses
from rerankit.server.settings import named_models

KEY, PASSWORD = "sk-SECRET", "hunter2"
JUDGE = f"pairwise:http://u:{PASSWORD}@127.0.0.1:1/v1#m"


def secretless(text):
    return KEY not in str(text) and PASSWORD not in str(text)


@pytest.mark.parametrize(
    ("spec", "public"),
    [
        ("default", "default"),
        ("dense[:30] | mmr[weight=0.7][:5]", "dense[:30] | mmr[weight=0.7][:5]"),
        ("remote:http://h/v1[api_key=sk-1]", "remote:http://h/v1"),
        ("remote:http://h/v1[timeout_s=3, api_key=sk-1][:5]", "remote:http://h/v1[timeout_s=3][:5]"),
        ("pairwise:https://me:sk-1@h/v1#m[method=heapsort]", "pairwise:https://h/v1#m[method=heapsort]"),
        ("judge:http://me:p@ss@h/v1#m", "judge:http://h/v1#m"),
        ("judge:http://me:p/s@s@h/v1#m", "judge:http://h/v1#m"),
        ("judge:http://me:sk-1@[::1]:80/v1#m[:3]", "judge:http://[::1]:80/v1#m[:3]"),
        ("judge:http://h:80/v1#org/m@2", "judge:http://h:80/v1#org/m@2"),
        ("judge:http://h/v1#m[api-key=sk,1,top=2]", "judge:http://h/v1#m[top=2]"),
        ("judge:http://h/v1#m[api_key:sk-1][top=2]", "judge:http://h/v1#m[top=2]"),
        ("judge:http://h/v1#m[api_key sk-1]", "judge:http://h/v1#m"),
        ("judge:http://h/v1#m[key=sk-1] | cap[:9][key=field,per=2]", "judge:http://h/v1#m | cap[:9][key=field,per=2]"),
        ("judge:http://h/v1#m[top=2,api_key=sk-1][[", "judge:http://h/v1#m[top=2,..."),
        ("judge:http://u:sk-1@h/v1#m[api_key=s[k]-1] | dense", "judge:http://h/v1#m[..."),
        ("judge:http://h/v1#m[token=s]k-1]", "judge:http://h/v1#m[..."),
        ("a[HF_TOKEN=sk-1] | fusion:b[secret=sk-1]+c[x=1]", "a | fusion:b+c[x=1]"),
        (
            "judge:http://h/v1#m[max_tokens=9,max_tokens_field=x]",
            "judge:http://h/v1#m[max_tokens=9,max_tokens_field=x]",
        ),
    ],
)
def test_a_spec_is_written_without_secrets(spec, public):
    assert public_spec(spec) == public


def test_options_are_written_without_secrets():
    options = {
        "model": "http://me:sk-1@h/v1#m",
        "device": "cpu",
        "api_key": "sk-1",
        "headers": {"x": "sk-1"},
        "extra": {"seed": 1, "password": "sk-1"},
    }
    assert public_options(options) == {"model": "http://h/v1#m", "device": "cpu", "extra": {"seed": 1}}
    assert options["api_key"] == "sk-1"


@given(st.text(alphabet=st.characters(exclude_characters="[],=|@"), min_size=1))
def test_no_written_secret_survives_whatever_it_is(secret):
    spec = public_spec(f"remote:http://h/v1[api_key={secret},top=1]")
    assert spec == "remote:http://h/v1[top=1]"


WRONG = [
    f"{JUDGE}[api_key={KEY},metod=x]",
    f"{JUDGE}[api_key={KEY},method=quick]",
    f"{JUDGE}[api_key={KEY},max_calls=true]",
    f"{JUDGE}[api_key={KEY}][[",
    f"{JUDGE}[api_key={KEY}]]",
    f"{JUDGE}[[api_key={KEY}]",
    f"{JUDGE}[api_key={KEY}",
    f"{JUDGE}[api_key={KEY}]]x[",
    f"{JUDGE}[api_key={KEY}]tail",
    f"{JUDGE}[api_key={KEY}]tail[:3]",
    f"{JUDGE}[api_key:{KEY}]",
    f"{JUDGE}[api_key={KEY},api_key={KEY}]",
    f"{JUDGE}[api_key={KEY}][:2][:3]",
    f"{JUDGE}[api_key={KEY}][:0]",
    f"{JUDGE}[api_key={KEY}] | lexicl",
    f"{JUDGE}[api_key={KEY}] | | dense",
    f"lexical[k=1] | {JUDGE}[api_key={KEY}]",
    f"dense] | {JUDGE}[api_key={KEY}|{KEY}]",
    f"fusion:lexical+{JUDGE}[api_key={KEY},metod=x][method=rrf]",
    f"fusion:lexical+{JUDGE}[api_key={KEY}]x+lexical",
    f"default:{JUDGE}[api_key={KEY}]",
    f"http://u:{PASSWORD}@h/v1#m[api_key={KEY}]",
    f"lexical[api_key={KEY}]",
]


@pytest.mark.parametrize("spec", WRONG)
def test_a_message_about_a_spec_has_no_secret(spec):
    with pytest.raises(RerankitError) as caught:
        rerankit.load(spec)
    assert secretless(caught.value)
    shown = CliRunner().invoke(app, ["rank", "--rerank", spec, "-q", "x", "a passage"])
    assert shown.exit_code
    assert secretless(shown.output)


def talkative(model: str, api_key: str = "", depth: int = 1, top_k: int | None = None):
    raise ValueError(f"cannot log in with {api_key!r}")


def test_a_message_about_options_has_no_secret(monkeypatch):
    known = {**rerankit.spec.families(), "talk": rerankit.spec.Family("talk", f"{__name__}:talkative", "")}
    monkeypatch.setattr(rerankit.spec, "families", lambda: known)
    for given_here, written in (({"api_key": KEY}, "[depth=3]"), ({"depth": 3}, f"[api_key={KEY}]")):
        with pytest.raises(SpecError, match=r"cannot be built with \{'depth': 3\}: cannot log in") as caught:
            rerankit.load(f"talk:http://u:{PASSWORD}@h/v1#m{written}", **given_here)
        assert secretless(caught.value)


@pytest.mark.parametrize(
    "model",
    ["http://h/v1#judge[api_key=sk][[", "http://h/v1#judge]", "http://h/v1#judge[", "http://h/v1#ju[d]ge", "http://[::1/v1#m",
     "./model[1]/x", "http://h/v1#judge[x=1]y[:3]"],
)  # fmt: skip
def test_a_bracket_is_never_part_of_a_model(model):
    with pytest.raises(SpecError, match=r"(?i)brackets"):
        rerankit.load(f"pairwise:{model}")


@given(st.text(alphabet="[]|+,=:#ab ", max_size=12), st.text(alphabet="[]|+,=:#ab ", max_size=12))
def test_no_model_holds_a_stray_bracket_whatever_is_mistyped(before, after):
    try:
        stages, said = rerankit.spec.parse(f"pairwise:http://h/v1#m{before}[api_key={KEY}]{after}"), ""
    except SpecError as error:
        stages, said = (), str(error)
    assert secretless(said)
    assert not any(set("[]") & set(stage.model) for stage in stages)


@pytest.fixture
def judge():
    with JudgeServer(lambda prompt: {"A": -0.1, "B": -2.3}) as server:
        yield server


def test_a_comparison_writes_no_secret_and_goes_on_with_another_key(judge, tmp_path):
    address = judge.url.replace("http://", f"http://u:{PASSWORD}@")
    arm = f"lexical[:4] | pairwise:{address}[method=heapsort,api_key=KEY][:3]"

    def compare(key, name=""):
        fixed = [
            "compare",
            "--data",
            str(tmp_path),
            "--candidates",
            "run",
            "--no-answers",
            "--out",
            str(tmp_path / "out"),
        ]
        return CliRunner().invoke(app, [*fixed, "--arm", name + arm.replace("KEY", key)])

    rows = [{"_id": name, "text": f"sow {name} deep"} for name in ("rye", "oats", "hemp")]
    for file in ("corpus.jsonl", "queries.jsonl"):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nrye\trye\t1\noats\toats\t1\n")
    found = [
        f"{q} Q0 {name} {i + 1} {3 - i} x\n" for q in ("rye", "oats") for i, name in enumerate(("hemp", "oats", "rye"))
    ]
    (tmp_path / "run.tsv").write_text("".join(found))

    first = compare(KEY, "llm=")
    assert first.exit_code == 0, first.output
    asked = len(judge.bodies)
    again = compare("sk-OTHER", "llm=")
    assert again.exit_code == 0, again.output
    assert len(judge.bodies) == asked
    unnamed = compare(KEY)
    assert unnamed.exit_code == 0, unnamed.output
    for result in (first, again, unnamed):
        assert secretless(result.output)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert secretless(path)
        assert not any(word.encode() in path.read_bytes() for word in (KEY, PASSWORD, "sk-OTHER")), path


def test_settings_of_an_older_folder_are_compared_and_kept_without_secrets(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "arms").mkdir()
    spec = f"{JUDGE}[api_key={KEY}]"
    (tmp_path / "arms" / "settings.json").write_text(json.dumps({"llm": {"spec": spec, "depth": 3}}))
    with pytest.raises(InputError, match="give it another name") as caught:
        folder.keep_settings({"llm": {"spec": spec, "depth": 4}})
    assert secretless(caught.value)
    folder.keep_settings({"llm": {"spec": f"{JUDGE}[api_key=sk-OTHER]", "depth": 3}})
    assert secretless((tmp_path / "arms" / "settings.json").read_text())


def test_the_setup_is_written_without_passwords(tmp_path):
    address = f"http://u:{PASSWORD}@h/v1#m"
    setup = {"data": "farm", "generator": address, "judge": address, "store": f"http://u:{PASSWORD}@h:8000"}
    RunFolder(tmp_path).begin(setup)
    RunFolder(tmp_path).begin(setup)
    assert RunFolder(tmp_path).setup() == {
        "data": "farm", "generator": "http://h/v1#m", "judge": "http://h/v1#m", "store": "http://h:8000"
    }  # fmt: skip
    assert secretless((tmp_path / "experiment.json").read_text())


def test_arms_are_named_and_shown_without_secrets(tmp_path):
    spec = f"{JUDGE}[api_key={KEY},k=2]"
    arm = Arm.parse(spec)
    assert arm.name == "pairwise:http://127.0.0.1:1/v1#m[k=2]"
    assert arm.reranker == spec
    assert secretless([arm, Arm(spec, spec), arm.settings()])
    assert Condition.parse(f"{spec}: RR < 0.4").arm == arm.name
    file = tmp_path / "arms.yaml"
    for entry in ({"spec": spec, "deph": 3}, {"spec": spec, "depth": 0}, {"spec": [spec]}, {"arm": spec}, [spec]):
        file.write_text(json.dumps([entry]))
        with pytest.raises(InputError) as caught:
            read_arms(file)
        assert secretless(caught.value)


def test_a_served_model_without_a_name_is_told_without_secrets():
    assert named_models([f"{JUDGE}[api_key={KEY}]"]) == {"pairwise:http://127.0.0.1:1/v1#m": f"{JUDGE}[api_key={KEY}]"}


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("default", "default"),
        ("chat:http://10.0.0.7:8000/v1#qwen3:8b", "chat:qwen3:8b"),
        ("default[:30] | pairwise:https://inside/v1#qwen3[top_k=5]", "default[:30] | pairwise:qwen3[top_k=5]"),
        ("fusion:remote:https://inside/rerank+lexical", "fusion:remote:+lexical"),
    ],
)
def test_strangers_are_not_told_where_a_model_runs(spec, told):
    assert without_addresses(spec) == told
