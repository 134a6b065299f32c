"""The training loop: warmup and cosine, mixed precision, evaluation, checkpoints that a killed run goes on from.

On a CPU, with the same number of threads, a run that was broken off anywhere and resumed ends with the same bits as an
unbroken one. On a GPU both agree as far as its kernels do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from rerankit.errors import InputError, ModelError, require
from rerankit.models.files import writing
from rerankit.training.checkpoint import write_weights
from rerankit.training.history import History
from rerankit.training.interrupts import Interrupts
from rerankit.training.optimizer import learning_rate, training_device
from rerankit.training.randomness import kept_random
from rerankit.training.state import State
from rerankit.training.task import Best, Moment, Progress, Report, SavesItself, Settings, Task

__all__ = ["fit"]

NO_BATCHES: Sequence[Any] = ()


def fit(
    task: Task, settings: Settings, folder: str | Path, *, resume: bool = True, progress: Progress | None = None
) -> Report:
    """Train a task's module and leave the best weights in it and in ``folder``.

    The untrained module is evaluated first, as step 0. The weights go to ``model.safetensors``, or where
    :class:`~rerankit.training.task.SavesItself` puts them; beside them come ``history.jsonl``, ``curves.png`` and
    ``checkpoint/last.safetensors``. A run that has ended is not done again: its report comes from the checkpoint.

    Args:
        task: what to train.
        settings: how.
        folder: where to; made if need be.
        resume: go on from the folder's checkpoint if it has one; False throws it away.
        progress: called after each step and each evaluation.

    Raises:
        InputError: the settings cannot be used here, the task has nothing to train, the checkpoint is of another run,
            or another process trains into the folder.
        ModelError: the checkpoint is damaged; or a loss, gradient or metric is not finite.
        StoreError: a file cannot be written.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written; its message says how to go on.
    """
    require("matplotlib", extra="train", purpose="Drawing the curves of a run")
    folder, device = Path(folder), training_device(settings)
    with _alone(folder), kept_random(device, settings.seed), Interrupts() as interrupts:
        run = _Run(task, settings, folder, device, interrupts, progress)
        run.begin(resume=resume)
        try:
            ending, best = run.train()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(run.stop()) from None
        except ModelError:
            run.close()
            raise
        return run.report(ending, best)


class _Run:
    """One run: a task, its state, and the folder it writes to."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        folder: Path,
        device: torch.device,
        interrupts: Interrupts,
        progress: Progress | None,
    ) -> None:
        self.task, self.settings, self.folder, self.device = task, settings, folder, device
        self.interrupts, self.progress = interrupts, progress
        self.state = State(task, settings, device)
        self.checkpoint = folder / "checkpoint" / "last.safetensors"
        self.history = History(folder / "history.jsonl")
        self.whole = True  # no step is half done
        self.known: tuple[int, Sequence[Any]] = (-1, NO_BATCHES)  # an epoch and its batches

    # Where a run begins and ends

    def begin(self, *, resume: bool) -> None:
        """Begin, or go on from the checkpoint."""
        if resume and self.checkpoint.is_file():
            self.state.restore(self.checkpoint)
            self.history.resume(self.state.place.step, self.state.place.evaluated)
        else:
            self.checkpoint.unlink(missing_ok=True)
            self.history.begin()
        self.started = time.monotonic() - self.state.place.seconds

    def train(self) -> tuple[str, Best]:
        """Train until the end; says which one it was, and the best evaluation."""
        while True:
            if self._evaluation_is_due():
                self._evaluate()
            if (end := self._end()) is not None:
                self.state.save(self.checkpoint)
                return end
            with self._whole():
                parts = self._step()
            self._tell(losses=parts)
            if self._is_every(self.settings.checkpoint_every):
                self.state.save(self.checkpoint)

    def stop(self) -> str:
        """Leave an interrupted run so that it can go on; returns what to tell the user."""
        if self.whole:
            self.state.save(self.checkpoint)
        self.close()
        known = f" Run the same again to go on from {self.checkpoint}." if self.checkpoint.is_file() else ""
        return f"Stopped after step {self.state.place.step}.{self._kept()}{known}"

    def close(self) -> None:
        """Put the best weights into the module and into the folder, and draw the curves."""
        from rerankit.training.curves import write_curves

        best = self.state.place.best
        if best is None:
            return
        self.state.use_best()
        if isinstance(self.task, SavesItself):
            self.task.save(self.folder)
        else:
            write_weights(self.folder / "model.safetensors", self.state.best_weights)
        write_curves(self.history.rows, best, self.folder / "curves.png")

    def report(self, ending: str, best: Best) -> Report:
        """End the run."""
        self.close()
        place = self.state.place
        return Report(
            folder=self.folder,
            settings=self.settings,
            steps=place.step,
            parameters=sum(p.numel() for p in self.state.parameters.values()),
            device=str(self.device),
            history=tuple(self.history.rows),
            best=best,
            seconds=place.seconds,
            ending=ending,
        )

    def _end(self) -> tuple[str, Best] | None:
        """Why the run is over, and its best evaluation; None while it goes on."""
        place, patience = self.state.place, self.settings.patience
        if place.best is None:  # the first evaluation comes before all else
            return None
        if place.epoch == self.settings.epochs:
            return "finished", place.best
        return ("patience", place.best) if patience is not None and place.waited >= patience else None

    # A step

    def _step(self) -> dict[str, float]:
        """One batch: losses, gradient, update, one row of history; returns the parts of the loss."""
        place, batches = self.state.place, self._batches()
        share = (place.epoch + (place.position + 0.5) / len(batches)) / self.settings.epochs
        losses = self._losses(batches[place.position], share)
        parts = self._checked(losses)
        rate = learning_rate(self.settings, share)
        norm = self._update(losses["loss"], rate, parts)
        row = {"step": place.step + 1, "epoch": place.epoch, "loss": parts, "lr": rate}
        place.step, place.position, place.batches = place.step + 1, place.position + 1, len(batches)
        if place.position == len(batches):
            place.epoch, place.position = place.epoch + 1, 0
        self._add({**row, "norm": norm if math.isfinite(norm) else None})
        return parts

    def _losses(self, batch: Any, share: float) -> dict[str, Tensor]:
        self.state.module.train()
        dtype, mixed = getattr(torch, self.settings.dtype), self.settings.dtype != "float32"
        with torch.autocast(self.device.type, dtype, enabled=mixed):
            losses = dict(self.task.loss(batch, share))
        total = losses.get("loss")
        if total is None or total.numel() != 1 or not total.requires_grad:
            raise InputError("The task's loss() must give {'loss': a scalar that depends on the trained parameters}")
        return losses

    def _checked(self, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """The parts of the loss as numbers, all finite."""
        parts = {name: float(value.detach()) for name, value in losses.items()}
        if not all(map(math.isfinite, parts.values())):
            self._fail("the loss is not finite", parts)
        return parts

    def _update(self, loss: Tensor, rate: float, parts: Mapping[str, float]) -> float:
        """Go down the gradient; returns its norm before clipping."""
        optimizer, scaler = self.state.optimizer, self.state.scaler
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(scaler.scale(loss))
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(self.state.parameters.values(), self.settings.clip))
        if not math.isfinite(norm) and not scaler.is_enabled():  # the scaler skips such a step and scales less
            self._fail("the gradient is not finite", parts)
        for group in optimizer.param_groups:
            group["lr"] = rate
        scaler.step(optimizer)
        scaler.update()
        return norm

    def _fail(self, what: str, parts: Mapping[str, float]) -> NoReturn:
        listed = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        raise ModelError(
            f"Training stopped at step {self.state.place.step + 1}: {what} ({listed}).{self._kept()} "
            "Try a lower learning rate, more warmup or float32, and start anew with resume=False (--fresh)"
        )

    def _kept(self) -> str:
        best = self.state.place.best
        if best is None:
            return ""
        return f" The best weights so far ({best.metric} {best.value:.4g} at step {best.step}) are in {self.folder}."

    def _batches(self) -> Sequence[Any]:
        """The batches of the epoch that the next step is in."""
        place = self.state.place
        if self.known[0] != place.epoch:
            with kept_random(self.device):
                batches = self.task.batches(place.epoch, np.random.default_rng([self.settings.seed, place.epoch]))
            if place.position and len(batches) != place.batches:
                raise InputError(
                    f"The checkpoint {self.checkpoint} is of another run: epoch {place.epoch} had {place.batches} "
                    f"batches, it has {len(batches)}. Start anew with resume=False (--fresh)"
                )
            if not len(batches):
                raise InputError(f"The task has no batch in epoch {place.epoch}")
            self.known = (place.epoch, batches)
        return self.known[1]

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Ctrl-C waits for the end; pressed twice it does not, and then this is no state to go on from."""
        with self.interrupts.held():
            self.whole = False
            yield
            self.whole = True

    # Evaluation

    def _evaluation_is_due(self) -> bool:
        place = self.state.place
        regular = place.step == 0 or self._end() is not None or self._is_every(self.settings.evaluate_every)
        return regular and place.evaluated != place.step

    def _is_every(self, steps: int | None) -> bool:
        place = self.state.place
        return place.position == 0 if steps is None else place.step % steps == 0

    def _evaluate(self) -> None:
        """Measure, without a trace in the random numbers of the training."""
        self.state.module.eval()
        with kept_random(self.device), torch.no_grad():
            metrics = {name: float(value) for name, value in self.task.evaluate().items()}
        if not metrics or not all(map(math.isfinite, metrics.values())):
            raise ModelError(f"The task's evaluate() gave no finite metrics at step {self.state.place.step}: {metrics}")
        with self._whole():
            self._book(metrics)
        self._tell(metrics=metrics)

    def _book(self, metrics: dict[str, float]) -> None:
        place, name = self.state.place, next(iter(metrics))
        place.evaluated, place.waited = place.step, place.waited + 1
        if place.best is None or metrics[name] > place.best.value:
            place.waited = 0
            self.state.keep_as_best(Best(name, metrics[name], place.step, metrics))
        self._add({"step": place.step, "epoch": place.epoch, "metrics": metrics})

    def _add(self, row: Mapping[str, Any]) -> None:
        self.state.place.seconds = time.monotonic() - self.started
        self.history.add({**row, "seconds": round(self.state.place.seconds, 3)})

    def _tell(self, **news: Mapping[str, float]) -> None:
        if self.progress is not None:
            place = self.state.place
            left = self.settings.epochs - place.epoch
            steps = place.step + (left * len(self._batches()) - place.position if left else 0)
            self.progress(Moment(place.step, steps, place.epoch, best=place.best, **news))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process from training into the same folder."""
    with writing(folder):
        (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "checkpoint" / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"Another process trains into {folder}; wait for it, or name another folder") from None
    try:
        yield
    finally:
        lock.release()
