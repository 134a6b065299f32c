"""OpenVINO without its telemetry: merely importing it reports to its makers, from a process of its own."""

from __future__ import annotations

import sys
import threading
from typing import Any

from rerankit.errors import require

__all__ = ["import_openvino"]

_TELEMETRY = "openvino_telemetry"
_lock = threading.Lock()


def import_openvino(purpose: str) -> Any:
    """The package ``openvino``, which uses its own stub where the package that reports cannot be imported.

    A program that imported OpenVINO before has decided for itself, and afterwards nothing stays changed.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    with _lock:
        if "openvino" in sys.modules:
            return sys.modules["openvino"]
        before = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # makes its import fail
        try:
            return require("openvino", extra="openvino", purpose=purpose)
        finally:
            del sys.modules[_TELEMETRY]
            if before is not None:
                sys.modules[_TELEMETRY] = before
