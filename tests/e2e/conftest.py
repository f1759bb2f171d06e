"""One small registry with the reference model, driven through the installed commands."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from registry.attribution.attacks import ATTACKS
from registry.demo.commands import json_objects

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
BUILTIN = ("--adapter", "latent-diffusion", "--weights", "builtin:flowers-ldm@1")


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> list[dict[str, Any]]:
        return json_objects(self.out)

    @property
    def error(self) -> str:
        """The one line in which a failed command says what was wrong."""
        assert "Traceback" not in self.err, self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


def command_environment(home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HALLMARK_")}
    return {**inherited, "HALLMARK_HOME": str(home), "OMP_NUM_THREADS": "1"}


def command(
    home: Path, program: str, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> Done:
    """Run an installed command on ``home``, whatever its exit code."""
    done = subprocess.run(
        [str(SCRIPTS / program), *map(str, arguments)],
        env={**command_environment(home), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def succeed(
    home: Path, program: str, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> Done:
    done = command(home, program, *arguments, environment=environment)
    assert done.code == 0, done.err
    return done


@dataclass(frozen=True)
class World:
    """A registry with two recipients, a delivered copy of Ada's, its images, and bundles."""

    folder: Path
    home: Path
    certificates: dict[str, dict[str, Any]]
    copy: Path
    images: list[Path]
    base_images: list[Path]
    bundle: Path

    def registry(self, *arguments: str | Path) -> Done:
        return command(self.home, "registry", *arguments)

    def verifier(self, *arguments: str | Path) -> Done:
        return command(self.home, "verifier", *arguments)

    def check(self, *arguments: str | Path, bundle: Path | None = None) -> Done:
        return self.verifier("check", *arguments, "--bundle", bundle or self.bundle, "--json")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    home, copy, bundle = folder / "home", folder / "ada", folder / "flowers.bundle"
    succeed(home, "registry", "init")
    succeed(home, "registry", "model", "add", "flowers", *BUILTIN)
    certificates = {}
    for name in ("ada", "bruno"):
        email = f"{name}@example.com"
        succeed(home, "registry", "recipient", "add", email)
        issued = succeed(home, "registry", "issue", "--model", "flowers", "--to", email)
        (certificates[name],) = issued.json
    issue = ("issue", "--model", "flowers", "--to", "bruno@example.com", "--count", "1000")
    succeed(home, "registry", *issue)
    succeed(home, "registry", "download", certificates["ada"]["copy_id"], "--out", copy)
    images, base_images = folder / "images", folder / "base"
    sample = ("sample", "-n", "4", "--seed", "7")
    succeed(home, "registry", *sample, "--copy", copy, "--out", images)
    (base,) = (home / "storage" / "models").iterdir()
    succeed(home, "registry", *sample, "--copy", base, "--out", base_images)
    succeed(home, "registry", "bundle", "export", "--out", bundle, "--with-keys", "--with-recipients")
    return World(
        folder,
        home,
        certificates,
        copy,
        sorted(images.glob("*.png")),
        sorted(base_images.glob("*.png")),
        bundle,
    )


def attacked(name: str, image: Path, out: Path) -> Path:
    """``image`` after the attack ``name``, saved in the folder ``out``."""
    with Image.open(image) as opened:
        result = ATTACKS[name](opened.convert("RGB"), np.random.default_rng(3))
    path = out / f"{name}-{image.name}"
    result.save(path)
    return path


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
