"""OpenVINO is imported without the part of it that reports."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from rerankit.models.backends import native_bfloat16

native_bfloat16()
import openvino.tools.ovc.telemetry_utils as utils

print(utils.tm.__name__, "openvino_telemetry" in sys.modules)
"""


def test_nothing_is_reported():
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "False"]
