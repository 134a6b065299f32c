"""Training a ResRank-style model: from the command line to a folder that loads, and that it learns what it should."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import save_embedder
from toy_lists import toy_lists
from typer.testing import CliRunner

import rerankit
from rerankit.cli.app import app
from rerankit.errors import InputError
from rerankit.models.encoder import TextEncoder
from rerankit.models.resrank_files import ResRankConfig, load_resrank, read_config
from rerankit.models.vector_cache import VectorCache
from rerankit.rerankers.compressed_inputs import CompressedInputs
from rerankit.rerankers.dense import Dense
from rerankit.training.card import DEV_FIGURES, LIST_SCORES
from rerankit.training.compressed import CompressedModel, CompressedOptions, CompressedTask, new_model
from rerankit.training.compressed_data import build_bank
from rerankit.training.compressed_encoder import TrainableEncoder
from rerankit.training.compressed_losses import STAGES, stage_terms
from rerankit.training.compressed_run import _OWN_VECTORS, _SUMMARY, _WITH_WORDS, CompressedRun, train_compressed
from rerankit.training.lists import TrainingList, write_lists
from rerankit.training.loop import fit
from rerankit.training.objective import LOSSES, Term, parse_losses
from rerankit.training.task import Settings
from rerankit.types import Passage

pytest.importorskip("ir_measures")

SHAPE = {"width": 16, "layers": 1, "heads": 2}
OPTIONS = CompressedOptions(batch=8, max_passages=8, min_passages=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_embedder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder):
    with closing(TextEncoder(folder, device="cpu", dtype="float32", backend="torch")) as encoder:
        yield encoder


@pytest.fixture(scope="module")
def inputs(encoder):
    return CompressedInputs(encoder, VectorCache())


RANK_NET = (Term("rank_net", 1.0, 0.1),)


def task(encoder, inputs, terms=RANK_NET, *, lora=0, options=OPTIONS, teacher=True, lists=None):
    banks = [
        build_bank(name, part, inputs, keep_texts=bool(lora))
        for name, part in (("train", lists or toy_lists(24, 0, teacher)), ("dev", toy_lists(6, 1)))
    ]
    learning = TrainableEncoder(encoder, lora) if lora else None
    model = new_model(ResRankConfig(encoder.model_id, encoder.dim, **SHAPE), learning, 0)
    return CompressedTask(model, banks[0], banks[1:], terms, options)


class TestCommand:
    def test_from_lists_to_a_reranker_that_has_learned(self, tmp_path, folder, encoder):
        data, dev, out = tmp_path / "data.jsonl", tmp_path / "dev.jsonl", tmp_path / "out"
        write_lists(toy_lists(64, 0), data)
        write_lists(toy_lists(16, 1), dev)
        command = ["train", "compressed", "--data", str(data), "--dev", str(dev), "--out", str(out)]
        command += ["--encoder", str(folder), "--teacher", f"dense:{folder}", "--stages", "one,two"]
        command += ["--width", "16", "--layers", "1", "--heads", "2", "--epochs", "6", "--lr", "0.01", "--batch", "8"]
        command += ["--max-passages", "8", "--min-passages", "4", "--vectors", str(tmp_path / "vectors.sqlite")]
        command += ["--loss", "two:rank_net=1", "--loss", "two:kl=0.01@0.1", "--device", "cpu"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        assert f"compressed:{out}" in result.stdout.replace("\n", "")

        rows = [json.loads(line) for line in (out / "stage-one" / "history.jsonl").read_text().splitlines()]
        metrics = [row["metrics"]["nDCG@10"] for row in rows if "metrics" in row]
        cosine = np.mean([ndcg(Dense(encoder), item) for item in toy_lists(16, 1)])
        assert metrics[0] == pytest.approx(cosine, abs=1e-6)
        assert max(metrics) > metrics[0] + 0.1
        assert {path.name for path in out.iterdir()} >= {"README.md", "curves.png", "config.json", "model.safetensors"}
        trained = read_config(out).trained
        assert trained["stages"] == {"one": ["rank_net=2@0.1"], "two": ["rank_net=1@0.1", "kl=0.01@0.1"]}
        assert "| dev | 16 |" in (out / "README.md").read_text()

        with rerankit.load(f"compressed:{out}[encoder={folder}]", device="cpu") as reranker:
            learned = np.mean([ndcg(reranker, item) for item in toy_lists(16, 1)])
        assert learned >= max(metrics) - 1e-6

        again = CliRunner().invoke(app, [*command, "--json"])
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["best"]["value"] == pytest.approx(learned, abs=1e-6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--loss", "rank_nett=1"], "did you mean 'rank_net'"),
            (["--loss", "kl=1", "--teacher", "none"], "needs a teacher"),
            (["--loss", "info_nce=1", "--teacher", "none"], "needs a trained encoder"),
            (["--loss", "two:rank_net=1", "--stages", "one"], "not among"),
            (["--stages", "three"], "a stage is one of one, two, joint"),
            (["--min-passages", "90"], "min_passages is at most"),
            (["--heads", "3"], "heads must divide"),
        ],
    )
    def test_what_makes_no_sense_is_refused_at_once(self, tmp_path, folder, options, message):
        write_lists(toy_lists(4, 0), tmp_path / "data.jsonl")
        command = ["train", "compressed", "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "out")]
        result = CliRunner().invoke(app, [*command, "--encoder", str(folder), "--teacher", "none", *options])
        assert result.exit_code != 0
        assert message in " ".join(result.output.split())


def test_the_shipped_card_says_what_the_code_says():
    readme = Path(rerankit.__file__).parent / "weights" / "compressed" / "README.md"
    shipped = " ".join(readme.read_text("utf-8").split())
    for text in (_SUMMARY, _OWN_VECTORS, *_WITH_WORDS, LIST_SCORES, DEV_FIGURES):
        assert " ".join(text.split()) in shipped


def ndcg(reranker, item):
    from rerankit.evaluation.metrics import ranking_metrics

    grades = {passage.id: int(grade) for passage, grade in zip(item.passages, item.grades, strict=True)}
    order = [hit.id for hit in reranker.rank(item.query, item.passages)]
    return ranking_metrics({"q": order}, {"q": grades}, ["nDCG@10"])["nDCG@10"]["q"]


def test_untrained_it_measures_the_cosine(encoder, inputs):
    made = task(encoder, inputs)
    with torch.no_grad():
        measured = made.evaluate()
    assert list(measured) == ["nDCG@10", "nDCG@10 dev"]
    expected = np.mean([ndcg(Dense(encoder), item) for item in toy_lists(6, 1)])
    assert measured["nDCG@10"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("info_nce", "two_tower")])
def test_every_loss_can_be_minimised(encoder, inputs, name):
    made = task(encoder, inputs, (Term(name, 1.0, LOSSES[name].temperature),))
    optimizer = torch.optim.Adam([p for p in made.module.parameters() if p.requires_grad], lr=0.01)
    torch.manual_seed(0)
    with torch.no_grad():
        before = made.evaluate()["nDCG@10"]
    for epoch in range(12):
        for batch in made.batches(epoch, np.random.default_rng(epoch)):
            found = made.loss(batch, 0.5)
            assert set(found) == {"loss", name}
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
    with torch.no_grad():
        assert made.evaluate()["nDCG@10"] > before + 0.05


@pytest.mark.parametrize("name", ["info_nce", "two_tower"])
def test_losses_of_retrieval_train_the_encoder(encoder, inputs, name):
    made = task(encoder, inputs, (Term(name, 1.0, 0.1), Term("rank_net", 1.0, 0.1)), lora=4)
    made.loss(made.batches(0, np.random.default_rng(0))[0], 0.0)[name].backward()
    learning = {key: p.grad for key, p in made.module.encoder.named_parameters() if p.requires_grad}
    assert all("lora_" in key for key in learning)
    assert any(grad is not None and grad.abs().max() > 0 for grad in learning.values())


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_trainable_encoder_begins_as_the_encoder(tmp_path, pooling):
    folder = save_embedder(tmp_path / "tiny", pooling=pooling)
    encoder = TextEncoder(folder, device="cpu", dtype="float32", query_prompt="the ", backend="torch")
    learning = TrainableEncoder(encoder, 4).eval()
    texts = ["sow maize", "deep " * 90, "water the dry soil"]
    with torch.no_grad():
        _, _, vectors = learning(texts, "passage")
        tokens, counts, query = learning(texts[:1], "query")
    np.testing.assert_allclose(vectors.numpy(), encoder.encode(texts), atol=1e-5)
    expected = CompressedInputs(encoder, VectorCache()).queries(texts[:1])[0]
    np.testing.assert_allclose(query[0].numpy(), expected.vector, atol=1e-5)
    np.testing.assert_allclose(tokens[0][counts[0]].numpy(), expected.tokens, atol=1e-5)


@pytest.mark.slow
def test_a_trained_encoder_comes_with_the_model(tmp_path, folder):
    data = tmp_path / "data.jsonl"
    write_lists(toy_lists(16, 0), data)
    run = CompressedRun(
        [str(data)], teacher="none", stages=["joint"], encoder=str(folder), lora_rank=4, shape=SHAPE,
        options=CompressedOptions(batch=4, max_passages=8, min_passages=4), vectors=tmp_path / "vectors.sqlite",
    )  # fmt: skip
    settings = Settings(epochs=2, learning_rate=0.01, device="cpu")
    (report,) = train_compressed(run, settings, tmp_path / "out")
    assert "info_nce" in report.history[-2]["loss"]
    assert read_config(tmp_path / "out").encoder.startswith("encoder@")
    with rerankit.load(f"compressed:{tmp_path / 'out'}", device="cpu") as reranker:
        other = TextEncoder(folder, device="cpu")
        assert np.abs(reranker.encoder.encode(["sow maize"]) - other.encode(["sow maize"])).max() > 1e-3
        assert reranker.rank("maize", ["rust maize", "the soil"]).status == "scored"


def test_batches_are_random_parts_that_keep_what_is_relevant(encoder, inputs):
    made = task(encoder, inputs, options=CompressedOptions(batch=5, max_passages=6, min_passages=3))
    first, same, other = (made.batches(0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    flat = [[(id(one.item), *one.places) for batch in batches for one in batch] for batches in (first, same, other)]
    assert flat[0] == flat[1] != flat[2]
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 4]
    for one in (one for batch in first for one in batch):
        assert 3 <= len(one.places) == len(set(one.places)) <= 6
        assert one.item.grades[one.places].any()
    assert len({len(one.places) for batch in first for one in batch}) > 1


def test_a_bank_encodes_once_and_finds_what_retrieval_gets_wrong(encoder):
    cache = VectorCache()
    lists = [*toy_lists(6, 0), *toy_lists(6, 0)]
    bank = build_bank("toy", lists, CompressedInputs(encoder, cache))
    assert len(bank.queries) == 6
    assert len(bank.vectors) == len({p.text for item in lists for p in item.passages})
    hard = bank.hard()
    for i, item in enumerate(lists):
        ranked = [hit.text.startswith("rust") for hit in Dense(encoder).rank(item.query, item.passages)]
        assert (i in hard) == (ranked != sorted(ranked, reverse=True))
    again = build_bank("toy", lists, CompressedInputs(encoder, cache))
    assert again.fingerprint == bank.fingerprint
    assert build_bank("toy", lists[:3], CompressedInputs(encoder, cache)).fingerprint != bank.fingerprint
    with pytest.raises(InputError, match="no list in toy"):
        build_bank("toy", [], CompressedInputs(encoder, cache))


def test_stored_vectors_are_trained_on_and_broken_ones_refused(encoder, inputs):
    (vector,) = encoder.encode(["another text"])
    stored = Passage("a", "soil", embedding=vector, embedding_model=encoder.model_id)
    item = TrainingList("maize", (stored, Passage("b", "cow")), (1.0, 0.0))
    bank = build_bank("toy", [item], inputs)
    np.testing.assert_allclose(bank.vectors[bank.items[0].rows[0]], vector, atol=1e-6)
    broken = TrainingList("maize", (stored.replace(embedding=vector * np.nan), Passage("b", "cow")), (1.0, 0.0))
    with pytest.raises(InputError, match="Passage 'a' carries a vector with NaN"):
        build_bank("toy", [broken], inputs)


def test_lists_without_a_teacher_take_no_part_in_its_losses(encoder, inputs):
    terms = (Term("kl", 1.0, 0.1), Term("rank_net", 1.0, 0.1))
    mixed = [*toy_lists(4, 0, teacher=True), *toy_lists(4, 2)]
    found = task(encoder, inputs, terms, lists=mixed)
    (batch,) = found.batches(0, np.random.default_rng(0))
    taught = [one for one in batch if one.item.teacher is not None]
    assert found.loss(batch, 0.0)["kl"].item() == pytest.approx(found.loss(taught, 0.0)["kl"].item(), rel=1e-5)


def test_the_same_seed_gives_the_same_weights(tmp_path, encoder, inputs):
    settings = Settings(epochs=2, learning_rate=0.01, device="cpu")
    ends = []
    for name in ("one", "two"):
        fit(task(encoder, inputs), settings, tmp_path / name)
        ends.append(load_resrank(tmp_path / name).state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_losses_are_written_in_one_line():
    assert parse_losses(["kl=2", "two:rank_net=.5@.2"], STAGES) == {
        "": [Term("kl", 2.0, 0.05)],
        "two": [Term("rank_net", 0.5, 0.2)],
    }
    for wrong in ("kl", "kl=", "kl=0", "kl=-1", "kl=x", "kl=1@", "kl=1@0", "kl=inf"):
        with pytest.raises(InputError, match="loss"):
            parse_losses([wrong], STAGES)
    own = stage_terms("joint", {}, trains_encoder=False, has_teacher=False)
    assert [str(term) for term in own] == ["rank_net=2@0.1"]


def test_a_head_for_grades_is_trained_only_where_it_is_used():
    model = CompressedModel(new_model(ResRankConfig("tiny@0", 8, **SHAPE), None, 0).ranker)
    model.use_grades(False)
    assert not any(p.requires_grad for p in model.grades.parameters())
