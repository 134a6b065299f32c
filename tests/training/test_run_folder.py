"""What a run says of its folder and data before it computes, and how it ends where the dev data give no calibration."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_models import save_embedder
from toy_lists import toy_lists

import rerankit
from rerankit.errors import InputError
from rerankit.rerankers.calibration import Calibrator
from rerankit.training.calibrating import LEAST_QUESTIONS, calibrated
from rerankit.training.compressed import CompressedOptions
from rerankit.training.compressed_run import CompressedRun, train_compressed
from rerankit.training.cross_encoder import CrossEncoderOptions
from rerankit.training.cross_encoder_run import CrossEncoderRun, train_cross_encoder
from rerankit.training.cross_encoder_st import train_with_sentence_transformers
from rerankit.training.lists import write_lists
from rerankit.training.reader_run import ReaderRun, train_reader
from rerankit.training.sources import train_and_dev
from rerankit.training.task import Settings

pytest.importorskip("peft")
pytest.importorskip("ir_measures")

SETTINGS = Settings(device="cpu")
OPTIONS = CompressedOptions(batch=8, max_passages=8, min_passages=4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(save_embedder(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def files(tmp_path):
    """Lists to train on, dev lists."""
    paths = tmp_path / "data.jsonl", tmp_path / "dev.jsonl"
    write_lists(toy_lists(16, 0), paths[0])
    write_lists(toy_lists(LEAST_QUESTIONS, 1), paths[1])
    return [str(path) for path in paths]


def compressed(files, encoder, **more):
    shape = {"width": 16, "layers": 1, "heads": 2}
    vectors = {"dev": files[1:], "encoder": encoder, "teacher": "none", "options": OPTIONS, "shape": shape}
    return CompressedRun(files[:1], **{"stages": ["one"], **vectors, **more})


def unfitted(folder, told):
    """The sentence that a run without calibration told, which its card has too."""
    [sentence] = [line for line in told if "alibra" in line]
    assert sentence in " ".join((folder / "README.md").read_text().split())
    assert not (folder / "calibration.json").exists()
    return sentence


class TestCalibration:
    def test_labels_all_alike(self, tmp_path, files, encoder):
        write_lists([replace(one, grades=(1.0,) * len(one.grades)) for one in toy_lists(12, 1)], files[1])
        told, out = [], tmp_path / "out"
        train_compressed(compressed(files, encoder), SETTINGS, out, tell=told.append)
        assert "labels are relevant" in unfitted(out, told)
        with rerankit.load(f"compressed:{out}[encoder={encoder}]", device="cpu") as reranker:
            assert reranker.rank("rust", ["rust", "maize"])[0].probability is None

    def test_too_few_lists(self, tmp_path, files, encoder):
        told, out = [], tmp_path / "out"
        run = compressed(files, encoder, dev_count=LEAST_QUESTIONS - 1)
        train_compressed(run, SETTINGS, out, tell=told.append)
        assert f"needs {LEAST_QUESTIONS} dev questions or more, there are {LEAST_QUESTIONS - 1}" in unfitted(out, told)

    def test_of_a_cross_encoder(self, tmp_path, files, encoder):
        write_lists([replace(one, grades=(1.0,) * len(one.grades)) for one in toy_lists(12, 1)], files[1])
        told, out = [], tmp_path / "out"
        run = CrossEncoderRun(
            files[:1], dev=files[1:], base=encoder, residual="none", max_tokens=48, options=CrossEncoderOptions(rank=2)
        )
        train_cross_encoder(run, SETTINGS, out, tell=told.append)
        assert "labels are relevant" in unfitted(out, told)

    def test_scores_that_do_not_rise(self, tmp_path):
        told, file = [], tmp_path / "calibration.json"
        file.write_text("of an earlier run")
        scores, labels = [1.0, 2.0, 3.0, 4.0], [1, 1, 0, 0]
        fitted, limits = calibrated(lambda: Calibrator.fit(scores, labels, fingerprint="x"), 10, file, told.append)
        assert fitted is None
        assert list(limits) == told
        assert "rise" in told[0]
        assert not file.exists()


class TestFolder:
    @pytest.fixture(params=["out", "out/deeper"])
    def occupied(self, tmp_path, request):
        (tmp_path / "out").write_text("a file")
        return tmp_path / request.param

    def test_a_file_is_refused_before_the_data_are_read(self, occupied):
        runs = [
            (train_compressed, CompressedRun(["nowhere"])),
            (train_cross_encoder, CrossEncoderRun(["nowhere"])),
            (train_with_sentence_transformers, CrossEncoderRun(["nowhere"])),
            (train_reader, ReaderRun(["nowhere"], dev=["nowhere"])),
        ]
        for train, run in runs:
            with pytest.raises(InputError, match="out is a file; name a folder"):
                train(run, SETTINGS, occupied)

    def test_another_run_is_refused_before_anything_is_encoded(self, tmp_path, files, encoder):
        out, told = tmp_path / "out", []
        run = compressed(files, encoder)
        train_compressed(run, SETTINGS, out)
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        others = [
            (train_compressed, run, replace(SETTINGS, epochs=9), "setting epochs was 1, is 9"),
            (train_compressed, replace(run, dev=()), SETTINGS, r"dev was \['dev'\], is \[\]"),
            (train_cross_encoder, CrossEncoderRun(files[:1]), SETTINGS, "holds another model"),
            (train_reader, ReaderRun(files[:1], dev=files[1:]), SETTINGS, "holds another model"),
        ]
        for train, other, settings, message in others:
            with pytest.raises(InputError, match=message):
                train(other, settings, out, tell=told.append)
        assert not told
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        train_compressed(run, SETTINGS, out)  # the same run is welcome
        train_compressed(replace(run, dev=()), SETTINGS, out, resume=False)

    def test_a_model_of_others_is_not_written_over(self, tmp_path, encoder):
        with pytest.raises(InputError, match="holds another model, of format None"):
            train_compressed(CompressedRun(["nowhere"]), SETTINGS, save_embedder(tmp_path / "tiny"), resume=False)


def test_dev_data_that_ask_all_that_the_training_data_ask(files):
    run = CrossEncoderRun(files[:1], dev=files[:1])
    with pytest.raises(InputError, match="All 16 training lists ask what a dev list asks and are left out"):
        train_and_dev(run, None, None, 0, print)


def test_without_dev_data_a_tenth_of_the_lists_is_held_out(files):
    write_lists(toy_lists(60, 0), files[0])
    train, dev = train_and_dev(CrossEncoderRun(files[:1]), None, None, 0, print)
    assert (len(train), len(dev["held out"])) == (54, 6)


def test_the_folder_names_its_weights(tmp_path, files, encoder):
    out = tmp_path / "out"
    train_compressed(compressed(files, encoder), SETTINGS, out)
    assert len(json.loads((out / "config.json").read_text())["weights_sha256"]) == 64
