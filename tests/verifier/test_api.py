"""The Python API as docs/verifier-api.md shows it: every example runs, and prints what the page says."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import verifier
from tests.factories import make_world

PAGE = Path(__file__).resolve().parents[2] / "docs" / "verifier-api.md"
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)?", re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """(code, output as shown) of each example, in the page's order."""
    found = EXAMPLE.findall(PAGE.read_text())
    return [(code, re.sub(r"^ {4}", "", shown, flags=re.MULTILINE)) for code, shown in found]


def run(code: str, shown: str, names: dict[str, object], logged: bool = False) -> None:
    """Run an example and compare what it prints, or its end where a log goes to the same stream.

    ``...`` stands for anything.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), names)
    lines = printed.getvalue().splitlines(keepends=True)
    found = "".join(lines[-len(shown.splitlines()) :] if logged else lines)
    matches = doctest.OutputChecker().check_output(shown, found, doctest.ELLIPSIS)
    assert matches, f"{code}\nshould print\n{shown}\nand prints\n{found}"


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    world = make_world(tmp_path, keys=50)
    world.save_image(7, 1).rename(tmp_path / "suspect.png")
    world.save_image(7, 2).rename(tmp_path / "another.png")
    world.save_foreign(1).rename(tmp_path / "photograph.png")
    world.bundle("flowers.bundle")
    world.bundle("public.bundle", with_keys=False)
    (tmp_path / "opening.json").write_text(json.dumps(world.opening(7)))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    local = [(code, shown) for code, shown in examples() if "from_registry" not in code]
    assert len(local) == len(examples()) - 1 == 6
    for code, shown in local:
        run(code, shown, names)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_all_names_are_there_and_nothing_is_loaded_before_it_is_asked_for() -> None:
    assert set(verifier.__all__) <= set(dir(verifier))
    for name in verifier.__all__:
        assert isinstance(getattr(verifier, name), type)
    with pytest.raises(AttributeError, match="nobody"):
        _ = verifier.nobody
    heavy = ("numpy", "onnxruntime", "PIL", "click")
    code = f"import sys, verifier; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
