"""The three distributions: what is in a wheel, that it says what it needs, and how little an import brings."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HOMES = {
    "llama_index": ("llama_index/postprocessor/rerankit", "llama-index-core<0.15"),
    "langchain": ("langchain_rerankit", "langchain-core<2.0.0"),
    "haystack": ("haystack_integrations/components/rankers/rerankit", "haystack-ai>="),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOMES)
def test_wheel(name, tmp_path):
    home, requirement = HOMES[name]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT / "integrations" / name, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (metadata,) = [archive.read(file).decode() for file in files if file.endswith("METADATA")]
    assert {f"{home}/__init__.py", f"{home}/py.typed"} <= files
    assert all(file.startswith(home) or ".dist-info/" in file for file in files)
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert f"Requires-Dist: {requirement}" in metadata
    assert "Requires-Dist: rerankit[" in metadata


@pytest.mark.parametrize(
    ("framework", "module"),
    [
        ("llama_index.core", "llama_index.postprocessor.rerankit"),
        ("langchain_core", "langchain_rerankit"),
        ("haystack", "haystack_integrations.components.rankers.rerankit"),
    ],
)
def test_an_import_loads_no_model_library(framework, module):
    code = f"import sys, {framework}; before = {{*sys.modules}}; import {module}; print(*{{*sys.modules}} - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "rerankit" in loaded
    assert not {"torch", "transformers", "chromadb"} & set(loaded)
