"""What a run says of its folder and data before it computes, and how it ends where the dev data give no calibration."""

from __future__ import annotations

import json
import shutil
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
from rerankit.training.sources import source_name, source_rows, train_and_dev
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
            (train_with_sentence_transformers, CrossEncoderRun(files[:1]), SETTINGS, "holds another model"),
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
        with pytest.raises(InputError, match="holds another model; name another folder"):
            train_with_sentence_transformers(CrossEncoderRun(["nowhere"]), SETTINGS, tmp_path / "tiny", resume=False)


@pytest.mark.slow
class TestSentenceTransformers:
    @pytest.fixture
    def run(self, files, encoder):
        pytest.importorskip("sentence_transformers")
        return CrossEncoderRun(
            files[:1], dev=files[1:], base=encoder, residual="none", max_tokens=48, options=CrossEncoderOptions(batch=8)
        )

    def test_it_goes_on_from_checkpoints_of_the_same_run_alone(self, tmp_path, files, run):
        settings, out, told = Settings(device="cpu", epochs=2, learning_rate=2e-3), tmp_path / "out", []
        teachers_own = [replace(one, grades=(0.0,) * len(one.grades)) for one in toy_lists(2, 5, teacher=True)]
        write_lists([*toy_lists(16, 0), *teachers_own], files[0])
        train_with_sentence_transformers(run, settings, out, tell=told.append)
        assert "2 of 18 lists have a teacher's scores and no grade above 0, and are left out" in told
        whole = (out / "model.safetensors").read_bytes()
        assert {path.name for path in (out / "checkpoint").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}

        shutil.rmtree(out / "checkpoint" / "checkpoint-4")  # as if it had been broken off
        (out / "model.safetensors").unlink()
        before = (out / "checkpoint" / "checkpoint-2" / "trainer_state.json").stat().st_mtime_ns
        assert train_with_sentence_transformers(run, settings, out)[0] == 4
        assert (out / "model.safetensors").read_bytes() == whole
        assert (out / "checkpoint" / "checkpoint-2" / "trainer_state.json").stat().st_mtime_ns == before

        for other, changed, message in (
            (run, replace(settings, seed=5), "setting seed was 0, is 5"),
            (replace(run, losses=["binary"]), settings, "loss was 'lambda', is 'binary'"),
        ):
            with pytest.raises(InputError, match=message):
                train_with_sentence_transformers(other, changed, out)
        write_lists(toy_lists(16, 7), files[0])  # other lists in a file of the same name
        with pytest.raises(InputError, match="lists was"):
            train_with_sentence_transformers(run, settings, out)
        assert (out / "model.safetensors").read_bytes() == whole

        shorter = replace(settings, epochs=1)
        assert train_with_sentence_transformers(run, shorter, out, resume=False)[0] == 2
        assert [path.name for path in (out / "checkpoint").glob("checkpoint-*")] == ["checkpoint-2"]
        assert train_with_sentence_transformers(run, shorter, out)[0] == 2


def test_dev_data_that_ask_all_that_the_training_data_ask(files):
    run = CrossEncoderRun(files[:1], dev=files[:1])
    with pytest.raises(InputError, match="All 16 training lists ask what a dev list asks and are left out"):
        train_and_dev(run, None, None, 0, print)


def test_held_out_lists_come_from_all_sources_and_none_is_lost(tmp_path):
    paths = [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]
    for number, path in enumerate(paths):
        lists = [replace(one, query=f"{number} {one.query}", source=str(number)) for one in toy_lists(100, number)]
        write_lists(lists, path)
    train, dev = train_and_dev(CrossEncoderRun(paths, dev_count=10), None, None, 0, print)
    held_out = dev["held out"]
    assert (len(train), len(held_out)) == (190, 10)
    assert {item.source for item in held_out} == {"0", "1"}
    assert not {item.query for item in train} & {item.query for item in held_out}


def test_sources_of_one_name_are_told_apart():
    taken = dict.fromkeys(["test", "test-3"])
    for _ in range(3):
        taken[source_name("somewhere/test.jsonl", taken)] = None
    assert list(taken) == ["test", "test-3", "test-2", "test-4", "test-5"]


def test_a_licence_in_another_encoding_ends_no_run(tmp_path):
    (tmp_path / "README.md").write_bytes("Licence: CC BY, Universit\xe9\n".encode("latin-1"))
    [row] = source_rows(CrossEncoderRun([str(tmp_path)]))
    assert row.license == "CC BY, Universit\ufffd"


def test_without_dev_data_a_tenth_of_the_lists_is_held_out(files):
    write_lists(toy_lists(60, 0), files[0])
    train, dev = train_and_dev(CrossEncoderRun(files[:1]), None, None, 0, print)
    assert (len(train), len(dev["held out"])) == (54, 6)


def test_the_folder_names_its_weights(tmp_path, files, encoder):
    out = tmp_path / "out"
    train_compressed(compressed(files, encoder), SETTINGS, out)
    assert len(json.loads((out / "config.json").read_text())["weights_sha256"]) == 64
