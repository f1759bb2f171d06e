"""Every command of the tutorials, run in their order by one shell; its output is compared with the page's.

In a block ```console a line `$ ...` is a command, the lines below it are its output. `...` stands for
anything, as in doctest. A command must end with 0.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers import free_port, program

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
ORDER = ("distributor", "recipient", "auditor", "admin")
PROGRAMS = ("bash", "curl", "jq", "ssh-keygen", "tar")
PACKAGES = {"ssh-keygen": "openssh-client"}


@dataclass(frozen=True)
class Step:
    """A command and the output that the page shows for it."""

    line: int
    command: str
    shown: str


def steps(page: Path) -> Iterator[Step]:
    text = page.read_text()
    for block in re.finditer(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, block.start()) + 2
        for part in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.MULTILINE):
            yield Step(first + block[1].count("\n", 0, part.start()), part[1], part[2])


def fits(said: str, shown: str) -> bool:
    """Whether ``said`` is what ``shown`` describes; nothing shown means that nothing is said."""
    return (
        re.fullmatch(".*".join(map(re.escape, shown.strip().split("..."))), said.strip(), re.DOTALL)
        is not None
    )


class Shell:
    """A bash that stays, with its variables and background programs, from page to page."""

    def __init__(self, folder: Path, port: int) -> None:
        scripts = sysconfig.get_path("scripts")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HALLMARK_")}
        own = {"HOME": str(folder), "PATH": f"{scripts}:{inherited['PATH']}", "OMP_NUM_THREADS": "1"}
        own |= {"HALLMARK_URL": f"http://127.0.0.1:{port}"}
        self._port = str(port)
        self._errors = folder.parent / "errors.txt"
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env={**inherited, **own},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, command: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        mark = secrets.token_hex(8)
        own = command.replace("8080", self._port)
        self._bash.stdin.write(f"{{ {own}\n}} 2>{shlex.quote(str(self._errors))}; echo; echo {mark} $?\n")
        self._bash.stdin.flush()
        said = []
        for line in self._bash.stdout:
            if line.startswith(mark):
                output = "".join(said).removesuffix("\n").replace(self._port, "8080")
                return int(line.split()[1]), output, self._errors.read_text()
            said.append(line)
        raise AssertionError(f"the shell ended during: {command}")

    def close(self) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write("kill $(jobs -p); wait\n")
        self._bash.stdin.close()
        self._bash.wait(timeout=60)
        assert self._bash.stdout is not None
        self._bash.stdout.close()


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    for name in PROGRAMS:
        program(name, PACKAGES.get(name, name))
    folder = tmp_path_factory.mktemp("tutorial") / "work"
    folder.mkdir()
    opened = Shell(folder, free_port())
    yield opened
    opened.close()


@pytest.mark.timeout(900)  # a page draws images and checks them; a busy machine takes its time
@pytest.mark.parametrize("name", ORDER)
def test_every_command_does_what_the_page_says(shell: Shell, name: str) -> None:
    page = TUTORIALS / f"{name}.md"
    found = list(steps(page))
    assert len(found) >= 8
    for step in found:
        code, output, errors = shell.run(step.command)
        where = f"{page.name}:{step.line}: {step.command}"
        assert code == 0, f"{where}\nended with {code}\n{output}\n{errors}"
        assert "Traceback" not in errors, f"{where}\n{errors}"
        assert fits(output, step.shown), f"{where}\nsaid\n{output}\nnot\n{step.shown}"


def test_what_is_compared() -> None:
    assert fits("a copy-1f\nb\n", "a copy-...\nb\n")
    assert not fits("a copy-1f\nb\n", "a copy-...\nc\n")
    assert fits("", "")
    assert not fits("something", "")
