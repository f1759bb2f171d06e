"""The verifier as a single file, run where nothing of this checkout or its environment can be found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.factories import make_world
from tests.packaging.conftest import ROOT

LEFT_OUT = ("registry/", "torch/", "flask/", "sqlalchemy/", "onnx/", "pytest/")


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pyz") / "verifier.pyz"
    subprocess.run([sys.executable, ROOT / "deploy" / "verifier_pyz.py", "--out", out], check=True)
    return out


def run(pyz: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it in its own folder with the base Python (no virtual environment) and an empty environment."""
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    environment = {"SHIV_ROOT": str(pyz.parent / "unpacked"), "PATH": os.defpath, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(python), "-I", str(pyz), *map(str, arguments)],
        cwd=pyz.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_holds_the_verifier_and_nothing_of_the_registry(pyz: Path) -> None:
    names = [name.removeprefix("site-packages/") for name in zipfile.ZipFile(pyz).namelist()]
    assert "verifier/cli.py" in names
    assert [name for name in names if name.startswith(LEFT_OUT) or "providers_cuda" in name] == []


def test_it_checks_images(pyz: Path, tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20)
    bundle, image = world.bundle(), world.save_image(7)
    guarded = tmp_path / "same.tif"  # decoded in a process of its own, which must find its modules as well
    Image.open(image).save(guarded)
    done = run(pyz, "check", image, guarded, "--bundle", bundle, "--json", "--trust", world.registry)
    assert (done.returncode, done.stderr) == (0, "")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert [finding["copies"][0]["id"] for finding in findings] == [world.copy_id(7)] * 2
    (tmp_path / "finding.json").write_text(done.stdout)
    report = ("report", tmp_path / "finding.json", "--bundle", bundle, "--out", tmp_path / "report.pdf")
    assert run(pyz, *report).returncode == 0
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_it_knows_its_version_and_what_it_can_do(pyz: Path) -> None:
    found = json.loads(run(pyz, "doctor", "--json").stdout)
    assert found["packages"]["hallmark"]
    assert all(found["formats"].values())
    assert found["packages"]["faiss-cpu"]
