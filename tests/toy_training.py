"""A small ranking task that uses every source of randomness, and a program that trains it and can be killed.

Run as a program: ``python toy_training.py FOLDER SETTINGS_JSON KILL_AT_STEP``; it writes each step to stdout.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import typer
from torch import nn

from rerankit.training.loop import fit
from rerankit.training.task import Settings

LISTS, LENGTH, WIDTH, BATCH = 48, 6, 5, 8
STEPS = LISTS // BATCH
"""Steps per epoch."""


class CrashError(Exception):
    """Breaks a run off without a word, as a crash does."""


def crash_at(step):
    """The progress of a run that crashes after a step."""

    def watch(moment):
        if moment.step == step and moment.losses:
            raise CrashError

    return watch


class Scorer(nn.Module):
    """Frozen projection, batch normalisation (buffers), dropout, a gate that starts at zero."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(WIDTH, 12).requires_grad_(False)
        self.norm = nn.BatchNorm1d(12)
        self.dropout = nn.Dropout(0.2)
        self.hidden = nn.Linear(12, 12)
        self.head = nn.Linear(12, 1)
        self.gate = nn.Parameter(torch.zeros(1, 1))

    def forward(self, x):
        """``[b, n, width]`` to scores ``[b, n]``: the first feature, and what is learned on top."""
        state = self.norm(self.frozen(x).flatten(0, 1)).unflatten(0, x.shape[:2])
        learned = self.head(torch.relu(self.hidden(self.dropout(state))))
        return x[..., 0] + (self.gate * learned)[..., 0]


class ToyTask:
    """Order vectors by a hidden direction; the first feature, which the untrained model sorts by, knows a part."""

    fingerprint = "toy lists, 1"

    def __init__(self):
        generator = torch.Generator().manual_seed(7)
        self.x = torch.randn(2 * LISTS, LENGTH, WIDTH, generator=generator)
        self.y = self.x @ torch.tensor([0.5, 1.0, -1.0, 0.7, 0.3])
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.module = Scorer()
        self.orders: list[list[int]] = []

    def batches(self, epoch, generator):
        order = generator.permutation(LISTS)
        self.orders.append(order.tolist())
        return [order[i : i + BATCH] for i in range(0, LISTS, BATCH)]

    def loss(self, batch, progress):
        noise = 0.01 * (torch.randn(1) + random.random() + np.random.rand())  # noqa: NPY002
        scores = self.module(self.x[batch] + noise)
        wanted = torch.softmax(self.y[batch], dim=-1)
        entropy = -(wanted * torch.log_softmax(scores, dim=-1)).sum(-1).mean()
        size = scores.square().mean()
        return {"loss": entropy + 0.001 * (1 - progress) * size, "entropy": entropy, "size": size}

    def evaluate(self):
        torch.rand(3)  # measuring may draw numbers too
        scores = self.module(self.x[LISTS:])
        hits = (scores.argmax(-1) == self.y[LISTS:].argmax(-1)).double().mean()
        return {"hit@1": float(hits), "spread": float(scores.std())}


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same_bits(one, other):
    """Whether two sets of weights are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def without_time(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def _main(folder, settings, kill_at):
    from rerankit.cli.training_progress import training_progress

    signal.signal(signal.SIGINT, lambda *_: sys.exit(1))  # the command line has a handler of its own

    with training_progress() as show:

        def watch(moment):
            show(moment)
            if moment.losses:
                print(moment.step, flush=True)  # noqa: T201
                if moment.step == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.02)

        fit(ToyTask(), Settings(**settings), folder, progress=watch)


if __name__ == "__main__":
    try:
        _main(Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]))
    except typer.Exit as end:
        sys.exit(end.exit_code)
