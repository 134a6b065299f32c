"""The first inferences of a process, from many threads at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

# Switching threads often makes the meeting of two first inferences likely, which is rare otherwise.
PROGRAM = """
import faulthandler, sys, threading
import numpy as np
from rerankit.models.batching import Batch
from rerankit.models.embedded import embedder
from rerankit.models.encoder import TextEncoder

encoder = TextEncoder(embedder().engine.checkpoint.folder, backend="openvino")
forward = encoder.engine._backend
batch = Batch(np.ones((1, 8), np.int64), np.ones((1, 8), np.int64), np.zeros((1, 8), np.int64))
start = threading.Barrier(16)

def work():
    start.wait()
    forward(batch)

faulthandler.dump_traceback_later(40, exit=True)
sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("attempt", range(2))
def test_threads_that_begin_together_do_not_wait_for_each_other(attempt):
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
