"""The documentation site is built from the code as it is; a broken link or reference is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_is_whole(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    routes = (tmp_path / "site/reference/http.html").read_text()
    assert "POST /api/v1/keys" in routes
    assert "ProblemDetails" in routes
    commands = (tmp_path / "site/reference/registry.html").read_text()
    assert "registry bundle export" in commands
    python = (tmp_path / "site/reference/python.html").read_text()
    assert "from_bundle" in python
    assert ":class:" not in python
    assert (tmp_path / "site/models/flowers-ldm/1/samples.png").is_file()
    for page in (tmp_path / "site").rglob("*.html"):
        assert "fonts.googleapis.com" not in page.read_text(), page
