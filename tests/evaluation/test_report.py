"""The report says what the results say, and obeys nothing that its data say."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from families import Broken, WordOverlap

from rerankit.errors import BackendError, InputError
from rerankit.evaluation.candidates import from_run
from rerankit.evaluation.datasets import Dataset, Question
from rerankit.evaluation.experiment import Arm, Experiment
from rerankit.evaluation.judge import Opinion
from rerankit.evaluation.report import explain, table, write_report
from rerankit.evaluation.results import Results
from rerankit.evaluation.runfolder import RunFolder
from rerankit.evaluation.summary import read_summary, write_summary
from rerankit.rag.answer import Answer
from rerankit.types import Passage

HOSTILE = '<script>alert(1)</script>"><img src=http://evil.example/x onerror=alert(2)> | `code` $x_1$ **bold**'
METRICS = ["nDCG@10", "RR"]


def collection(count=12, *, extra="", synthetic=False, judged=True):
    passages, questions, qrels, run = [], {}, {}, {}
    for i in range(count):
        name = f"q{i}"
        questions[name] = Question(name, f"wheat {i} {extra}", (f"about wheat {i}",), (f"wheat {i}",))
        texts = [f"other {i} {extra}", f"about wheat {i} {extra}"]
        passages += [Passage(f"{name}-{j}", text) for j, text in enumerate(texts)]
        qrels[name] = {f"{name}-1": 1}
        run[name] = {f"{name}-0": 2.0, f"{name}-1": 1.0}
    return Dataset("toy", questions, qrels if judged else {}, lambda: iter(passages), {"run": run}, synthetic)


class Quote:
    model = "quote"

    def generate(self, query, context):
        return Answer(context.blocks[0].text, model="quote")


def results_of(folder, arms, dataset=None, **options):
    dataset = dataset or collection()
    trial = Experiment(dataset, from_run(dataset, "run", 2), arms, RunFolder(folder), **options)
    trial.folder.begin({"data": "toy"})
    trial.run()
    return Results(dataset, trial.folder, METRICS, depth=1)


class Page(HTMLParser):
    """What a browser would make of it: tags with attributes, the visible text, the cells of tables."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.rows = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        self.texts.append(data)
        if self.rows and self.tags[-1][0] in ("td", "th") and data.strip():
            self.rows[-1].append(data)


def broken(name, answer):
    """A family that fails at will; the name tells it from the others, as a model's name would."""
    made = Broken(answer)
    made.model = name
    return made


def page_of(results):
    html, _ = write_report(results)
    text = html.read_text("utf-8")
    return Page(text), text


def test_hostile_text_is_shown_and_not_obeyed(tmp_path):
    dataset = collection(extra=HOSTILE)
    results = results_of(tmp_path, [Arm(HOSTILE, WordOverlap())], dataset, generator=Quote())
    page, _ = page_of(results)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "iframe", "object", "link"})
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "alert(1)" in "".join(page.texts)
    markdown = (tmp_path / "report.md").read_text("utf-8")
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert not re.search(r"(?<!\\)[<`]", markdown)
    assert "\\*\\*bold" in markdown


def test_nothing_is_loaded_from_outside(tmp_path):
    page, html = page_of(results_of(tmp_path, [Arm("overlap", WordOverlap())]))
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert not re.match(r"\s*(\w+:)?//", attributes.get(name) or "")
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", html)
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in policy


def test_the_figures_are_those_of_the_results(tmp_path):
    results = results_of(tmp_path, [Arm("overlap", WordOverlap())], generator=Quote())
    page, _ = page_of(results)
    shown = table(results)
    for arm, row in shown.rows.items():
        cells = [cell for line in page.rows if line and line[0] == arm for cell in line[1:]]
        assert cells == [shown.text(i, value) for i, value in enumerate(row)]
    assert results.mean("overlap", "nDCG@10") == 1.0
    assert shown.rows["none"][0] == pytest.approx(1 / np.log2(3))
    assert results.verdicts()["overlap"].sentence in "".join(page.texts)
    assert (tmp_path / "report.md").read_text("utf-8").count("1.0000") == shown.markdown().count("1.0000")


def test_what_is_doubtful_is_said(tmp_path):
    def fail_once(request, call):
        if "wheat 3" in request.query:
            return BackendError("It broke", endpoint="http://x", status=500)
        return -np.arange(len(request.passages))

    def always_fail(request, call):
        return BackendError("Never worked", endpoint="http://x", status=500)

    fragile, dead = broken("fragile", fail_once), broken("dead", always_fail)
    arms = [Arm("fragile", fragile), Arm("dead", dead), Arm("overlap", WordOverlap())]
    results = results_of(tmp_path, arms, collection(synthetic=True))
    page, _ = page_of(results)
    text = "".join(page.texts)
    assert "Synthetic questions" in text
    assert "fragile failed on 1 questions, which are left out for every arm" in text
    assert "dead failed on every question and is not compared" in text
    assert "Never worked" in text
    assert results.verdicts()["overlap"].n == 11
    assert "dead" not in results.arms
    assert "**The questions are synthetic.**" in (tmp_path / "report.md").read_text("utf-8")
    assert "synthetic" not in "".join(page_of(results_of(tmp_path / "plain", arms[2:]))[0].texts).lower()


def test_one_arm_only(tmp_path):
    page, html = page_of(results_of(tmp_path, []))
    assert [row[0] for row in page.rows if row] == ["arm", "none"] * 2
    assert "<svg" not in html


def test_nothing_judged_is_an_error_that_says_why(tmp_path):
    with pytest.raises(InputError, match="no question of toy has a judged passage"):
        write_report(results_of(tmp_path, [Arm("overlap", WordOverlap())], collection(judged=False)))

    def other_half(remainder):
        def answer(request, call):
            if int(request.query.split()[1]) % 2 == remainder:
                return BackendError("It broke", endpoint="http://x")
            return np.zeros(len(request.passages))

        return broken(f"half-{remainder}", answer)

    arms = [Arm("even", other_half(0)), Arm("odd", other_half(1))]
    with pytest.raises(InputError, match="even failed on 6, odd failed on 6"):
        write_report(results_of(tmp_path / "halves", arms))


def test_judges_of_ones_own_and_a_judge_that_fails_now_and_then(tmp_path):
    asked = []

    def length(question, answer, context, references):
        asked.append((question, context, references))
        return len(answer) / 100

    def moody(question, answer, context, references):
        return Opinion(None, failures=1) if "wheat 5" in question else Opinion(0.5, spread=0.2)

    judges = {"length": length, "moody": moody}
    results = results_of(tmp_path, [Arm("overlap", WordOverlap())], generator=Quote(), top_k=1, judges=judges)
    assert results.mean("none", "length") < results.mean("overlap", "length")
    assert asked[0][2] == (f"about {asked[0][0].strip()}",)
    assert set(results.values["overlap"]["moody"]) == {f"q{i}" for i in range(12) if i != 5}
    text = "".join(page_of(results)[0].texts)
    assert "2 replies of the judge could not be used" in text
    assert "standard deviation of 0.200" in text


def test_an_abstention_gets_no_marks_and_no_judge(tmp_path):
    class Silent:
        model = "silent"

        def generate(self, query, context):
            return Answer("I can't answer that.", abstained=True)

    judges = {"never": lambda *_: pytest.fail("asked about an abstention")}
    assert results_of(tmp_path, [], generator=Silent(), judges=judges).mean("none", "never") == 0.0


def test_explain_names_what_moved(tmp_path):
    results = results_of(tmp_path, [Arm("overlap", WordOverlap())], generator=Quote(), top_k=1)
    (move,) = explain(results, "q3")
    assert [p["id"] for p in move["entered"]] == ["q3-1"]
    assert [(p["id"], p["grade"]) for p in move["left"]] == [("q3-0", None)]
    assert move["answer"].startswith("about wheat 3")
    with pytest.raises(InputError, match="No arm 'x'"):
        explain(results, "q3", "x")


def test_the_summary_holds_what_the_report_shows(tmp_path):
    results = results_of(tmp_path, [Arm("overlap", WordOverlap())])
    written = write_summary(results)
    assert read_summary(tmp_path) == written
    overlap = written["arms"]["overlap"]
    assert overlap["figures"]["nDCG@10"] == results.mean("overlap", "nDCG@10")
    assert overlap["verdict"]["word"] == results.verdicts()["overlap"].word
    assert overlap["per_query"] == results.values["overlap"]["nDCG@10"]
    assert written["arms"]["none"]["verdict"] is None
    (tmp_path / "summary.json").write_text('{"format": 99, "arms": {}}')
    with pytest.raises(InputError, match="format 1"):
        read_summary(tmp_path)
    with pytest.raises(InputError, match="No summary"):
        read_summary(tmp_path / "nowhere")
