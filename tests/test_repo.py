"""What the repository promises: public names, a light import, a typed wheel, no trace of a machine."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rerankit

ROOT = Path(__file__).parents[1]

PUBLIC = {
    "BackendError", "Calibrator", "Cascade", "ChromaRetriever", "Compressed", "Fusion", "Hit", "InputError",
    "Listwise", "MissingExtraError", "ModelError", "Pairwise", "Passage", "PointwiseReranker", "RagPipeline", "Ranking",
    "Reranker", "RerankitError", "ScoreCache", "Span", "SpecError", "StoreError", "Usage", "load",
    "rerank_query_result",
}  # fmt: skip

HEAVY = ("torch", "transformers", "chromadb", "gradio", "openvino", "onnxruntime", "sklearn", "scipy", "bm25s", "rich")


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


def tracked_files() -> list[Path]:
    """What git knows or would add; every file where the tests run outside a checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in (ROOT / "rerankit").rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_public_names_are_pinned_and_all_there():
    assert set(rerankit.__all__) == PUBLIC
    assert len(rerankit.__all__) == len(PUBLIC)
    assert all(getattr(rerankit, name).__name__ == name for name in PUBLIC)
    assert set(dir(rerankit)) >= PUBLIC


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Rerankr"):
        _ = rerankit.Rerankr


@pytest.mark.parametrize("module", ["rerankit", "rerankit.spec", "rerankit.rerankers.base", "rerankit.cli"])
def test_import_brings_no_heavy_package(module):
    loaded = run_python("-c", f"import sys, {module}; print(*sys.modules)").stdout.split()
    assert [name for name in HEAVY if name in loaded and not (module == "rerankit.cli" and name == "rich")] == []


def test_import_takes_less_than_100_ms():
    def milliseconds() -> float:
        log = run_python("-X", "importtime", "-c", "import rerankit").stderr
        (line,) = [line for line in log.splitlines() if re.search(r"\|\s+rerankit$", line)]
        return int(line.split("|")[1]) / 1000

    assert min(milliseconds() for _ in range(5)) < 100


@pytest.mark.slow
def test_wheel_is_typed_and_carries_the_sample_corpus(tmp_path):
    run_python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"rerankit/py.typed", "rerankit/samples/farm/corpus.jsonl", "rerankit/cli/app.py"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks", "examples"))]


def test_license_is_the_apache_text():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_no_machine_paths_or_registry_hosts():
    hosts = ["files.python" + "hosted", "py" + "pi.org", "registry.npm" + "js", "deb.deb" + "ian"]
    wrong = re.compile(r"(?<![\w.~-])/(?:tmp|work|farm|root|home)/|" + "|".join(map(re.escape, hosts)))
    found = []
    for path in tracked_files():
        if path.suffix in {".png", ".gz", ".whl"}:
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if path != Path(__file__) and wrong.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip():.100}")
    assert found == []


def test_modules_stay_under_400_lines():
    sizes = {path: path.read_text("utf-8").count("\n") for path in (ROOT / "rerankit").rglob("*.py")}
    assert [f"{path.relative_to(ROOT)}: {size}" for path, size in sizes.items() if size >= 400] == []


def test_constraints_pin_every_requirement():
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    declared = re.findall(r'^ *"([A-Za-z0-9._-]+)(?:[\[>=<~! ]|")', _dependency_tables(), re.MULTILINE)
    declared += re.findall(r'(?<=[\[ ])"([A-Za-z0-9._-]+)[>=<~]', _dependency_tables())
    names = {re.sub(r"[._-]+", "-", name).lower() for name in declared} - {"rerankit", "rerankers"}
    assert len(names) > 20
    assert names <= pinned


def _dependency_tables() -> str:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return text[text.index("dependencies = [") : text.index("[project.scripts]")]
