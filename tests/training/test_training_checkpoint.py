"""A checkpoint gives back what was put in, or is refused with the way out."""

from __future__ import annotations

import json
import random
import signal
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toy_training import CrashError, ToyTask, crash_at, same_bits, weights

from rerankit.errors import InputError, ModelError, StoreError
from rerankit.models.files import write_atomically
from rerankit.training.checkpoint import read_checkpoint, write_checkpoint
from rerankit.training.history import History
from rerankit.training.loop import fit
from rerankit.training.randomness import RandomState, kept_random
from rerankit.training.task import Settings

CPU = torch.device("cpu")
SETTINGS = Settings(epochs=2, learning_rate=0.01, device="cpu", checkpoint_every=4)
TENSORS = {
    "weights/a": torch.arange(6.0).reshape(2, 3),
    "weights/half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "optimizer/a/step": torch.tensor(3.0),
    "random/cpu": torch.arange(9, dtype=torch.uint8),
}
FACTS = {"place": {"step": 3, "seconds": 0.1}, "random": [1, [2, 3], None]}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of a checkpoint."""
    path = tmp_path_factory.mktemp("written") / "last.safetensors"
    write_checkpoint(path, TENSORS, FACTS)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path):
    """A run that was broken off in its second epoch."""
    with pytest.raises(CrashError):
        fit(ToyTask(), SETTINGS, tmp_path, progress=crash_at(9))
    return tmp_path


def last(folder):
    return folder / "checkpoint" / "last.safetensors"


def test_it_gives_back_what_was_put_in(tmp_path, written):
    path = tmp_path / "last.safetensors"
    path.write_bytes(written)
    tensors, facts = read_checkpoint(path)
    assert same_bits(tensors, TENSORS)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {n: t.dtype for n, t in TENSORS.items()}
    assert facts == FACTS


@examples(max_examples=200)
@given(data=st.data())
def test_any_changed_byte_is_noticed(tmp_path_factory, written, data):
    changed = bytearray(written)
    changed[data.draw(st.integers(0, len(written) - 1))] ^= 0xFF
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(changed)
    with pytest.raises(ModelError, match=r"resume=False \(--fresh\)"):
        read_checkpoint(path)


@examples(max_examples=50)
@given(data=st.data())
def test_a_file_cut_short_is_noticed(tmp_path_factory, written, data):
    path = tmp_path_factory.getbasetemp() / "short.safetensors"
    path.write_bytes(written[: data.draw(st.integers(0, len(written) - 1))])
    with pytest.raises(ModelError, match=r"is damaged .*resume=False \(--fresh\)"):
        read_checkpoint(path)


def test_a_model_is_no_checkpoint(tmp_path):
    path = tmp_path / "last.safetensors"
    save_file(TENSORS, path)
    with pytest.raises(ModelError, match="no training checkpoint of this version"):
        read_checkpoint(path)


def test_a_tampered_checkpoint_stops_the_run_before_it_begins(folder):
    data = bytearray(last(folder).read_bytes())
    data[-3] ^= 1
    last(folder).write_bytes(data)
    task = ToyTask()
    before = weights(task.module)
    with pytest.raises(ModelError, match=r"was changed after it was written.*resume=False \(--fresh\)"):
        fit(task, SETTINGS, folder)
    assert same_bits(weights(task.module), before)
    assert fit(task, SETTINGS, folder, resume=False).ending == "finished"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 0.02}, r"learning_rate was 0.01, is 0.02"),
        ({"seed": 1}, r"seed was 0, is 1"),
        ({"dtype": "bfloat16", "epochs": 3}, r"epochs was 2, is 3; setting dtype was 'float32', is 'bfloat16'"),
    ],
)
def test_other_settings_are_another_run(folder, change, words):
    plan = {"epochs": 2, "learning_rate": 0.01, "device": "cpu", **change}
    with pytest.raises(InputError, match=rf"of another run: setting {words}. .*resume=False \(--fresh\)"):
        fit(ToyTask(), Settings(**plan), folder)


def test_the_interval_of_checkpoints_may_change(folder):
    settings = Settings(epochs=2, learning_rate=0.01, device="cpu", checkpoint_every=1)
    assert fit(ToyTask(), settings, folder).ending == "finished"


def test_other_data_are_another_run(folder):
    task = ToyTask()
    task.fingerprint = "toy lists, 2"
    with pytest.raises(InputError, match="data was 'toy lists, 1', is 'toy lists, 2'"):
        fit(task, SETTINGS, folder)


def test_another_number_of_batches_is_another_run(folder):
    class Fewer(ToyTask):
        def batches(self, epoch, generator):
            return super().batches(epoch, generator)[:-1]

    with pytest.raises(InputError, match=r"epoch 1 had 6 batches, it has 5.*--fresh"):
        fit(Fewer(), SETTINGS, folder)


def test_another_module_is_another_run(folder):
    task = ToyTask()
    task.module.head = nn.Linear(12, 2)
    with pytest.raises(InputError, match=r"shape of head.weight was '\[1, 12\] float32', is '\[2, 12\] float32'"):
        fit(task, SETTINGS, folder)
    task.module.head = nn.Identity()
    with pytest.raises(InputError, match=r"shape of head.weight was '\[1, 12\] float32', is None"):
        fit(task, SETTINGS, folder)


def test_a_refused_run_leaves_checkpoint_and_history_as_they_are(folder):
    before = {path: path.read_bytes() for path in (last(folder), folder / "history.jsonl")}
    with pytest.raises(InputError):
        fit(ToyTask(), Settings(epochs=7, device="cpu"), folder)
    assert {path: path.read_bytes() for path in before} == before


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "deeper" / "file.txt"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


@contextmanager
def full_disk():
    """No file may grow beyond some kilobytes: only inside, as the test report itself may go into a longer file."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


class TestAFullDisk:
    def test_is_told_with_the_file_and_leaves_the_old_one(self, tmp_path):
        path = tmp_path / "file.txt"
        write_atomically(path, "old")
        with pytest.raises(StoreError, match=r"Cannot write .*file\.txt: .*Make room"), full_disk():
            write_atomically(path, "new" * 5000)
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file.txt": "old"}

    def test_is_told_while_history_grows(self, tmp_path):
        history = History(tmp_path / "history.jsonl")
        history.begin()
        with pytest.raises(StoreError, match=r"Cannot write .*history\.jsonl"), full_disk():
            history.add({"step": 1, "metrics": {f"of set {number}": 0.5 for number in range(1000)}})

    def test_is_told_by_a_run(self, tmp_path):
        with pytest.raises(StoreError, match="Cannot write"), full_disk():
            fit(ToyTask(), SETTINGS, tmp_path / "run")


def draws():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss()  # noqa: NPY002


@examples(max_examples=20)
@given(st.integers(0, 2**63), st.integers(0, 700))
def test_the_random_state_survives_json(seed, before):
    with kept_random(CPU, seed):
        np.random.standard_normal(before)  # noqa: NPY002
        torch.rand(before)
        random.gauss()
        state = RandomState.now(CPU)
        expected = draws()
        RandomState(state.tensors, json.loads(json.dumps(state.numbers))).restore(CPU)
        assert draws() == expected


def test_what_is_drawn_inside_leaves_no_trace():
    state = RandomState.now(CPU)
    expected = draws()
    state.restore(CPU)
    with suppress(KeyError), kept_random(CPU, 3):
        assert draws() != expected
        raise KeyError
    assert draws() == expected


def test_a_torn_line_of_history_is_left_out(tmp_path):
    history = History(tmp_path / "history.jsonl")
    history.begin()
    for step in range(4):
        history.add({"step": step + 1, "loss": {"loss": 0.5}})
    history.add({"step": 4, "metrics": {"ndcg": 0.5}})
    history.path.write_text(history.path.read_text()[:-9] + "\n[]\n")
    again = History(history.path)
    again.resume(step=3, evaluated=2)
    assert [row["step"] for row in again.rows] == [1, 2, 3]
    assert [json.loads(line) for line in history.path.read_text().splitlines()] == again.rows
