from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from families import Broken, WordOverlap

from rerankit.errors import BackendError, InputError, StoreError
from rerankit.evaluation import candidates as pool
from rerankit.evaluation.datasets import Dataset, Question
from rerankit.evaluation.experiment import Arm, Experiment, sweep
from rerankit.evaluation.gate import Condition, worse_than
from rerankit.evaluation.results import Results
from rerankit.evaluation.runfolder import RunFolder
from rerankit.evaluation.sharing import Memo, share
from rerankit.evaluation.summary import summarise
from rerankit.rag.answer import Answer, Citation
from rerankit.rerankers.cache import ScoreCache
from rerankit.rerankers.compose import Cascade, Fusion
from rerankit.types import Passage

TOPICS = ["wheat rust", "sheep fly", "soil acid", "canola frost", "cattle tick", "barley lodging"]


def collection(count=24):
    """Questions whose best passage stands third in the first stage's order."""
    passages, questions, qrels, run = [], {}, {}, {}
    for i in range(count):
        topic, name = TOPICS[i % len(TOPICS)], f"q{i}"
        questions[name] = Question(name, f"{topic} {i}", (f"about {topic} {i}",), (f"{topic} {i}",))
        texts = [f"other {i}", f"{topic.split()[0]} only", f"about {topic} {i}", f"nothing {i}"]
        passages += [Passage(f"{name}-{place}", text) for place, text in enumerate(texts)]
        qrels[name] = {f"{name}-2": 2, f"{name}-1": 1}
        run[name] = {f"{name}-{place}": 10.0 - place for place in range(4)}
    return Dataset("toy", questions, qrels, lambda: iter(passages), {"run": run})


class Quote:
    """A real, if simple, generator: answers with the first block."""

    model = "quote"

    def __init__(self):
        self.calls = 0

    def generate(self, query, context):
        self.calls += 1
        block = context.blocks[0]
        return Answer(f"{block.text} [1]", (Citation(block.hit.id, 0, 3, 1, block.text[:3]),), model="quote")


def experiment(folder, arms, **options):
    dataset = options.pop("dataset", None) or collection()
    options.setdefault("candidates", pool.from_run(dataset, "run", 4))
    return Experiment(dataset=dataset, arms=arms, folder=RunFolder(folder), **options)


def run(folder, arms, **options):
    trial = experiment(folder, arms, **options)
    trial.folder.begin({"data": "toy"})
    trial.run()
    return Results(trial.dataset, trial.folder, metrics=["nDCG@10", "RR"])


def test_arms_are_compared_with_the_first_stage(tmp_path):
    results = run(tmp_path, [Arm("overlap", WordOverlap())])
    assert list(results.arms) == ["none", "overlap"]
    assert results.mean("none", "RR") == pytest.approx(0.5)
    assert results.mean("overlap", "RR") == 1.0
    verdict = results.verdicts()["overlap"]
    assert verdict.word == "better"
    assert verdict.n == 24
    assert (tmp_path / "runs" / "overlap.run").read_text().startswith("q0 Q0 q0-2 1 4 overlap\n")


def test_the_candidates_are_the_same_for_all_and_every_arm_returns_them_all(tmp_path):
    results = run(tmp_path, [Arm("a", WordOverlap()), Arm("b", "none"), Arm("c", WordOverlap("v2"), depth=2)])
    for query in results.judged:
        orders = [results.arms[name].order(query) for name in results.arms]
        assert len({frozenset(order) for order in orders}) == 1
    assert results.arms["c"].order("q0")[2:] == ["q0-2", "q0-3"]
    assert results.overlap("none", "b") == pytest.approx(1.0)
    assert results.overlap("none", "a") < 1.0


def test_shared_parts_are_scored_once_and_charged_to_every_arm(tmp_path):
    first, second = WordOverlap("first", delay=0.002), WordOverlap("second")
    arms = [Arm("one", Cascade([first[:3]])), Arm("two", first[:3] | second), Arm("mix", Fusion([first, second]))]
    results = run(tmp_path, arms)
    distinct = {(query, passage.id) for query, passage in first.seen}
    assert len(first.seen) == len(distinct) + 4  # the warm-up query is ranked once more
    assert all(results.arms[name].seconds().min() >= 4 * 0.002 for name in ("one", "two", "mix"))


def test_sharing_changes_no_ranking():
    passages = [Passage(str(i), text) for i, text in enumerate(["wheat", "rust wheat", "x", "rust"])]
    plain = WordOverlap()[:3] | WordOverlap("b")
    memo = Memo()
    shared = share(plain, memo)
    assert shared.rank("wheat rust", passages).hits == plain.rank("wheat rust", passages).hits
    assert isinstance(plain.stages[0], WordOverlap)


def test_answers_are_made_from_each_arms_context_and_judged(tmp_path):
    generator = Quote()
    results = run(tmp_path, [Arm("overlap", WordOverlap()), Arm("same", WordOverlap())], generator=generator, top_k=2)
    assert results.mean("overlap", "key_fact_recall") == 1.0
    assert results.mean("none", "key_fact_recall") == 0.0
    assert results.mean("overlap", "citation_recall") == 1.0
    assert generator.calls == 2 * 24  # equal contexts are answered once
    move = results.movements("overlap")[0]
    assert move.entered == (f"{move.query}-2",)
    assert move.left == (f"{move.query}-1",)
    assert move.answer_gain == 1.0
    assert move.answer.startswith("about")
    assert results.abstention("overlap").answered_answerable == 1.0


def test_a_resumed_run_equals_an_unbroken_one(tmp_path):
    arms = [Arm("overlap", WordOverlap()), Arm("deep", WordOverlap("b")[:2] | WordOverlap())]
    whole = run(tmp_path / "whole", arms)
    broken = experiment(tmp_path / "broken", arms)
    broken.folder.begin({"data": "toy"})

    finished = []

    def stop_after_five(count):
        finished.append(count)
        if len(finished) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.run(progress=stop_after_five)
    path = broken.folder.arm_path("overlap")
    kept = path.read_text()
    path.write_text(kept[:-1])  # what an editor may leave: the last record counts
    deep = broken.folder.arm_path("deep")
    deep.write_text(deep.read_text() + '{"query": "q5", "ord')  # what a kill in the middle of a line leaves
    resumed = run(tmp_path / "broken", arms)
    assert resumed.values == whole.values
    assert resumed.verdicts() == whole.verdicts()
    assert path.read_text().startswith(kept)
    assert len(path.read_text().splitlines()) == 24


def test_a_failing_arm_is_reported_and_compared_on_the_common_queries(tmp_path):
    def fail_sometimes(request, call):
        if request.query.endswith("7"):
            return BackendError("It broke", endpoint="http://x", status=500)
        return -np.arange(len(request.passages))

    results = run(tmp_path, [Arm("fragile", Broken(fail_sometimes)), Arm("overlap", WordOverlap())])
    assert results.left_out == {"fragile": ["q7", "q17"]}
    assert len(results.judged) == 22
    assert results.verdicts()["overlap"].n == 22
    assert "status 500" in results.arms["fragile"].failures["q7"]
    mended = run(tmp_path, [Arm("fragile", WordOverlap("mended")), Arm("overlap", WordOverlap())])
    assert mended.left_out == {}
    assert len(mended.judged) == 24
    now, before, failed = summarise(results), summarise(mended), Condition.parse("failed > 1")
    assert [gate.sentence for gate in worse_than(now, before, margin=1.0) if not gate.passed] == [
        "fragile failed on 2 questions, in the earlier run on 0"
    ]
    assert all(gate.passed for gate in worse_than(before, now, margin=1.0))
    assert [gate.passed for gate in failed.check(now, ["fragile", "overlap"])] == [False, True]
    assert failed.check(before, ["fragile"])[0].passed


def test_the_score_cache_is_shared_between_runs_and_left_out_of_latency(tmp_path, monkeypatch):
    import rerankit.spec
    from rerankit.spec import Family

    known = {**rerankit.spec.families(), "overlap": Family("overlap", "families:WordOverlap", "toy")}
    monkeypatch.setattr(rerankit.spec, "families", lambda: known)
    cache = ScoreCache(tmp_path / "scores.sqlite")
    arms = [Arm.parse("short=overlap[:2]"), Arm.parse("none | overlap")]
    cold = run(tmp_path / "a", arms, cache=cache)
    warm = run(tmp_path / "b", arms, cache=cache)
    assert warm.arms["short"].total("cache_misses") == 0
    assert warm.arms["short"].latency(0.5) is None
    assert len(cold.arms["short"].seconds()) == 23  # all but the warm-up query
    assert warm.values == cold.values


def test_names_and_sweeps():
    assert Arm.parse("fast=dense[:20]") == Arm("fast", "dense[:20]")
    assert Arm.parse("fusion:dense+lexical[method=rrf]").name == "fusion:dense+lexical[method=rrf]"
    arms = sweep([Arm("none", "none"), Arm("a", "dense")], depths=[10, 20], top_ks=[3])
    assert [(arm.name, arm.depth, arm.top_k) for arm in arms] == [
        ("none k3", None, 3), ("a @10 k3", 10, 3), ("a @20 k3", 20, 3),
    ]  # fmt: skip


def test_another_setup_version_or_name_is_refused(tmp_path):
    run(tmp_path, [Arm("overlap", WordOverlap())])
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"another experiment: \['data'\] differ"):
        folder.begin({"data": "other"})
    with pytest.raises(InputError, match="would share a file"):
        folder.name_arms(["over lap", "over:lap"])
    manifest = json.loads(folder.manifest_path.read_text())
    folder.manifest_path.write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(InputError, match="format 99"):
        Results(collection(), folder)
    folder.manifest_path.write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Results(collection(), folder)
    with pytest.raises(InputError, match="No experiment"):
        Results(collection(), RunFolder(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="must differ"):
        experiment(tmp_path, [Arm("a", "none"), Arm("a", "dense")])


def test_candidates_are_kept_with_their_vectors(tmp_path):
    dataset = collection(3)
    folder = RunFolder(tmp_path)

    def find():
        found = pool.from_run(dataset, "run", 2)
        return {
            q: [p.replace(embedding=np.full(3, 0.5, np.float32), embedding_model="m") for p in ps]
            for q, ps in found.items()
        }

    fresh = pool.obtain(folder, dataset, find)
    again = pool.obtain(folder, dataset, lambda: pytest.fail("retrieved twice"))
    assert again == fresh
    assert again["q0"][0].embedding.tolist() == [0.5] * 3
    assert again["q0"][0].embedding_model == "m"
    with pytest.raises(InputError, match="no run 'bm25'"):
        pool.from_run(dataset, "bm25", 2)
    with pytest.raises(InputError, match="no candidates for query 'q3'"):
        pool.obtain(folder, collection(4), find)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_named_and_leaves_what_was_finished(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "arms").mkdir()
    folder.arm_path("full").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="No space left"):
        folder.append("full", {"query": "q"})


KILLED = """
import sys; sys.path.insert(0, "tests"); sys.path.insert(0, "tests/evaluation")
from test_experiment import *
run(sys.argv[1], [Arm("overlap", WordOverlap(delay=0.005))])
"""


def test_kill_and_run_again(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "killed")])
    path = RunFolder(tmp_path / "killed").arm_path("overlap")
    limit = time.monotonic() + 60
    while (not path.exists() or path.stat().st_size < 1000) and time.monotonic() < limit:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(path.read_bytes().splitlines()) < 25
    resumed = run(tmp_path / "killed", [Arm("overlap", WordOverlap())])
    assert resumed.values == run(tmp_path / "whole", [Arm("overlap", WordOverlap())]).values
