"""``rerankit train cross-encoder``: what is drawn, what is trained, what is saved."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import WORDS, save_cross_encoder, save_embedder
from toy_lists import collection, toy_lists
from toy_training import CrashError, crash_at
from typer.testing import CliRunner

import rerankit
from rerankit.cli.app import app
from rerankit.errors import InputError
from rerankit.models.checkpoint import find_checkpoint
from rerankit.rerankers.cross_encoder import CrossEncoder
from rerankit.training.cross_encoder import CrossEncoderOptions, CrossEncoderTask, adapted, list_ndcg
from rerankit.training.cross_encoder_data import PairReader, Pairs, Ranked, RankedSet
from rerankit.training.cross_encoder_run import CrossEncoderRun, _module, train_cross_encoder
from rerankit.training.cross_encoder_st import train_with_sentence_transformers
from rerankit.training.lists import TrainingList, write_lists
from rerankit.training.loop import fit
from rerankit.training.objective import Term
from rerankit.training.sources import train_and_dev
from rerankit.training.task import Settings
from rerankit.types import Passage

pytest.importorskip("peft")
pytest.importorskip("ir_measures")


LIST_NCE = (Term("list_nce", 1.0, 1.0),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_embedder(tmp_path_factory.mktemp("models") / "tiny")


def measured(reranker, lists):
    """nDCG@10 as the run measures it."""
    corrections, ranks = [], []
    for item in lists:
        hits = sorted(reranker.rank(item.query, item.passages), key=lambda hit: hit.prior_rank)
        scores = np.array([hit.score for hit in hits])
        corrections.append(scores)
        ranks.append(ranked(item))
    return list_ndcg(ranks, corrections, 1.0)


def ranked(item, base=None):
    values = np.zeros(len(item.passages), np.float32) if base is None else np.array(base, np.float32)
    return Ranked(item, values, np.argsort(-values, kind="stable"), np.array(item.grades, np.float32), None)


class TestCommand:
    def test_from_lists_to_a_reranker_that_has_learned_what_its_base_misses(self, tmp_path, folder):
        data, dev, out = tmp_path / "data.jsonl", tmp_path / "dev.jsonl", tmp_path / "out"
        write_lists(toy_lists(64, 0), data)
        write_lists(toy_lists(16, 1), dev)
        command = ["train", "cross-encoder", "--data", str(data), "--dev", str(dev), "--out", str(out)]
        command += ["--base", str(folder), "--residual", "lexical", "--max-tokens", "64", "--epochs", "3"]
        command += ["--lr", "0.005", "--lora-rank", "4", "--device", "cpu", "--vectors", str(tmp_path / "v.sqlite")]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert f"cross-encoder:{out}" in result.stdout.replace("\n", "")

        rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        losses = [row["loss"]["loss"] for row in rows if "loss" in row]
        assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:8])
        assert {path.name for path in out.iterdir()} >= {"README.md", "curves.png", "config.json", "calibration.json"}
        config = json.loads((out / "config.json").read_text())
        assert config["residual"] == "lexical"
        assert config["trained"]["losses"] == ["list_nce=1@1"]
        assert "| dev | 16 |" in (out / "README.md").read_text()

        lists = toy_lists(16, 1)
        base = measured(rerankit.load("lexical"), lists)
        with rerankit.load(f"cross-encoder:{out}[encoder={folder}]", backend="torch", device="cpu") as reranker:
            learned = measured(reranker, lists)
            likely = reranker.rank(lists[0].query, lists[0].passages)[0].probability
        assert learned > base + 0.2
        assert likely is not None
        assert likely > 0.5

        again = CliRunner().invoke(app, [*command, "--json"])  # it has ended: nothing is trained again
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["dev"]["nDCG@10"] == pytest.approx(learned, abs=0.01)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--loss", "list_ncee=1"], "did you mean 'list_nce'"),
            (["--loss", "info_nce=1"], "take 'list_nce'"),
            (["--loss", "two:list_nce=1"], "one stage"),
            (["--residual", "remote:http://x"], "residual is one of"),
            (["--positives", "8"], "positives must be below"),
            (["--weight", "0"], "weight must be"),
            (["--trainer", "own"], "trainer is one of"),
            (["--trainer", "sentence-transformers", "--loss", "mse"], "a loss is one of binary, listnet, lambda"),
            (["--trainer", "sentence-transformers", "--teacher", "lexical"], "leave out --teacher"),
            (["--teacher", "lexical", "--loss", "rank_net=1"], "add one, such as --loss kl=1"),
            (["--residual", "none", "--loss", "kl=1"], "no list of two passages has a teacher's scores"),
        ],
    )
    def test_what_makes_no_sense_is_refused_at_once(self, tmp_path, folder, options, message):
        write_lists(toy_lists(4, 0), tmp_path / "data.jsonl")
        command = ["train", "cross-encoder", "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(app, [*command, "--base", str(folder), *options])
        assert result.exit_code != 0
        assert message in " ".join(result.output.split())

    def test_a_teacher_alone_is_learned_from(self, tmp_path, folder):
        write_lists(toy_lists(8, 0), tmp_path / "data.jsonl")
        write_lists(toy_lists(4, 1), tmp_path / "dev.jsonl")
        parts = []
        for teacher in ("none", "lexical"):
            run = CrossEncoderRun(
                [str(tmp_path / "data.jsonl")], dev=[str(tmp_path / "dev.jsonl")], base=str(folder), residual="none",
                teacher=teacher, max_tokens=48, options=CrossEncoderOptions(rank=2),
            )  # fmt: skip
            report, _ = train_cross_encoder(run, Settings(device="cpu"), tmp_path / teacher)
            parts.append(next(row["loss"] for row in report.history if "loss" in row))
        assert parts[0].keys() == {"loss", "list_nce"}
        assert parts[1]["loss"] == pytest.approx(parts[1]["list_nce"] + parts[1]["kl"])
        assert parts[1]["kl"] > 0
        config = json.loads((tmp_path / "lexical" / "config.json").read_text())
        assert config["trained"]["losses"] == ["list_nce=1@1", "kl=1@1"]

    def test_lists_without_any_label_are_refused(self, tmp_path, folder):
        bare = [replace(one, grades=(0.0,) * len(one.grades)) for one in toy_lists(4, 0, teacher=True)]
        write_lists(bare, tmp_path / "data.jsonl")
        write_lists(toy_lists(4, 1), tmp_path / "dev.jsonl")
        run = CrossEncoderRun(
            [str(tmp_path / "data.jsonl")], dev=[str(tmp_path / "dev.jsonl")], base=str(folder), residual="none"
        )
        for train in (train_cross_encoder, train_with_sentence_transformers):
            with pytest.raises(InputError, match="No list of two passages has a grade above 0"):
                train(run, Settings(device="cpu"), tmp_path / "out")

    @pytest.mark.slow
    @pytest.mark.parametrize("loss", ["binary", "lambda"])
    def test_by_sentence_transformers_it_is_a_plain_checkpoint(self, tmp_path, folder, loss):
        pytest.importorskip("sentence_transformers")
        data, dev, out = tmp_path / "data.jsonl", tmp_path / "dev.jsonl", tmp_path / "out"
        write_lists(toy_lists(64, 0), data)
        write_lists(toy_lists(16, 1), dev)
        command = ["train", "cross-encoder", "--data", str(data), "--dev", str(dev), "--out", str(out)]
        command += ["--base", str(folder), "--residual", "lexical", "--max-tokens", "64", "--epochs", "4"]
        command += ["--trainer", "sentence-transformers", "--loss", loss, "--lr", "0.002", "--device", "cpu", "--json"]
        result = CliRunner().invoke(app, [*command, "--vectors", str(tmp_path / "v.sqlite")])
        assert result.exit_code == 0, result.output
        with rerankit.load(f"cross-encoder:{out}", backend="torch", device="cpu") as reranker:
            assert isinstance(reranker, CrossEncoder)
            learned = measured(reranker, toy_lists(16, 1))
        assert learned > measured(rerankit.load("lexical"), toy_lists(16, 1)) + 0.1
        assert json.loads(result.stdout.splitlines()[-1])["dev"]["nDCG@10"] == pytest.approx(learned, abs=0.01)


class TestDraw:
    def test_relevant_ones_and_hard_negatives(self):
        passages = tuple(Passage(str(i), f"text {i}") for i in range(20))
        grades = tuple(float(i in (3, 15, 19)) for i in range(20))
        one = ranked(TrainingList("query", passages, grades), [-i for i in range(20)])
        seen = set()
        for seed in range(50):
            places = one.draw(Pairs(pairs=5, positives=2, hard=6), np.random.default_rng(seed)).tolist()
            good, bad = places[:2], places[2:]
            assert set(good) < {3, 15, 19}
            assert set(bad) <= {0, 1, 2, 4, 5, 6}
            assert len(set(places)) == 5
            seen |= set(places)
        assert seen == {0, 1, 2, 3, 4, 5, 6, 15, 19}

    def test_short_lists_and_lists_with_nothing_relevant(self):
        passages = tuple(Passage(str(i), f"text {i}") for i in range(3))
        random = np.random.default_rng(0)
        assert len(ranked(TrainingList("q", passages, (0.0, 1.0, 0.0))).draw(Pairs(), random)) == 3
        assert len(ranked(TrainingList("q", passages, (0.0, 0.0, 0.0), (1.0, 2.0, 3.0))).draw(Pairs(), random)) == 3


class TestTask:
    @pytest.fixture
    def build(self, folder):
        def make(terms=LIST_NCE, *, lists=None, base=None, max_tokens=48, **options):
            checkpoint = find_checkpoint(base or folder)
            run = CrossEncoderRun([], base=str(checkpoint.folder), max_tokens=max_tokens)
            object.__setattr__(run, "options", CrossEncoderOptions(rank=4, **options))
            module, cross = _module(checkpoint, run, 0)
            lists = [ranked(item) for item in toy_lists(8, 0)] if lists is None else lists
            dev = [RankedSet("dev", [ranked(item) for item in toy_lists(4, 1)])]
            return CrossEncoderTask(lists, dev, module, PairReader(cross), checkpoint, "lexical", terms, run.options)

        return make

    def test_the_first_step_reaches_adapter_and_head_and_nothing_else(self, build):
        task = build()
        before = {name: p.clone() for name, p in task.module.named_parameters()}
        optimizer = torch.optim.SGD([p for p in task.module.parameters() if p.requires_grad], lr=1.0)
        for batch in task.batches(0, np.random.default_rng(0)):
            optimizer.zero_grad()
            task.loss(batch, 0.0)["loss"].backward()
            optimizer.step()
        changed = {name for name, p in task.module.named_parameters() if not torch.equal(p, before[name])}
        assert any("lora_A" in name for name in changed)
        assert any("lora_B" in name for name in changed)
        heads = ("classifier.modules_to_save", "pooler.modules_to_save")
        assert all("lora" in name or any(head in name for head in heads) for name in changed)

    def test_its_logits_are_those_of_the_cross_encoder_in_any_batch(self, build):
        task = build()
        passages = [Passage("1", "sow maize", "dry soil"), Passage("2", "rust " * 90 + "maize"), Passage("3", "cow")]
        entries, counts = task.reader.all("how deep to sow maize", passages)
        assert counts[1] > 1
        task.module.eval()
        with torch.no_grad():
            found = task.logits(entries).tolist()
            alone = [float(task.logits([entry])) for entry in entries]
        assert found == pytest.approx(alone, abs=1e-5)
        best = np.maximum.reduceat(found, np.cumsum([0, *counts])[:-1])
        hits = sorted(task.reader.cross.rank("how deep to sow maize", passages), key=lambda hit: hit.prior_rank)
        assert best.tolist() == pytest.approx([hit.score for hit in hits], abs=1e-5)

    def test_in_training_a_long_passage_is_read_where_the_words_of_the_query_are(self, build):
        task = build()
        text = "rust water " * 40 + "how deep to sow maize" + " cow cow" * 40
        (entry,) = task.reader.best("how deep to sow maize", [Passage("1", text)])
        decoded = task.reader.cross.encoder.engine.tokens.tokenizer.decode(entry.body.tolist())
        assert "sow maize" in decoded

    def test_with_a_strong_base_there_is_little_to_learn(self, build):
        item = toy_lists(1, 0)[0]
        good = [ranked(item, [3.0 if grade else -1.0 for grade in item.grades])]
        losses = []
        for lists in (good, [ranked(item)]):
            task = build(lists=lists, weight=4.0)
            (batch,) = task.batches(0, np.random.default_rng(0))
            losses.append(float(task.loss(batch, 0.0)["loss"].detach()))
        assert losses[0] < 0.01 < losses[1]

    def test_a_teacher_teaches(self, build):
        lists = []
        for item in toy_lists(4, 0):
            one = ranked(item)
            lists.append(Ranked(item, one.base, one.order, one.grades, one.grades - one.grades.mean()))
        task = build((Term("kl", 1.0, 1.0), Term("margin_mse", 0.5, 1.0)), lists=lists)
        (batch,) = task.batches(0, np.random.default_rng(0))
        parts = {name: part.detach() for name, part in task.loss(batch, 0.0).items()}
        assert float(parts["loss"]) == pytest.approx(float(parts["kl"] + 0.5 * parts["margin_mse"]), rel=1e-5)
        assert float(parts["kl"]) > 0

    def test_only_the_last_layers(self, build):
        names = [name for name, p in build(layers=1).module.named_parameters() if p.requires_grad and "lora" in name]
        assert names
        assert all(".layer.1." in name for name in names)

    def test_a_classifier_goes_on_from_its_own_head(self, build, tmp_path):
        base = save_cross_encoder(tmp_path / "base")
        task = build(base=base)
        with CrossEncoder(base, backend="torch", device="cpu", dtype="float32", max_tokens=48) as cross:
            expected = [hit.score for hit in sorted(cross.rank("q", WORDS[:4]), key=lambda hit: hit.prior_rank)]
        entries, _ = task.reader.all("q", [Passage(str(i), word) for i, word in enumerate(WORDS[:4])])
        with torch.no_grad():
            assert task.logits(entries).tolist() == pytest.approx(expected, abs=1e-5)

    def test_the_weight_is_tuned_and_saved(self, build, tmp_path):
        task = build(weight=2.0)
        random = np.random.default_rng(0)
        lists = [ranked(item, random.normal(size=len(item.passages))) for item in toy_lists(12, 1)]
        task.dev = [RankedSet("dev", lists)]
        with torch.no_grad():  # logits that weigh as much as the base
            for name, parameter in task.module.named_parameters():
                if "classifier.modules_to_save" in name:
                    parameter.mul_(100)
        tuned = task.tune()
        found = {weight: list_ndcg(lists, task.corrections[0], weight) for weight in (1, 1.5, 2, 3, 4, 6, 8, 16)}
        assert len(set(found.values())) > 2
        assert tuned["nDCG@10"] == max(found.values()) == found[task.weight]
        task.save(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["weight"] == task.weight

    def test_broken_off_it_ends_as_unbroken(self, build, tmp_path):
        settings = Settings(epochs=2, learning_rate=1e-2, device="cpu", checkpoint_every=1)
        whole = fit(build(), settings, tmp_path / "whole")
        with pytest.raises(CrashError):
            fit(build(), settings, tmp_path / "broken", progress=crash_at(3))
        broken = fit(build(), settings, tmp_path / "broken")
        assert broken.best == whole.best
        same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
        assert same[0] == same[1]

    def test_another_run_has_another_fingerprint(self, build):
        assert build().fingerprint == build().fingerprint
        assert build().fingerprint != build(weight=2.0).fingerprint
        assert build().fingerprint != build(lists=[ranked(item) for item in toy_lists(8, 5)]).fingerprint

    def test_nothing_to_train_on_is_refused(self, build):
        with pytest.raises(InputError, match="needs lists"):
            build(lists=[])


def test_what_must_not_be_trained_on_is_left_out_of_files_too(tmp_path):
    lists = toy_lists(12, 0)
    write_lists(lists, tmp_path / "data.jsonl")
    secret = lists[0].passages[0].text
    held = collection(tmp_path / "held", [secret, "other"], [(lists[1].query, [], 0)])
    run = CrossEncoderRun([str(tmp_path / "data.jsonl")], exclude=[str(held)])
    everything = [(item.query, [], 0) for item in lists]
    train, dev = train_and_dev(run, None, None, 0, print)
    kept = [*train, *dev["held out"]]
    assert lists[1].query not in {item.query for item in kept}
    assert secret not in {passage.text for item in kept for passage in item.passages}
    assert len(kept) == 11
    run = replace(run, exclude=[str(collection(tmp_path / "all", ["p"], everything))])
    with pytest.raises(InputError, match=r"No list is left to train on: .*--exclude"):
        train_and_dev(run, None, None, 0, print)


def test_encoders_without_a_pooler(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.RobertaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=1
    )
    net = adapted(transformers.RobertaForSequenceClassification(config), CrossEncoderOptions(rank=2), 0)
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert any("classifier.modules_to_save" in name for name in trained)
    assert any("query.lora_A" in name for name in trained)


def test_train_cross_encoder_wants_data_that_it_can_read(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        train_cross_encoder(CrossEncoderRun([str(tmp_path / "nowhere")]), Settings(), tmp_path / "out")
