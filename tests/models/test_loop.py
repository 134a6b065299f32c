"""The background loop: one for the process, a new one after a fork."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MANY = """
import sys, threading
from rerankit.models.loop import background_loop
sys.setswitchinterval(1e-6)
start, found = threading.Barrier(16), set()
def work():
    start.wait()
    found.add(background_loop())
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
running = sum(thread.name == "rerankit-network" for thread in threading.enumerate())
sys.exit(f"{len(found)} loops, {running} threads" if (len(found), running) != (1, 1) else 0)
"""

FORK = """
import os, sys, warnings
from rerankit.models import loop
warnings.simplefilter("ignore", DeprecationWarning)  # forking a process with threads, which is the point
async def one(): return 1
loop.run(one())
parent = loop.background_loop()
with loop._starting:  # another thread may be about to start one
    child = os.fork()
if child == 0:
    os._exit(0 if loop.run(one()) == 1 and loop.background_loop() is not parent else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or loop.background_loop() is not parent)
"""


def ended(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_threads_that_come_first_together_share_one_loop():
    assert ended(MANY) == (0, "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_loop_of_its_own():
    assert ended(FORK) == (0, "")
