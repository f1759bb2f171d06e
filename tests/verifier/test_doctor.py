from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import onnx
import pytest

from verifier import doctor, guard
from verifier.devices import Device, start
from verifier.images import FORMATS


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verifier", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_it_says_what_is_installed_and_what_starts() -> None:
    done = run("--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["schema"] == "hallmark/doctor/1"
    assert found["packages"]["pillow"] == version("pillow")
    assert found["formats"] == dict.fromkeys(FORMATS, True)
    assert found["guard"] == ""
    assert found["processors"] >= 1
    devices = {device["device"]: device for device in found["devices"]}
    assert list(devices) == ["cpu", "cuda", "tensorrt"]
    assert devices["cpu"] == {"device": "cpu", "starts": True, "missing": "", "hint": ""}
    for kind in ("cuda", "tensorrt"):
        if not devices[kind]["starts"]:
            assert devices[kind]["missing"]
            assert "Install" in devices[kind]["hint"]
    if Path("/proc/cpuinfo").exists():
        assert set(found["vector_flags"]) <= set(Path("/proc/cpuinfo").read_text().split())
        assert found["vector_flags"]


def test_every_extra_is_looked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    of_the_registry = {"registry", "s3", "redis", "text", "peers", "dev"}
    extras = set(project["optional-dependencies"]) - of_the_registry
    assert extras == set(doctor.PACKAGES.values()) - {""}


def test_people_read_the_same() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "Hallmark verifier: ready"
    assert f"  package       pillow {version('pillow')}" in lines
    assert "  device        cpu starts" in lines
    assert "  images        " + ", ".join(FORMATS) in lines


def test_the_tiny_graph_is_a_graph_that_runs() -> None:
    onnx.checker.check_model(onnx.load_from_string(doctor._TINY))
    session, missing = start(doctor._TINY, Device("cpu"))
    assert missing == ""
    assert session.run(None, {"x": [21.0]})[0].tolist() == [42.0]


def test_an_installation_that_cannot_decode_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_PROGRAM", "raise SystemExit")
    guard._end_all()
    diagnosis = doctor.examine()
    assert not diagnosis.sound
    assert "does not start" in diagnosis.guard
    shown = [row.plain() for row in doctor.rows(diagnosis)]
    assert shown[0] == "Hallmark verifier: NOT READY"
    assert shown[-1].endswith(diagnosis.guard)
