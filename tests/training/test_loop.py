"""A run learns, ends the same however often it is broken off, and stops with a reason when it cannot go on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from toy_training import STEPS, CrashError, ToyTask, crash_at, same_bits, weights, without_time

from rerankit.errors import InputError, ModelError
from rerankit.training.curves import write_curves
from rerankit.training.loop import fit
from rerankit.training.optimizer import learning_rate
from rerankit.training.task import Best, Settings

PLAN = {"epochs": 4, "learning_rate": 0.02, "evaluate_every": 4, "checkpoint_every": 5, "device": "cpu", "seed": 3}
SETTINGS = Settings(**PLAN)


def unbroken(folder, **changes):
    task = ToyTask()
    report = fit(task, Settings(**{**PLAN, **changes}), folder)
    return report, weights(task.module)


# What a run does


def test_it_learns_and_keeps_the_best(tmp_path):
    task, moments = ToyTask(), []
    first = task.module.eval()(task.x).argmax(-1)
    report = fit(task, SETTINGS, tmp_path, progress=moments.append)
    evaluations = [row for row in report.history if "metrics" in row]
    assert torch.equal(first, task.x[..., 0].argmax(-1))  # untrained, the gate is shut
    assert [row["step"] for row in evaluations] == list(range(0, 4 * STEPS + 1, 4))
    values = [row["metrics"]["hit@1"] for row in evaluations]
    assert report.best.value == max(values) > values[0] + 0.05
    assert report.best.step == evaluations[values.index(max(values))]["step"]
    with torch.no_grad():
        assert task.evaluate() == report.best.metrics  # the module holds the best weights
    assert report.steps == 4 * STEPS
    assert report.ending == "finished"
    assert report.parameters == sum(p.numel() for p in task.module.parameters() if p.requires_grad)
    assert [m.step for m in moments if m.losses] == list(range(1, 4 * STEPS + 1))
    assert {m.steps for m in moments} == {4 * STEPS}


def test_the_folder_holds_weights_history_and_curves(tmp_path):
    task = ToyTask()
    report = fit(task, SETTINGS, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "frozen.weight" not in saved
    assert all(torch.equal(tensor, task.module.state_dict()[name]) for name, tensor in saved.items())
    assert {name for name, p in task.module.named_parameters() if p.requires_grad} <= set(saved)
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows == list(report.history)
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 4 * STEPS + 1))
    assert set(steps[0]) == {"step", "epoch", "loss", "lr", "norm", "seconds"}
    assert set(steps[0]["loss"]) == {"loss", "entropy", "size"}
    rates = [learning_rate(SETTINGS, (i + 0.5) / len(steps)) for i in range(len(steps))]
    assert [row["lr"] for row in steps] == pytest.approx(rates)


def test_the_curves_are_a_picture(tmp_path):
    from matplotlib.image import imread

    fit(ToyTask(), SETTINGS, tmp_path)
    picture = imread(tmp_path / "curves.png")
    assert picture.shape == (480, 1440, 4)
    assert len(np.unique(picture.reshape(-1, 4), axis=0)) > 20
    again = tmp_path / "again.png"
    write_curves([{"step": 0, "epoch": 0, "metrics": {"m": 0.5}}], Best("m", 0.5, 0, {"m": 0.5}), again)
    assert imread(again).shape == picture.shape  # a run that ended before its first step


def test_the_curves_hold_one_line_per_dev_set(tmp_path):
    one = {"mean": 0.5, "f1 farm": 0.4, "area news": 0.6}
    for name, metrics in ("one", one), ("more", {**one, "exact farm": 0.3, "f1 news": 0.2}):
        rows = [{"step": step, "epoch": 0, "metrics": metrics} for step in (0, 8)]
        write_curves(rows, Best("mean", 0.5, 0, metrics), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "more").read_bytes()


def test_what_is_frozen_stays(tmp_path):
    task = ToyTask()
    before = task.module.frozen.weight.clone()
    fit(task, SETTINGS, tmp_path)
    assert torch.equal(task.module.frozen.weight, before)


def test_a_task_may_save_itself(tmp_path):
    class Saves(ToyTask):
        def save(self, folder):
            (folder / "mine.json").write_text(json.dumps(self.module.gate.tolist()))

    task = Saves()
    fit(task, SETTINGS, tmp_path)
    assert json.loads((tmp_path / "mine.json").read_text()) == task.module.gate.tolist()
    assert not (tmp_path / "model.safetensors").exists()


def test_the_generators_of_the_program_go_on_undisturbed(tmp_path):
    def draws():
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    fit(ToyTask(), SETTINGS, tmp_path)
    assert draws() == expected


class Decay:
    """Parameters of every kind whose gradient is zero, so that nothing but weight decay moves them."""

    def __init__(self):
        self.module = nn.ModuleDict({"linear": nn.Linear(3, 3), "norm": nn.LayerNorm(3), "gate": nn.Linear(3, 3)})
        self.module.register_parameter("scale", nn.Parameter(torch.tensor(2.0)))

    def batches(self, epoch, generator):
        return [None] * 5

    def loss(self, batch, progress):
        return {"loss": sum((p * 0.0).sum() for p in self.module.parameters())}

    def evaluate(self):
        return {"size": -float(self.module["linear"].weight.square().sum())}  # the last is the best


def test_weight_decay_spares_biases_norms_and_gates(tmp_path):
    task = Decay()
    before = weights(task.module)
    fit(task, Settings(learning_rate=0.1, weight_decay=0.5, device="cpu"), tmp_path)
    moved = {name for name, tensor in weights(task.module).items() if not torch.equal(tensor, before[name])}
    assert moved == {"linear.weight"}


@given(st.floats(0, 0.9), st.lists(st.floats(0, 1), min_size=2))
def test_the_rate_rises_to_its_peak_and_falls_to_zero(warmup, shares):
    settings = Settings(learning_rate=2.0, warmup=warmup)
    rates = [learning_rate(settings, share) for share in sorted(shares)]
    rising = [learning_rate(settings, share) for share in sorted(shares) if share <= warmup]
    assert all(0 <= rate <= 2.0 for rate in rates)
    assert all(a <= b for a, b in pairwise(rising))
    assert all(a >= b for a, b in pairwise(rates[len(rising) :]))
    assert learning_rate(settings, warmup) == 2.0
    assert learning_rate(settings, 1.0) == pytest.approx(0.0, abs=1e-12)


# The same end, broken off or not


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def reference(request, tmp_path_factory):
    """Dtype, report and final weights of an unbroken run."""
    return request.param, *unbroken(tmp_path_factory.mktemp("unbroken"), dtype=request.param)


def run_program(folder, dtype, kill_at=0, interrupt_at=0):
    """Train in a process of its own that kills itself, or that gets Ctrl-C; returns its exit status and stderr."""
    program = Path(__file__).parents[1] / "toy_training.py"
    root = program.parents[1]
    command = [sys.executable, str(program), str(folder), json.dumps({**PLAN, "dtype": dtype}), str(kill_at)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout:
            if int(line) == interrupt_at:
                process.send_signal(signal.SIGINT)
        return process.wait(), process.stderr.read()


def assert_resumes_to(reference, folder):
    """Going on in this process ends with the reference's bits; the same steps, the same evaluations."""
    dtype, report, final = reference
    task, steps = ToyTask(), []
    resumed = fit(task, Settings(**PLAN, dtype=dtype), folder, progress=lambda m: steps.append(m.step))
    assert same_bits(weights(task.module), final)
    assert same_bits(load_file(folder / "model.safetensors"), load_file(report.folder / "model.safetensors"))
    assert without_time(resumed.history) == without_time(report.history)
    assert resumed.best == report.best
    return steps


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_killed_and_resumed_it_ends_with_the_same_bits(reference, tmp_path):
    status, _ = run_program(tmp_path, reference[0], kill_at=13)
    assert status == -signal.SIGKILL
    steps = assert_resumes_to(reference, tmp_path)
    assert min(steps) == 11  # from the checkpoint of step 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    status, errors = run_program(tmp_path / "stopped", "float32", interrupt_at=7)
    assert status == 130
    assert "Stopped after step" in errors
    assert "Run the same again to go on" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "stopped" / "model.safetensors").is_file()
    steps = assert_resumes_to(("float32", *unbroken(tmp_path / "unbroken")), tmp_path / "stopped")
    assert min(steps) > 7


@examples(max_examples=6)
@given(data=st.data())
def test_broken_off_anywhere_any_number_of_times(reference, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("broken")
    every = data.draw(st.sampled_from([1, 3, 5, None]))
    settings = Settings(**{**PLAN, "checkpoint_every": every}, dtype=reference[0])
    for step in data.draw(st.lists(st.integers(1, 4 * STEPS), max_size=3)):
        try:
            fit(ToyTask(), settings, folder, progress=crash_at(step))
        except CrashError:
            continue
    assert_resumes_to(reference, folder)


def test_another_seed_is_another_run(reference, tmp_path):
    assert not same_bits(unbroken(tmp_path, seed=4)[1], reference[2])


@pytest.fixture
def ctrl_c():
    """Python's own way with Ctrl-C, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_during_an_evaluation(tmp_path):
    """The evaluation is made up for, and no random number is lost."""

    class Interrupted(ToyTask):
        def evaluate(self):
            metrics = super().evaluate()
            if len(self.orders) == 2:  # in the second epoch
                os.kill(os.getpid(), signal.SIGINT)
            return metrics

    report, final = unbroken(tmp_path / "unbroken")
    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt, match="Stopped after step 8"):
        fit(Interrupted(), SETTINGS, folder)
    assert_resumes_to(("float32", report, final), folder)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_twice_within_a_step_leaves_the_last_checkpoint(tmp_path):
    class Hangs(ToyTask):
        def loss(self, batch, progress):
            self.done = getattr(self, "done", 0) + 1
            if self.done == 8:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().loss(batch, progress)

    folder = tmp_path / "interrupted"
    with pytest.raises(KeyboardInterrupt, match="Stopped after step 7"):
        fit(Hangs(), SETTINGS, folder)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps = assert_resumes_to(("float32", *unbroken(tmp_path / "unbroken")), folder)
    assert min(steps) == 6  # from the checkpoint of step 5


def test_how_often_it_evaluates_changes_no_step(tmp_path):
    one, _ = unbroken(tmp_path / "one", evaluate_every=1)
    other, _ = unbroken(tmp_path / "other", evaluate_every=None)
    losses = [[row["loss"] for row in report.history if "loss" in row] for report in (one, other)]
    assert losses[0] == losses[1]


def orders(folder, stop=None, **settings):
    """The orders of the first two epochs; broken off at a step and resumed in between."""
    task, settings = ToyTask(), Settings(epochs=3, device="cpu", **settings)
    for step in filter(None, [stop, STEPS + 1]):
        with pytest.raises(CrashError):
            fit(task, settings, folder, progress=crash_at(step))
    return sorted({tuple(order) for order in task.orders[:2] + task.orders[-2:]})


@examples(max_examples=10)
@given(seed=st.integers(0, 2**40), rate=st.floats(1e-5, 1e-2), stop=st.integers(1, STEPS))
def test_the_order_of_batches_depends_on_seed_and_epoch_alone(tmp_path_factory, seed, rate, stop):
    folders = [tmp_path_factory.mktemp("orders") for _ in range(3)]
    plain = orders(folders[0], seed=seed)
    other = orders(folders[1], stop, seed=seed, learning_rate=rate, dtype="bfloat16", checkpoint_every=2)
    assert len(plain) == 2  # each epoch its own
    assert other == plain
    assert set(orders(folders[2], seed=seed + 1)).isdisjoint(plain)


def test_a_run_that_has_ended_is_not_done_again(tmp_path):
    report, final = unbroken(tmp_path)
    task, moments = ToyTask(), []
    again = fit(task, SETTINGS, tmp_path, progress=moments.append)
    assert moments == []
    assert (again.history, again.best, again.steps) == (report.history, report.best, report.steps)
    assert same_bits(weights(task.module), final)


def test_fresh_forgets_the_checkpoint(tmp_path):
    with pytest.raises(CrashError):
        fit(ToyTask(), SETTINGS, tmp_path, progress=crash_at(11))
    moments = []
    report = fit(ToyTask(), SETTINGS, tmp_path, resume=False, progress=moments.append)
    assert moments[0].step == 0
    assert len([row for row in report.history if "loss" in row]) == 4 * STEPS


# Ends before the end


class Scripted(ToyTask):
    """A toy task whose dev metric follows a script."""

    def __init__(self, *values):
        super().__init__()
        self.values = iter(values)

    def evaluate(self):
        return {"ndcg": next(self.values)}


def test_patience(tmp_path):
    settings = Settings(**{**PLAN, "evaluate_every": 2}, patience=2)
    report = fit(Scripted(0.3, 0.5, 0.4, 0.6, 0.6, 0.5), settings, tmp_path)
    assert report.ending == "patience"
    assert report.steps == 10
    assert (report.best.value, report.best.step) == (0.6, 6)
    assert fit(ToyTask(), settings, tmp_path).steps == 10  # it has ended, resumed or not


class Broken(ToyTask):
    """Its loss, or only its gradient, is not finite from a step on."""

    def __init__(self, at, kind):
        super().__init__()
        self.at, self.kind, self.done = at, kind, 0

    def loss(self, batch, progress):
        self.done += 1
        losses = super().loss(batch, progress)
        if self.done == self.at:
            wrong = {"nan": torch.tensor(torch.nan), "inf": torch.tensor(torch.inf)}.get(self.kind)
            extra = torch.sqrt(self.module.head.bias.sum() * 0) if wrong is None else wrong
            return {**losses, "loss": losses["loss"] + extra, "extra": extra}
        return losses


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("nan", r"loss is not finite \(loss nan, entropy [\d.]+, size [\d.]+, extra nan\)"), ("inf", "extra inf")],
)
def test_a_loss_that_is_not_finite(tmp_path, kind, reason):
    task = Broken(10, kind)
    with pytest.raises(ModelError, match=rf"step 10: .*{reason}.*best weights .* at step \d.*--fresh") as caught:
        fit(task, SETTINGS, tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, task.module.state_dict()[name]) for name, tensor in kept.items())
    assert all(tensor.isfinite().all() for tensor in kept.values())
    with torch.no_grad():
        assert f"hit@1 {task.evaluate()['hit@1']:.4g} at step" in str(caught.value)


def test_a_gradient_that_is_not_finite(tmp_path):
    task = Broken(6, "gradient")
    with pytest.raises(ModelError, match=r"step 6: the gradient is not finite \(loss [\d.]+"):
        fit(task, SETTINGS, tmp_path)
    assert all(tensor.isfinite().all() for tensor in weights(task.module).values())


def test_a_metric_that_is_not_finite(tmp_path):
    with pytest.raises(ModelError, match=r"no finite metrics at step 4: \{'ndcg': nan\}"):
        fit(Scripted(0.5, float("nan")), SETTINGS, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


# What cannot be run


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -0.1},
        {"warmup": 1.0},
        {"clip": 0},
        {"clip": float("inf")},
        {"dtype": "float8"},
        {"seed": -1},
        {"evaluate_every": 0},
        {"patience": True},
        {"checkpoint_every": "often"},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(dtype="float16", device="cpu"), "float16 trains on CUDA only"),
        (Settings(device="cuda:99"), "device is one of auto, cpu"),
    ],
)
def test_a_device_that_cannot_do_it(tmp_path, settings, words):
    with pytest.raises(InputError, match=words):
        fit(ToyTask(), settings, tmp_path)


def test_a_task_with_nothing_to_train(tmp_path):
    task = ToyTask()
    task.module.requires_grad_(False)
    with pytest.raises(InputError, match="nothing to train"):
        fit(task, SETTINGS, tmp_path)


@pytest.mark.parametrize("losses", [{}, {"entropy": torch.tensor(1.0)}, {"loss": torch.tensor(1.0)}])
def test_a_loss_that_does_not_train(tmp_path, losses):
    task = ToyTask()
    task.loss = lambda batch, progress: losses
    with pytest.raises(InputError, match=r"loss\(\) must give"):
        fit(task, SETTINGS, tmp_path)


def test_a_task_without_batches(tmp_path):
    task = ToyTask()
    task.batches = lambda epoch, generator: []
    with pytest.raises(InputError, match="no batch in epoch 0"):
        fit(task, SETTINGS, tmp_path)


def test_two_processes_do_not_share_a_folder(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with FileLock(tmp_path / "checkpoint" / ".lock"), pytest.raises(InputError, match="Another process trains"):
        fit(ToyTask(), SETTINGS, tmp_path)
