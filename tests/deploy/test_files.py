from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from registry.cli import cli
from tests.deploy.files import DEPLOY, INSTALLED, SCRIPTS, UNITS, nginx_configuration, unit
from tests.servers import free_port, program

COMPOSE_SCHEMA = Path(__file__).with_name("compose_spec.json")
"""The schema of the Compose specification, from the package docker-compose 1.29.2 (Apache 2.0)."""

MOST_EXPOSED = 25
"""systemd's own measure of what a unit may do, 0 to 100."""


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def parsed_command(words: list[str]) -> None:
    """The command line parses: `registry` has such a command with such options."""
    with cli.make_context("registry", list(words), resilient_parsing=False) as context:
        name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        command.make_context(name, rest, parent=context).close()


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    configuration = nginx_configuration(tmp_path, free_port(), free_port(), tmp_path / "registry.sock")
    done = subprocess.run(
        [program("nginx", "nginx"), "-t", "-c", str(configuration), "-p", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "[warn]" in line or "[emerg]" in line]
    assert warnings == []


def test_no_location_of_nginx_loses_the_headers() -> None:
    """A location with an add_header of its own inherits none."""
    site = (DEPLOY / "nginx" / "hallmark.conf").read_text()
    assert not re.search(r"location[^{]*\{[^}]*add_header", site)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_units(name: str, tmp_path: Path) -> None:
    for other in UNITS:  # they refer to each other
        text = (DEPLOY / "systemd" / other).read_text().replace(INSTALLED, str(SCRIPTS))
        (tmp_path / other).write_text(text)
    done = subprocess.run(
        [program("systemd-analyze", "systemd"), "verify", "--man=no", str(tmp_path / name)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_systemd_calls_the_services_well_protected(name: str) -> None:
    path = DEPLOY / "systemd" / name
    done = subprocess.run(
        [
            *(program("systemd-analyze", "systemd"), "security", "--offline=true"),
            *(f"--threshold={MOST_EXPOSED}", str(path)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_units_start_commands_that_exist(name: str) -> None:
    (start,) = unit(name)["ExecStart"]
    words = shlex.split(start)
    assert words[0] == f"{INSTALLED}/registry"
    parsed_command(words[1:])


def test_compose_fits_the_specification() -> None:
    schema = json.loads(COMPOSE_SCHEMA.read_text())
    jsonschema.Draft201909Validator(schema).validate(compose())


def test_compose_refers_to_nothing_that_is_not_there() -> None:
    document = compose()
    for name, service in document["services"].items():
        for needed in service.get("depends_on", {}):
            assert needed in document["services"], name
            assert "healthcheck" in document["services"][needed] or needed == "registry", needed
        for network in service["networks"]:
            assert network in document["networks"], name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in document["volumes"] or source.startswith("./") or volume == "/tmp", (
                name,
                source,
            )


def test_compose_pins_images_and_holds_no_secret() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    for service in compose()["services"].values():
        assert re.search(r":\d[\w.-]*$", service["image"]), service["image"]
    asked = set(re.findall(r"\$\{(\w+):\?", text))
    offered = set(re.findall(r"^(\w+)=$", (DEPLOY / "environment.example").read_text(), re.MULTILINE))
    assert asked == offered
    for value in re.findall(r"(?i)(?:password|secret|token)\w*\"?: (.*)", text):
        assert value.startswith('"${') or "${" in value, value


def test_compose_shuts_the_registry_in() -> None:
    document = compose()
    exposed = {name for name, service in document["services"].items() if service.get("ports")}
    assert exposed == {"proxy"}
    for name in ("registry", "worker", "setup"):
        service = document["services"][name]
        assert service["user"] == "10001:10001"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", ["registry", "worker"])
def test_compose_starts_commands_that_exist(name: str) -> None:
    parsed_command(compose()["services"][name]["command"])


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_apart_and_runs_without_privileges() -> None:
    found = instructions()
    stages = [arguments for name, arguments in found if name == "FROM"]
    assert len(stages) == 2
    assert all(re.match(r"python:3\.\d+-slim-\w+", stage) for stage in stages)
    last = found[len(found) - [name for name, _ in reversed(found)].index("FROM") :]
    (user,) = [arguments for name, arguments in last if name == "USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    names = [name for name, _ in last]
    assert {"HEALTHCHECK", "ENTRYPOINT", "CMD", "VOLUME", "STOPSIGNAL"} <= set(names)
    assert not any(name == "ADD" or "curl" in arguments for name, arguments in found)
    assert not re.search(r"(?i)(password|secret|token)=", (DEPLOY / "Dockerfile").read_text())


def test_the_image_copies_what_there_is_and_starts_a_command_that_exists() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for name, arguments in instructions():
        if name == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                assert (DEPLOY.parent / source).exists(), source
                assert f"!{source}" in ignored, f"{source} does not reach the build"
    parts = dict(instructions())
    assert json.loads(parts["ENTRYPOINT"]) == ["registry"]
    parsed_command(json.loads(parts["CMD"]))
    check = parts["HEALTHCHECK"]
    words = json.loads(check[check.index("[") :])
    assert words[:2] == ["python", "-c"]
    compile(words[2], "HEALTHCHECK", "exec")
