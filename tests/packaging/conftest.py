"""The wheel, installed into environments that hold nothing but what it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Environment:
    """A virtual environment without pip whose packages are the wheel and its dependencies alone."""

    folder: Path

    def run(
        self, program: str, *arguments: str | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "HALLMARK_HOME", "HALLMARK_DATABASE_URL", "HALLMARK_TRUST")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        return subprocess.run(
            [str(self.folder / "bin" / program), *map(str, arguments)],
            cwd=cwd or self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def python(self, code: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-c", code, cwd=cwd)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """Install the wheel, with an extra or without ("").

    pip would fetch the dependencies again, gigabytes of them; instead exactly the distributions that
    the wheel's metadata asks for are linked from the environment that runs the tests.
    """

    def make(extra: str) -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        venv.create(folder, with_pip=False, symlinks=True)
        python = folder / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
        subprocess.run(
            [*pip, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True
        )
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = folder / "lib" / version / "site-packages"
        (installed,) = packages.glob("hallmark-*.dist-info")
        for name in _closure(Distribution.at(installed), {extra} if extra else set()):
            _link(distribution(name), packages)
        return Environment(folder)

    return make


def _closure(root: Distribution, extras: Iterable[str]) -> set[str]:
    """Names of all distributions that ``root`` needs on this platform."""
    found: set[str] = set()
    pending = [(root, frozenset(extras))]
    seen = set()
    while pending:
        current, wanted = pending.pop()
        for text in current.requires or []:
            requirement = Requirement(text)
            applies = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ({""} | wanted)
            )
            name = canonicalize_name(requirement.name)
            entry = (name, frozenset(requirement.extras))
            if applies and entry not in seen:
                seen.add(entry)
                found.add(name)
                pending.append((distribution(name), frozenset(requirement.extras)))
    return found


def _link(package: Distribution, packages: Path) -> None:
    source = Path(sysconfig.get_path("purelib"))
    for name in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
        target = packages / name
        if not target.exists():
            target.symlink_to(source / name)
