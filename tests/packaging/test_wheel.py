"""What a user gets from `pip install hallmark` and `pip install hallmark[registry]`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import make_world
from tests.packaging.conftest import ROOT, Environment

HEAVY = ("torch", "diffusers", "sqlalchemy", "alembic", "fsspec", "safetensors", "flask")


@pytest.fixture(scope="module")
def verifier_only(install: Callable[[str], Environment]) -> Environment:
    return install("")


@pytest.fixture(scope="module")
def everything(install: Callable[[str], Environment]) -> Environment:
    return install("registry")


def test_wheel_holds_both_packages_the_migrations_and_the_builtins(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "verifier/cli.py" in names
    assert "registry/cli.py" in names
    assert "registry/_migrations/env.py" in names
    assert any(name.startswith("registry/_migrations/versions/") for name in names)
    assert "registry/builtins/flowers-ldm/1/model/model_index.json" in names
    assert "registry/builtins/flowers-ldm/1/network/network.onnx" in names
    assert "registry/console/templates/console/layout.html" in names
    assert "registry/console/assets/LICENCES.txt" in names
    sources = {path for package in ("registry", "verifier") for path in (ROOT / package).rglob("*.py")}
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= set(names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"registry", "verifier"}


@pytest.mark.parametrize("module", HEAVY)
def test_the_verifier_alone_brings_nothing_heavy(verifier_only: Environment, module: str) -> None:
    done = verifier_only.python(f"import {module}")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_the_verifier_alone_shows_its_help(verifier_only: Environment) -> None:
    done = verifier_only.run("verifier", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "check" in done.stdout
    assert "inspect" in done.stdout


def test_the_verifier_alone_checks_an_image(verifier_only: Environment, tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20)
    done = verifier_only.run("verifier", "check", world.save_image(7), "--bundle", world.bundle(), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["copies"][0]["id"] == world.copy_id(7)


def test_the_verifier_alone_writes_a_report(verifier_only: Environment, tmp_path: Path) -> None:
    world = make_world(tmp_path, keys=20)
    image, bundle, out = world.save_image(7), world.bundle(), tmp_path / "report"
    finding = tmp_path / "finding.json"
    finding.write_text(verifier_only.run("verifier", "check", image, "--bundle", bundle, "--json").stdout)
    made = ("verifier", "report", finding, "--bundle", bundle, "--out")
    done = verifier_only.run(*made, out.with_suffix(".html"))
    assert done.returncode == 0, done.stderr
    assert world.copy_id(7) in out.with_suffix(".html").read_text()
    done = verifier_only.run(*made, out.with_suffix(".pdf"))
    assert done.returncode == 2
    assert "hallmark[report]" in done.stderr


def test_the_verifier_alone_reads_all_formats_but_heic(verifier_only: Environment) -> None:
    done = verifier_only.run("verifier", "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [name for name, readable in json.loads(done.stdout)["formats"].items() if not readable] == ["HEIC"]
    assert "not HEIC" in verifier_only.run("verifier", "doctor").stdout


def test_the_verifier_alone_says_what_an_update_needs(verifier_only: Environment, tmp_path: Path) -> None:
    url, home = "https://registry.example", tmp_path / "home"
    done = verifier_only.run("verifier", "update", "--registry", url, "--home", home)
    assert done.returncode == 2
    assert "hallmark[update]" in done.stderr
    unknown = verifier_only.run("verifier", "check", "x.png", "--registry", url, "--home", home)
    assert (unknown.returncode, "nothing was fetched from" in unknown.stderr) == (2, True)


def test_every_module_of_the_verifier_loads_alone(verifier_only: Environment) -> None:
    done = verifier_only.python(
        "import importlib, pkgutil, verifier\n"
        "found = [m.name for m in pkgutil.walk_packages(verifier.__path__, 'verifier.')]\n"
        "names = [name for name in found if not name.endswith('__main__')]\n"
        "for name in names: importlib.import_module(name)\n"
        "print(len(names))"
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10


def test_the_registry_command_says_what_is_missing(verifier_only: Environment, tmp_path: Path) -> None:
    done = verifier_only.run("registry", "init", "--home", tmp_path / "home")
    assert done.returncode == 2
    assert "hallmark[registry]" in done.stderr
    assert "Traceback" not in done.stderr


def test_registry_init_and_model_add_from_the_installed_wheel(
    everything: Environment, tmp_path: Path
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = everything.run("registry", "init", "--home", home, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert (home / "registry.db").is_file()

    where = everything.python(
        "from registry.db import migrations_folder; print(migrations_folder())", elsewhere
    )
    assert Path(where.stdout.strip()).is_relative_to(everything.folder)

    arguments = ("add", "flowers", "--adapter", "latent-diffusion", "--weights", "builtin:flowers-ldm@1")
    done = everything.run("registry", "model", *arguments, "--home", home, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert list(elsewhere.iterdir()) == []
